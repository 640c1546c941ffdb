"""What is missing of records: filled, or predicted."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from ..checks import check_choice, check_integer, shown
from ..records import Field, RecordSchema
from ..records.field import naming_column
from ..records.field_tokens import FieldTokens
from ..records.readers import check_columns
from ..seeds import draw_seed, generator_of
from ..utils import onload
from .conditions import Condition
from .generation import ConditionalGenerationMixin
from .guidance import Guidance
from .nested_conditions import NestedCondition
from .resampling import GROUP_SIZE


class ImputationMixin(ConditionalGenerationMixin):
    """What [`DiffLMPipeline`] does with gaps in rows of tables, and in records with lists."""

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
            table (`pandas.DataFrame`):
                Rows with all columns of the records; nulls are missing. So they are inside of nested values, and so
                is a key that no record of the training data lacks. A list that is null gets items, and one that is
                given gets no more.
            num_imputations (`int`, defaults to 1): Draws.
            aggregate (`str`, defaults to `"draw"`):
                `"draw"`: each draw is a table. `"mean"`: one table, with the means of numbers and datetimes, and of
                all else the most frequent values. Records with lists have none.
            num_inference_steps, batch_size, generator: As in the call.

        Returns:
            `pandas.DataFrame` with the order, index, columns and dtypes of `table`; of several draws that are not
            aggregated a list of them.

        Raises:
            `ValueError`: for an empty table, for columns that the model does not know or that are missing, and for
                values of another type. The message names the column.
        """
        check_choice("aggregate", aggregate, ("draw", "mean"))
        check_integer("num_imputations", num_imputations)
        self.check_inputs(1, num_inference_steps, 1.0, 1.0, batch_size, "pandas")
        is_nested = bool(self.processor.codec.levels)
        if is_nested and aggregate == "mean":
            raise ValueError("records with lists have no mean; take aggregate='draw'")
        condition = self._condition_of_gaps(table, is_nested)
        sampling = {"num_inference_steps": num_inference_steps, "batch_size": batch_size, "condition": condition}
        draws = [
            pd.concat(self._generate_blocks(len(table), sampling, generator), ignore_index=True)
            for _ in range(num_imputations)
        ]
        if aggregate == "mean":
            # Sums of means, and not means of sums, which are rounded.
            means, log_weights = condition.complete(_aggregate(draws, self.processor.schema))
            # Where means and modes break a rule, one draw, which keeps it.
            rows = np.arange(len(table))
            rows = np.where(np.isfinite(log_weights), rows, rows + len(rows))
            draws = [pd.concat([means, draws[0]], ignore_index=True).iloc[rows].reset_index(drop=True)]
        filled = [self._number_gaps(table, self._filled(table, draw)) for draw in draws]
        return filled if len(filled) > 1 else filled[0]

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
            `ValueError`: for a target that is no category, and as of [`~ImputationMixin.impute`].
        """
        codec, decoder = self._compact_codec(), self.vae.decoder
        self.check_inputs(1, num_inference_steps, 1.0, 1.0, None, "pandas")
        check_integer("num_latents", num_latents)
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"a pandas.DataFrame is to be predicted from, not {type(table).__name__}")
        if not isinstance(target, str) or target not in codec.tokens or codec.tokens[target].grid is not None:
            raise ValueError(
                f"target={shown(target)} is no boolean, nor a category of few values, of {codec.schema.names}"
            )
        condition = self._condition_of_gaps(table.assign(**{target: None}))
        position, (f, t) = list(codec.tokens).index(target), (codec.schema[target], codec.tokens[target])
        seed, probabilities = draw_seed(generator), []
        for start in range(0, len(table), GROUP_SIZE):
            allowed = condition.allowed.take(slice(start, start + GROUP_SIZE))
            size, known, total = len(allowed.ids), decoder.condition(allowed), 0.0
            for k in range(num_latents):
                group = generator_of(seed, start, k)
                latents = self.generate_latents(
                    GROUP_SIZE, num_inference_steps, group, None, slice(size), Guidance(known)
                )
                uniforms = torch.rand(GROUP_SIZE, self.vae.config.num_uniforms, generator=group)[:size]
                latents = latents.to(onload(self.vae).decoder.device)
                ids, *_ = decoder.sample_allowed(latents, uniforms, allowed)
                logits = decoder.next_logits(ids[:, : 1 + position], latents, known, position)
                total = total + logits[:, f.nullable :].softmax(-1)
            probabilities.append((total / num_latents).cpu().numpy())
        return pd.DataFrame(np.concatenate(probabilities), index=table.index, columns=t.values)

    def _number_gaps(self, table: pd.DataFrame, filled: pd.DataFrame) -> pd.DataFrame:
        """Identifiers in gaps are none of those that the table has."""
        schema = self.processor.schema
        for name, rule in schema.identifiers.items():
            gaps = table[name].isna().to_numpy()
            if gaps.any():
                values = rule.values(0, 0, min(len(table), rule.capacity(schema.by_name)), schema.by_name)
                new = values[~values.isin(table[name])].head(gaps.sum()).tolist()
                if len(new) < gaps.sum():
                    raise ValueError(
                        f"{rule} has no more values for the gaps of column {name!r}; give it a longer pattern"
                    )
                column = filled[name].astype(object).to_numpy(copy=True)
                column[gaps] = new
                filled[name] = pd.Series(column, index=filled.index, dtype=object).astype(filled[name].dtype)
        return filled

    def _filled(self, table: pd.DataFrame, draw: pd.DataFrame) -> pd.DataFrame:
        # What has values inside is filled already.
        nested = [f.name for f in self.processor.schema if f.type == "json"]
        filled = _fill(table.drop(columns=nested), draw)
        return filled.assign(**{name: draw[name].set_axis(table.index) for name in nested})[table.columns]

    def _condition_of_gaps(self, table: pd.DataFrame, is_nested: bool = False) -> Condition:
        codec = self.processor.codec if is_nested else self._compact_codec()
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"a pandas.DataFrame is to be filled, not {type(table).__name__}")
        check_columns(table, "the table")
        names = codec.schema.names
        if unknown := [name for name in table.columns if name not in names]:
            raise ValueError(f"no field {unknown[0]!r}, which the model would know; drop the column. It knows {names}")
        if missing := [name for name in names if name not in table.columns]:
            raise ValueError(f"column {missing[0]!r} is missing; add it, with None where nothing is known")
        flat = codec.codecs[0] if is_nested else codec
        for name, t in flat.tokens.items():
            if name in names and flat.schema[name] == codec.schema[name] and table[name].isna().any():
                with naming_column(name):
                    _fits(table[name], flat.schema[name], t)
        return NestedCondition.of_gaps(codec, table) if is_nested else Condition.of_gaps(codec, table)


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
    """Means of numbers and datetimes, and else the most frequent values; the first draw's where one has none."""
    table = draws[0].copy()
    for f in schema:
        columns = pd.concat([draw[f.name].reset_index(drop=True) for draw in draws], axis=1)
        # Else what the first draw has stays.
        given = np.logical_and.reduce([f.index_apart(columns.iloc[:, k]) < 0 for k in range(len(draws))])
        if f.name in schema.identifiers or not given.any():
            continue
        columns = columns[given]
        if f.is_numeric:
            numbers = np.stack([f.to_numpy(columns.iloc[:, k]) for k in range(len(draws))])
            if f.type == "number":
                values = numbers.mean(0) if f.decimals is None else numbers.mean(0).round(f.decimals)
            else:  # as distances, which floats hold, from one of them
                whole = numbers.view(np.int64)
                means = whole[0] + np.rint((whole - whole[0]).mean(0)).astype(np.int64)
                values = means.view(numbers.dtype)
            found = f.to_series(values, np.zeros(len(columns), bool))
        elif f.type in ("category", "boolean"):
            found = columns.astype(object).mode(axis=1)[0].astype(draws[0][f.name].dtype)
        else:
            continue
        if given.all():
            table[f.name] = found.to_numpy() if f.dtype == "object" else found.set_axis(table.index)
        else:
            column = table[f.name].astype(object).to_numpy(copy=True)
            column[given] = found.astype(object).to_numpy()
            table[f.name] = pd.Series(column, index=table.index, dtype=object).astype(table[f.name].dtype)
    return table
