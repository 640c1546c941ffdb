"""What a pipeline does with conditions: generate, impute, predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.profiler import record_function

from ..blocks import mix
from ..latents import encode_latents, to_dataset
from ..records import Field, RecordSchema
from ..records.field import naming_column
from ..records.field_tokens import FieldTokens
from .allowed import Condition
from .balance import Shares, balanced_rows
from .documents import DocumentCondition, Score, generate_documents
from .guidance import Guidance, Guide
from .resampling import GROUP_SIZE, MAX_CANDIDATES, choose_candidates, resample


class ConditionalGenerationMixin:
    """What [`DiffLMPipeline`] does with conditions."""

    def stream(
        self,
        num_records: int | None = None,
        *args,
        conditions: Mapping[str, Any] | pd.DataFrame | None = None,
        where: str | None = None,
        balance: Shares | None = None,
        score: Score | None = None,
        guidance_scale: float = 1.0,
        guides: Sequence[Guide] = (),
        **kwargs,
    ) -> Iterator[pa.RecordBatch]:
        """
        As [`~difflm_hf.blocks.BlockwisePipeline.stream`], with conditions.

        Args:
            num_records, args, kwargs: As there.
            conditions, where, balance, score, guidance_scale, guides: As in the call.
        """
        Guidance(scale=guidance_scale, guides=guides)  # which says what is wrong with them
        condition = self.make_condition(conditions, where, balance, num_records, guides, score)
        if condition is not None:
            kwargs |= {"condition": condition, "guidance_scale": guidance_scale, "guides": guides}
        return super().stream(self._num_records(num_records, condition), *args, **kwargs)

    def make_condition(
        self,
        conditions: Mapping[str, Any] | pd.DataFrame | None = None,
        where: str | None = None,
        balance: Shares | None = None,
        num_records: int | None = None,
        guides: Sequence[Guide] = (),
        score: Score | None = None,
    ) -> Condition | DocumentCondition | None:
        """Conditions as the call takes them, for the codec; `None` for none. Raises what the call does."""
        if not self.processor.codec.has_fixed_layout:
            if balance is not None or guides:
                raise ValueError("balance and guides are for rows of tables, and these are documents; give a score")
            if conditions is None and where is None and score is None:
                return None
            return DocumentCondition.of_fields(self.processor, conditions, where, score)
        if score is not None:
            raise ValueError("score is for documents, and these records are rows of tables; use conditions and where")
        if conditions is None and where is None and balance is None:
            return Condition.free(self._compact_codec()) if guides else None
        codec = self._compact_codec()
        if balance is not None:
            if where is not None:
                raise ValueError("where and balance do not go together; give what is known of all as conditions")
            num_rows = len(conditions) if isinstance(conditions, pd.DataFrame) else num_records or 1
            rows = balanced_rows(codec, balance, num_rows)
            if conditions is not None:
                given = conditions if isinstance(conditions, pd.DataFrame) else Condition.known_row(codec, conditions)
                if both := [name for name in rows if name in given]:
                    raise ValueError(f"column {both[0]!r} is balanced, and has a condition; leave one of them out")
                for name in given:
                    rows[name] = given[name].tolist() * (num_rows if len(given) == 1 else 1)
            conditions = rows
        if not isinstance(conditions, pd.DataFrame):
            return Condition.of_fields(codec, conditions, where)
        if where is not None:
            raise ValueError("where is for all records alike, and a table has conditions for each; give one of them")
        return Condition.of_table(codec, conditions)

    def _num_records(self, num_records: int | None, condition: Condition | DocumentCondition | None) -> int:
        if num_records is not None and (isinstance(num_records, bool) or not isinstance(num_records, Integral)):
            raise ValueError(f"num_records={num_records!r} is not a positive integer")
        num_rows = None if condition is None else condition.num_rows
        if num_rows is not None and num_records not in (None, num_rows):
            raise ValueError(f"num_records={num_records}, and there are conditions for {num_rows}; leave it out")
        return num_rows or (1 if num_records is None else num_records)

    def generate_block(
        self,
        seed: int,
        block: int,
        *args,
        condition: Condition | DocumentCondition | None = None,
        guidance_scale: float = 1.0,
        guides: Sequence[Guide] = (),
        num_records: int | None = None,
        **kwargs,
    ) -> pd.DataFrame:
        """
        As [`~difflm_hf.blocks.BlockwisePipeline.generate_block`], of records that satisfy a condition if there is one.

        Args:
            seed, block, args, num_records, kwargs: As there.
            condition ([`Condition`] or [`DocumentCondition`], *optional*): What the records satisfy.
            guidance_scale, guides (*optional*): As in the call.
        """
        if condition is None:
            return super().generate_block(seed, block, *args, num_records=num_records, **kwargs)
        if isinstance(condition, DocumentCondition):
            return generate_documents(self, condition, seed, block, num_records, *args, **kwargs)
        num_records = self.config.block_size if num_records is None else num_records
        guidance = Guidance(self.vae.decoder.condition(condition.allowed), guidance_scale, guides)
        tables = []
        for start in range(0, num_records, GROUP_SIZE):
            first = block * self.config.block_size + start
            tables.append(self._generate_group(condition, guidance, mix(seed, block, start), first, **kwargs))
        return pd.concat(tables, ignore_index=True).iloc[:num_records]

    def _generate_group(
        self,
        condition: Condition,
        guidance: Guidance,
        seed: int,
        start: int,
        num_inference_steps: int = 12,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> pd.DataFrame:
        """A group of records that satisfy a condition, those from `start` on where there is one for each."""
        is_for_all = condition.num_rows is None
        allowed = condition.allowed if is_for_all else condition.allowed.rows(start, GROUP_SIZE)
        size = GROUP_SIZE if is_for_all else len(allowed.ids)
        if not is_for_all and guidance.condition is not None:
            guidance = replace(guidance, condition=guidance.condition[start : start + GROUP_SIZE])
        is_free = not (condition.allowed.is_known.any() or condition.allowed.log_shares)
        max_candidates = MAX_CANDIDATES if temperature == top_p == 1 and not is_free else 1
        tables: list[pd.DataFrame] = []

        def draw(round_: int) -> np.ndarray:
            generator = torch.Generator().manual_seed(mix(seed, round_))
            with record_function("difflm::latents"):
                latents = self.generate_latents(
                    GROUP_SIZE, num_inference_steps, generator, callback_on_step_end, size, guidance
                ).to(self.vae.decoder.device)
            offsets = torch.rand(GROUP_SIZE, self.processor.num_offsets, generator=generator, dtype=torch.float64)

            def candidates() -> tuple[torch.Tensor, ...]:
                uniforms = torch.rand(GROUP_SIZE, self.vae.config.max_record_length - 1, generator=generator)[:size]
                step = batch_size or self.default_batch_size
                batches = [
                    self.vae.decoder.sample_allowed(
                        z, u, allowed if is_for_all else allowed.rows(k * step, len(z)), temperature, top_p
                    )
                    for k, (z, u) in enumerate(zip(latents.split(step), uniforms.split(step)))
                ]
                ids = pad_sequence([row for ids, *_ in batches for row in ids], True, self.processor.special_ids[2])
                return ids, *(torch.cat(parts).double() for parts in zip(*(weights for _, *weights in batches)))

            ids, log_weights = choose_candidates(candidates, max_candidates, generator)
            with record_function("difflm::records"):
                ids = ids.cpu().numpy()
                placed = condition.place(ids, offsets[:size].numpy(), start)
                tables.append(self.processor.decode_records(ids, placed)[0])
            return np.where(condition.holds(tables[-1]), log_weights.cpu().numpy(), -np.inf)

        if not is_for_all:
            draw(0)
            return tables[0]
        offset = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).item()
        chosen, _ = resample(draw, size, offset)
        return pd.concat(tables, ignore_index=True).iloc[chosen]

    @torch.no_grad()
    def impute(
        self,
        table: pd.DataFrame,
        num_imputations: int = 1,
        aggregate: Literal["draw", "mean"] = "draw",
        num_inference_steps: int = 12,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> pd.DataFrame | list[pd.DataFrame]:
        """
        Fills what is missing of a table, given the rest of each row, and touches nothing else.

        Args:
            table (`pandas.DataFrame`): Rows with all columns of the records; nulls are missing.
            num_imputations (`int`, defaults to 1): Draws.
            aggregate (`str`, defaults to `"draw"`):
                `"draw"`: each draw is a table. `"mean"`: one table, with the means of numbers and datetimes, and of
                all else the most frequent values.
            num_inference_steps, batch_size, generator: As in the call.

        Returns:
            `pandas.DataFrame` with the order, index, columns and dtypes of `table`; of several draws that are not
            aggregated a list of them.

        Raises:
            `ValueError`: for an empty table, for columns that the model does not know or that are missing, and for
                values of another type. The message names the column.
        """
        if aggregate not in ("draw", "mean"):
            raise ValueError(f"aggregate={aggregate!r} is neither 'draw' nor 'mean'")
        self.check_inputs(num_imputations, num_inference_steps, 1.0, 1.0, batch_size, "pandas")
        condition = self._condition_of_gaps(table)
        sampling = {"num_inference_steps": num_inference_steps, "batch_size": batch_size, "condition": condition}
        draws = [
            pd.concat(self._generate_blocks(len(table), sampling, generator), ignore_index=True)
            for _ in range(num_imputations)
        ]
        if aggregate == "mean":
            draws = [_aggregate(draws, self.processor.schema)]
        filled = [_fill(table, draw) for draw in draws]
        return filled if len(filled) > 1 else filled[0]

    @torch.no_grad()
    def log_prob(
        self,
        records: Any,
        num_latents: int = 16,
        batch_size: int = 1024,
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """
        A lower bound of log p(x) of records under the autoencoder, in nats: the logarithm of the mean of
        p(x|z) p(z) / q(z|x) over latents from q(z|x) (arXiv 1509.00519, eq. 8), which comes nearer to it the more
        there are. It is that of a record's ids, and not of where inside their steps numbers lie. Low values are
        outliers.

        Args:
            records (`pandas.DataFrame` or anything that the processor takes): The records.
            num_latents (`int`, defaults to 16): Latents of each record.
            batch_size (`int`, defaults to 1024): Records at a time.
            generator (`torch.Generator`, *optional*): For the same numbers again.

        Returns:
            `np.ndarray` of shape `(num_records,)`.

        Raises:
            `ValueError`: for records of documents, and for values that the codec has no ids for.
        """
        self._compact_codec()
        inputs, bounds = self.processor(self.processor.schema.conform(records)), []
        noise = torch.randn(len(inputs["input_ids"]), num_latents, self.vae.config.latent_size, generator=generator)
        masks = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        for ids, mask, eps in zip(*(t.split(batch_size) for t in (inputs["input_ids"], masks, noise))):
            ids, mask, eps = (t.to(self.vae.device) for t in (ids, mask, eps))
            mean, logvar = self.vae.encode(ids, mask)
            terms = []
            for k in range(num_latents):
                latents = mean + (0.5 * logvar).exp() * eps[:, k]
                # log N(z; 0, 1) − log N(z; μ, σ²), in which the constants cancel
                log_ratio = 0.5 * (eps[:, k].square() + logvar - latents.square()).sum(1)
                terms.append(log_ratio - self.vae.decoder.negative_log_likelihood(ids, latents, mask))
            bounds.append(torch.stack(terms).double().logsumexp(0) - math.log(num_latents))
        return torch.cat(bounds).cpu().numpy()

    @torch.no_grad()
    def vary(
        self,
        records: Any,
        strength: float = 0.5,
        num_inference_steps: int = 12,
        generator: torch.Generator | None = None,
    ) -> pd.DataFrame:
        """
        Variations of records: their latents are brought to an intermediate noise level and back, as in SDEdit
        (arXiv 2108.01073).

        Args:
            records (`pandas.DataFrame` or anything that the processor takes): The records.
            strength (`float`, defaults to 0.5):
                The share of the steps that are taken back: 0 only encodes and decodes, 1 starts from noise alone.
            num_inference_steps, generator: As in the call.

        Returns:
            `pandas.DataFrame`: A variation of each record.

        Raises:
            `ValueError`: for a strength that is not between 0 and 1, for records of documents, and for values that the
                codec has no ids for.
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"strength={strength!r} is not between 0 and 1")
        self._compact_codec()
        posteriors = encode_latents(self.vae, to_dataset(self.processor, self.processor.schema.conform(records)))
        num_records, tables = len(posteriors), []
        device = None if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        for start in range(0, num_records, GROUP_SIZE):
            group = torch.Generator().manual_seed(mix(seed, start))
            part = posteriors[slice(start, start + GROUP_SIZE)]
            size = len(part["mean"])
            noise = torch.randn(2, GROUP_SIZE, self.vae.config.latent_size, generator=group)[:, :size]
            latents = self.renoise_latents(
                part["mean"] + part["std"] * noise[0], noise[1], strength, num_inference_steps, group
            )
            uniforms = torch.rand(GROUP_SIZE, self.vae.config.max_record_length - 1, generator=group)[:size]
            offsets = torch.rand(GROUP_SIZE, self.processor.num_offsets, generator=group, dtype=torch.float64)[:size]
            tables.append(self.decode_latents(latents, uniforms, offsets)[0])
        return pd.concat(tables, ignore_index=True)

    @torch.no_grad()
    def predict(
        self,
        table: pd.DataFrame,
        target: str,
        num_latents: int = 16,
        num_inference_steps: int = 12,
        generator: torch.Generator | None = None,
    ) -> pd.DataFrame:
        """
        The probabilities of the values of a category or a boolean, given the rest of each row.

        Args:
            table (`pandas.DataFrame`): Rows; the target may be missing, and is not looked at.
            target (`str`): The field.
            num_latents (`int`, defaults to 16): Latents of each row that the probabilities are means over.
            num_inference_steps, generator: As in the call.

        Returns:
            `pandas.DataFrame` with the index of `table` and a column for each value.

        Raises:
            `ValueError`: for a target that is no category, and as of [`~ConditionalGenerationMixin.impute`].
        """
        codec, decoder = self._compact_codec(), self.vae.decoder
        self.check_inputs(1, num_inference_steps, 1.0, 1.0, None, "pandas")
        if isinstance(num_latents, bool) or not isinstance(num_latents, Integral) or num_latents < 1:
            raise ValueError(f"num_latents={num_latents!r} is not a positive integer")
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"a pandas.DataFrame is to be predicted from, not {type(table).__name__}")
        if not isinstance(target, str) or target not in codec.tokens or codec.tokens[target].grid is not None:
            raise ValueError(
                f"target={target!r} is no category or boolean of the records, which have {codec.schema.names}"
            )
        condition = self._condition_of_gaps(table.assign(**{target: None}))
        position, (f, t) = list(codec.tokens).index(target), (codec.schema[target], codec.tokens[target])
        device = None if generator is None else generator.device
        seed, probabilities = int(torch.randint(2**62, (), generator=generator, device=device)), []
        for start in range(0, len(table), GROUP_SIZE):
            allowed = condition.allowed.rows(start, GROUP_SIZE)
            size, known, total = len(allowed.ids), decoder.condition(allowed), 0.0
            for k in range(num_latents):
                group = torch.Generator().manual_seed(mix(seed, start, k))
                latents = self.generate_latents(GROUP_SIZE, num_inference_steps, group, None, size, Guidance(known))
                uniforms = torch.rand(GROUP_SIZE, self.vae.config.max_record_length - 1, generator=group)[:size]
                latents = latents.to(decoder.device)
                ids, *_ = decoder.sample_allowed(latents, uniforms, allowed)
                logits = decoder.next_logits(ids[:, : 1 + position], latents, known, position)
                total = total + logits[:, f.nullable :].softmax(-1)
            probabilities.append((total / num_latents).cpu().numpy())
        return pd.DataFrame(np.concatenate(probabilities), index=table.index, columns=t.values)

    def _compact_codec(self) -> Any:
        codec = self.processor.codec
        if not codec.has_fixed_layout:
            raise ValueError("this is for rows of tables, and these are documents, which take conditions and a score")
        return codec

    def _condition_of_gaps(self, table: pd.DataFrame) -> Condition:
        codec = self._compact_codec()
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"a pandas.DataFrame is to be filled, not {type(table).__name__}")
        if len(table) == 0:
            raise ValueError("the table has no rows to fill")
        names = codec.schema.names
        if unknown := [name for name in table.columns if name not in names]:
            raise ValueError(f"no field {unknown[0]!r}, which the model would know; drop the column. It knows {names}")
        if missing := [name for name in names if name not in table.columns]:
            raise ValueError(f"column {missing[0]!r} is missing; add it, with None where nothing is known")
        if not table.columns.is_unique:
            raise ValueError(
                f"column {table.columns[table.columns.duplicated()][0]!r} is there twice; drop one of them"
            )
        for name, t in codec.tokens.items():
            if table[name].isna().any():
                with naming_column(name):
                    _fits(table[name], codec.schema[name], t)
        return Condition.of_gaps(codec, table)


