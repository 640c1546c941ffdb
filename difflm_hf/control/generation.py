"""What a pipeline does with conditions: generate, impute, predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from ..blocks import MAX_ATTEMPTS, UsedKeys
from ..checks import check_integer
from ..seeds import mix
from .balance import Shares, balanced_rows
from .conditions import Condition, Conditions
from .documents import DocumentCondition, generate_documents
from .groups import RecordGroup
from .guidance import Guidance, Guide
from .nested_conditions import NestedCondition
from .resampling import FIRST_GROUP_SIZE, GROUP_SIZE
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
        guides = Guidance(scale=guidance_scale, guides=guides).guides  # which says what is wrong with them
        condition = self.make_condition(conditions, where, balance, num_records, guides, score)
        if condition is not None:
            kwargs |= {"condition": condition, "guidance_scale": guidance_scale, "guides": guides}
        check_integer("first_block", kwargs.get("first_block", 0), least=0)
        first = kwargs.get("first_block", 0) * self.config.block_size
        return super().stream(self._num_records(num_records, condition, first=first), *args, **kwargs)

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
        if num_records is not None:
            check_integer("num_records", num_records)
        if not self.processor.codec.has_fixed_layout:
            if balance is not None or guides:
                raise ValueError("balance and guides are for rows of tables, and these are documents; give a score")
            if conditions is None and where is None and score is None:
                return None
            return DocumentCondition.of_fields(self.processor, conditions, where, score)
        check_score(score)
        condition = self._row_condition(conditions, where, balance, num_records)
        if condition is None and (guides or score):
            codec = self.processor.codec
            condition = NestedCondition.free(codec) if codec.levels else Condition.free(self._compact_codec())
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
        if self.processor.codec.levels:
            if balance is not None:
                raise ValueError("balance is for rows of tables, and these have lists; give conditions, or a score")
            return NestedCondition.of_records(self.processor.codec, conditions, where)
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
        self,
        num_records: int | None,
        condition: Condition | DocumentCondition | None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        first: int = 0,
    ) -> int:
        if isinstance(generator, list | tuple):
            if condition is not None and condition.num_rows is not None:
                raise ValueError("conditions of each record do not go with a list of generators; give one generator")
            if not generator or num_records not in (None, len(generator)):
                raise ValueError(f"num_records={num_records}, and there are {len(generator)} generators")
            return len(generator)
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
            rows = slice(block * size + start, block * size + end)
            of_group = condition if condition.num_rows is None else condition.take(rows)
            group = RecordGroup(self, of_group, guidance.take(rows), mix(seed, block, start), **kwargs)
            table = group.generate(end - start)
            if condition.num_rows is None:
                table = keys.take(table, num_records - sum(map(len, tables)))
            tables.append(table)
            if sum(map(len, tables)) >= num_records:
                return pd.concat(tables, ignore_index=True).iloc[:num_records]
        raise RuntimeError(f"there are not enough new keys {keys.rules[0]} under these conditions; widen them")

    def _compact_codec(self) -> Any:
        codec = self.processor.codec
        if not codec.has_fixed_layout:
            raise ValueError("this is for rows of tables, and these are documents, which take conditions and a score")
        if codec.levels:
            raise ValueError("this is for rows of tables, and these have lists, which take conditions and a score")
        return codec
