"""What a pipeline does with conditions: generate, impute, predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch.profiler import record_function

from ..blocks import MAX_ATTEMPTS, UsedKeys, mix
from .balance import Shares, balanced_rows
from .conditions import Condition, Conditions
from .documents import DocumentCondition, generate_documents
from .guidance import Guidance, Guide
from .resampling import (
    FIRST_GROUP_SIZE,
    GROUP_SIZE,
    MAX_CANDIDATES,
    NUM_LIMITED,
    choose_candidates,
    choose_of_each,
    redraw,
    resample,
)
from .score import Score, check_score


class ConditionalGenerationMixin:
    """What [`DiffLMPipeline`] does with conditions."""

    def stream(
        self,
        num_records: int | None = None,
        *args,
        conditions: Conditions | None = None,
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
        first = kwargs.get("first_block", 0) * self.config.block_size
        return super().stream(self._num_records(num_records, condition, first), *args, **kwargs)

    def make_condition(
        self,
        conditions: Conditions | None = None,
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
        check_score(score)
        condition = self._row_condition(conditions, where, balance, num_records)
        if condition is None and (guides or score):
            condition = Condition.free(self._compact_codec())
        return condition if score is None else replace(condition, score=score)

    def _row_condition(
        self,
        conditions: Conditions | None,
        where: str | None,
        balance: Shares | None,
        num_records: int | None,
    ) -> Condition | None:
        if conditions is None and where is None and balance is None:
            return None
        codec = self._compact_codec()
        if balance is not None:
            if where is not None:
                raise ValueError("where and balance do not go together; give what is known of all as conditions")
            num_rows = len(conditions) if isinstance(conditions, pd.DataFrame) else num_records or 1
            rows = balanced_rows(codec, balance, num_rows)
            if isinstance(conditions, (list, tuple)):
                raise ValueError("balance goes with a dict or a DataFrame of conditions, and not with a list of them")
            if conditions is not None:
                given = conditions if isinstance(conditions, pd.DataFrame) else Condition.known_row(codec, conditions)
                if both := [name for name in rows if name in given]:
                    raise ValueError(f"column {both[0]!r} is balanced, and has a condition; leave one of them out")
                for name in given:
                    rows[name] = given[name].tolist() * (num_rows if len(given) == 1 else 1)
            conditions = rows
        if not isinstance(conditions, (pd.DataFrame, list, tuple)):
            return Condition.of_fields(codec, conditions, where)
        if where is not None:
            raise ValueError("where is for all records alike, and these are conditions of each; give one of them")
        make = Condition.of_table if isinstance(conditions, pd.DataFrame) else Condition.of_each
        return make(codec, conditions)

    def _num_records(
        self, num_records: int | None, condition: Condition | DocumentCondition | None, first: int = 0
    ) -> int:
        if num_records is not None and (isinstance(num_records, bool) or not isinstance(num_records, Integral)):
            raise ValueError(f"num_records={num_records!r} is not a positive integer")
        num_rows = None if condition is None or condition.num_rows is None else condition.num_rows - first
        if num_rows is not None and num_rows < 1:
            raise ValueError(
                f"first_block begins at record {first}, and there are conditions for {condition.num_rows}"
            )
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
        keys: UsedKeys | None = None,
        **kwargs,
    ) -> pd.DataFrame:
        """
        As [`~difflm_hf.blocks.BlockwisePipeline.generate_block`], of records that satisfy a condition if there is one.

        Args:
            seed, block, args, num_records, keys, kwargs: As there. Keys of rows of conditions may repeat.
            condition ([`Condition`] or [`DocumentCondition`], *optional*): What the records satisfy.
            guidance_scale, guides (*optional*): As in the call.
        """
        if condition is None:
            return super().generate_block(seed, block, *args, num_records=num_records, keys=keys, **kwargs)
        if isinstance(condition, DocumentCondition):
            return generate_documents(self, condition, seed, block, num_records, *args, **kwargs)
        size = self.config.block_size
        num_records = size if num_records is None else num_records
        keys = UsedKeys(self.processor.schema) if keys is None or condition.num_rows is not None else keys
        guidance = Guidance(self.vae.decoder.condition(condition.allowed), guidance_scale, guides)
        tables: list[pd.DataFrame] = []
        starts = range(0, MAX_ATTEMPTS * size + GROUP_SIZE, GROUP_SIZE)
        for start, end in pairwise(sorted([*starts, FIRST_GROUP_SIZE]) if block == 0 else starts):
            group, rows = condition, slice(block * size + start, block * size + end)
            if condition.num_rows is not None:
                group = condition.take(rows)
            seed_of_group = mix(seed, block, start)
            table = self._generate_group(end - start, group, guidance.take(rows), seed_of_group, **kwargs)
            if condition.num_rows is None:
                table = keys.take(table, num_records - sum(map(len, tables)))
            tables.append(table)
            if sum(map(len, tables)) >= num_records:
                return pd.concat(tables, ignore_index=True).iloc[:num_records]
        raise RuntimeError(f"there are not enough new keys {keys.rules[0]} under these conditions; widen them")

    def _generate_group(
        self,
        num_records: int,
        condition: Condition,
        guidance: Guidance,
        seed: int,
        num_inference_steps: int = 12,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> pd.DataFrame:
        """A group of records that satisfy a condition."""
        is_free = not (condition.allowed.is_known.any() or condition.allowed.limits)
        is_exact = temperature == top_p == 1
        max_candidates = MAX_CANDIDATES if is_exact and not is_free else 1
        step = batch_size or self.default_batch_size

        def draw_latents(generator: torch.Generator, places: np.ndarray, guidance: Guidance) -> torch.Tensor:
            with record_function("difflm::latents"):
                return self.generate_latents(
                    GROUP_SIZE, num_inference_steps, generator, callback_on_step_end, places, guidance
                ).to(self.vae.decoder.device)

        def draw_numbers(generator: torch.Generator, places: np.ndarray, size: int, **kwargs: Any) -> torch.Tensor:
            return torch.rand(GROUP_SIZE, size, generator=generator, **kwargs)[places]

        def write(
            condition: Condition, latents: torch.Tensor, generator: torch.Generator, places: np.ndarray
        ) -> tuple[torch.Tensor, ...]:
            """Ids, and the logarithms of weights among those of a latent, and among latents."""
            uniforms = draw_numbers(generator, places, self.vae.config.max_record_length - 1)
            batches = [
                self.vae.decoder.sample_allowed(z, u, part, temperature, top_p)
                for z, u, part in zip(latents.split(step), uniforms.split(step), condition.allowed.batches(step))
            ]
            length, pad_id = max(ids.shape[1] for ids, *_ in batches), self.processor.special_ids[2]
            ids = torch.cat([F.pad(ids, (0, length - ids.shape[1]), value=pad_id) for ids, *_ in batches])
            return ids, *(torch.cat(parts).double() for parts in zip(*(weights for _, *weights in batches)))

        def read(condition: Condition, ids: torch.Tensor, offsets: torch.Tensor) -> tuple[pd.DataFrame, np.ndarray]:
            with record_function("difflm::records"):
                ids = ids.cpu().numpy()
                placed = condition.place(ids, offsets.numpy())
                return condition.complete(self.processor.decode_records(ids, placed)[0])

        def draw(
            round_: int, places: np.ndarray, condition: Condition, guidance: Guidance
        ) -> tuple[pd.DataFrame, np.ndarray]:
            """Records, and the logarithms of their weights."""
            generator = torch.Generator().manual_seed(mix(seed, round_))
            latents = draw_latents(generator, places, guidance)
            offsets = draw_numbers(generator, places, self.processor.num_offsets, dtype=torch.float64)
            choices = draw_numbers(generator, places, 1, dtype=torch.float64)
            ids, log_weights = choose_candidates(
                lambda: write(condition, latents, generator, places),
                max_candidates,
                choices,
                condition.num_rows is not None,
            )
            table, of_relations = read(condition, ids, offsets)
            return table, log_weights.cpu().numpy() + of_relations

        def draw_limited(
            round_: int, rows: np.ndarray, condition: Condition, guidance: Guidance
        ) -> tuple[pd.DataFrame, np.ndarray]:
            """
            Records of which more is asked than values. Latents are told no more than these: of 16 records, each with a
            latent of its own, one is chosen in proportion to its weight.
            """
            generator = torch.Generator().manual_seed(mix(seed, round_, 1 + rows[0] // NUM_LIMITED))
            own = rows % NUM_LIMITED
            places = (own + NUM_LIMITED * np.arange(MAX_CANDIDATES)[:, None]).reshape(-1)
            again = np.tile(np.arange(len(rows)), MAX_CANDIDATES)
            condition, guidance = condition.take(again), guidance.take(again)
            latents = draw_latents(generator, places, guidance)
            offsets = draw_numbers(generator, places, self.processor.num_offsets, dtype=torch.float64)
            choices = draw_numbers(generator, own, 1, dtype=torch.float64).numpy()
            ids, of_records, of_latents = write(condition, latents, generator, places)
            table, of_relations = read(condition, ids, offsets)
            log_weights = (of_records if is_exact else of_latents).cpu().numpy() + of_relations
            chosen = choose_of_each(log_weights.reshape(MAX_CANDIDATES, -1), choices[:, 0])
            return table.iloc[chosen], log_weights[chosen]

        if condition.num_rows is not None:
            is_limited = condition.is_limited

            def draw_rows(round_: int, rows: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
                limited = rows[is_limited[rows]]
                batches = limited // NUM_LIMITED
                parts = [(draw, rows[~is_limited[rows]])] if len(limited) < len(rows) else []
                parts += [(draw_limited, limited[batches == k]) for k in np.unique(batches)]
                drawn = [by(round_, part, condition.take(part), guidance.take(part)) for by, part in parts]
                order = np.concatenate([part for _, part in parts]).argsort()
                table = pd.concat([table for table, _ in drawn], ignore_index=True).iloc[order]
                return table, np.isfinite(np.concatenate([log_weights for _, log_weights in drawn]))[order]

            return redraw(draw_rows, condition.num_rows)
        tables: list[pd.DataFrame] = []

        def weigh(round_: int) -> np.ndarray:
            table, log_weights = draw(round_, np.arange(num_records), condition, guidance)
            tables.append(table)
            return log_weights

        offset = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).item()
        chosen, _ = resample(weigh, num_records, offset)
        return pd.concat(tables, ignore_index=True).iloc[chosen]

    def _compact_codec(self) -> Any:
        codec = self.processor.codec
        if not codec.has_fixed_layout:
            raise ValueError("this is for rows of tables, and these are documents, which take conditions and a score")
        return codec