def _fits(column: pd.Series, f: Field, t: FieldTokens) -> None:
    """Raises an error where values of a field cannot stand in a column."""
    if column.isna().all():
        return
    if t.grid is None:
        values = pd.Series(t.values, dtype=object)
    else:
        ends = t.grid.decode(f, np.array([0, t.grid.size // 2, t.grid.size - 1], np.uint64))
        values = f.to_series(ends, np.zeros(3, bool)).astype(object)
    try:
        _to_dtype(values, column.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"dtype {column.dtype} does not hold {f.description} ({error}); convert the column"
        ) from error


def _to_dtype(values: pd.Series, dtype: Any) -> pd.Series:
    """Values in a dtype, which gets the categories that it lacks."""
    if isinstance(dtype, pd.CategoricalDtype):
        lacking = [value for value in pd.unique(values.dropna()) if value not in dtype.categories]
        dtype = pd.CategoricalDtype([*dtype.categories, *lacking], dtype.ordered)
    return values.astype(dtype)


def _fill(table: pd.DataFrame, draw: pd.DataFrame) -> pd.DataFrame:
    filled = table.copy()
    for name in table.columns:
        gaps = table[name].isna().to_numpy()
        if gaps.any():
            values = table[name].astype(object).to_numpy(copy=True)
            values[gaps] = draw[name].astype(object).to_numpy()[gaps]
            column = pd.Series(values, index=table.index, dtype=object)
            filled[name] = _to_dtype(column, draw[name].dtype if gaps.all() else table[name].dtype)
    return filled


def _aggregate(draws: list[pd.DataFrame], schema: RecordSchema) -> pd.DataFrame:
    table = draws[0].copy()
    for f in schema:
        columns = pd.concat([draw[f.name].reset_index(drop=True) for draw in draws], axis=1)
        if f.is_numeric:
            numbers = np.stack([f.to_numpy(columns.iloc[:, k]) for k in range(len(draws))])
            if f.type == "number":
                values = numbers.mean(0) if f.decimals is None else numbers.mean(0).round(f.decimals)
            else:  # as distances, which floats hold, from one of them
                whole = numbers.view(np.int64)
                means = whole[0] + np.rint((whole - whole[0]).mean(0)).astype(np.int64)
                values = means.view(numbers.dtype)
            table[f.name] = f.to_series(values, np.zeros(len(table), bool))
        elif f.type in ("category", "boolean"):
            table[f.name] = columns.astype(object).mode(axis=1)[0].astype(draws[0][f.name].dtype)
    return table
