"""Conditions on documents: what a grammar can say narrows it, and the rest decides which records are kept."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..processing_difflm import DiffLMProcessor
from ..records.codec import special_ids
from ..records.grammar import Grammar, JSONGrammar, TextGrammar
from ..records.rules import Unique
from ..seeds import generator_of, mix
from .json_conditions import ConditionReader, Predicate, Records
from .predicates import AllOf, StartsWith
from .resampling import MAX_CANDIDATES
from .score import Score, check_score, weigh_by


if TYPE_CHECKING:
    from ..pipeline_difflm import DiffLMPipeline


MAX_TRIES = 1024  # records that are written for each that is kept, above which there is an error
MIN_BATCH = 16  # records to write at once where perhaps few of them are kept


@dataclass
class DocumentCondition:
    """
    What documents have to satisfy. Make one with [`DocumentCondition.of_fields`].

    Args:
        grammar ([`~difflm_hf.records.grammar.Grammar`], *optional*):
            What they are written by; that of the processor, if it has one, when not given.
        predicates (`list[Callable]`): Each takes a list of records, and says which of them satisfy it.
        score (`Callable`, *optional*): As in the call of the pipeline.
    """

    grammar: Grammar | None
    predicates: list[Predicate] = field(default_factory=list)
    score: Score | None = None
    num_rows: None = None  # there are no conditions for each record

    @classmethod
    def of_fields(
        cls,
        processor: DiffLMProcessor,
        conditions: Mapping[str, Any] | None = None,
        where: str | None = None,
        score: Score | None = None,
    ) -> DocumentCondition:
        """
        Conditions that all records satisfy.

        Args:
            processor ([`DiffLMProcessor`]): The processor of the records.
            conditions, where, score (*optional*): As in the call of the pipeline.

        Raises:
            `ValueError`: for unknown fields, values that they cannot have, and conditions that contradict each other.
                The message names the field.
        """
        if conditions is not None and not isinstance(conditions, Mapping):
            given = type(conditions).__name__
            raise ValueError(f"conditions on documents are a dict for all of them, or where, and not a {given}")
        check_score(score)
        if keys := [rule for rule in processor.schema.rules if isinstance(rule, Unique)]:
            raise ValueError(f"the rule {keys[0]} is not kept by documents under conditions; generate them without")
        reader = ConditionReader(processor.schema)
        given, related = dict(conditions or {}), []
        if numbered := [name for name in given if name in processor.schema.identifiers]:
            raise ValueError(f"field {numbered[0]!r} is an identifier, which is numbered, and takes no conditions")
        if where is not None:
            read, related = reader.read_where(where)
            for path, condition in read.items():
                given[path] = AllOf((given[path], condition)) if path in given else condition
        if not given and not related and score is None:
            raise ValueError("there are no conditions; name at least one field")
        predicates = [reader.holds(path, condition) for path, condition in given.items()]
        grammar = _make_grammar(processor, given, reader.narrow(given)) if given else None
        return cls(grammar, [*predicates, *related], score)

    def weigh(self, records: Records) -> tuple[np.ndarray, bool]:
        """
        The logarithms of the weights of records, of shape `(num_records,)`, −∞ for those that do not satisfy the
        condition, and whether they differ by more than that.
        """
        holds = np.ones(len(records), bool)
        for predicate in self.predicates:
            holds &= predicate(records)
        log_weights, is_graded = np.where(holds, 0.0, -np.inf), False
        if self.score is not None and holds.any():
            kept = [record for record, is_kept in zip(records, holds) if is_kept]
            log_weights[holds], is_graded = weigh_by(self.score, kept)
        return log_weights, is_graded


def generate_documents(
    pipe: DiffLMPipeline,
    condition: DocumentCondition,
    seed: int,
    block: int,
    num_records: int | None = None,
    num_inference_steps: int = 12,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int | None = None,
    callback_on_step_end: Callable | None = None,
) -> pd.DataFrame:
    """
    A block of documents that satisfy a condition: the first of those that the model writes, one after the other. Of
    graded scores, one of each 16 is chosen, in proportion to its weight.

    Args:
        pipe ([`DiffLMPipeline`]): The pipeline.
        condition ([`DocumentCondition`]): The condition.
        seed, block, num_records, num_inference_steps, temperature, top_p, batch_size, callback_on_step_end:
            As of [`~difflm_hf.blocks.BlockwisePipeline.generate_block`].

    Returns:
        `pandas.DataFrame` of the records.

    Raises:
        `RuntimeError`: when so few satisfy it that more than 1,024 are written for each. The message says how many do.
    """
    size = pipe.config.block_size
    num_records = size if num_records is None else num_records
    batch_size = int(min(batch_size or pipe.default_batch_size, max(num_records, MIN_BATCH)))
    sampling = num_inference_steps, temperature, top_p, batch_size, callback_on_step_end
    tables, log_weights, num_candidates = [], np.empty(0), 1
    for attempt in itertools.count():
        generator = generator_of(seed, block, attempt)
        for table in pipe.generate_batches(size, generator, *sampling, grammar=condition.grammar):
            if not len(table):
                continue
            weights, is_graded = condition.weigh(pipe.format_records(table, "dict"))
            tables.append(table[is_kept := np.isfinite(weights)])
            log_weights = np.append(log_weights, weights[is_kept])
            num_candidates = MAX_CANDIDATES if is_graded else num_candidates
            if len(log_weights) >= num_records * num_candidates:
                chosen = _choose(log_weights[: num_records * num_candidates], num_candidates, mix(seed, block))
                return pd.concat(tables, ignore_index=True).iloc[chosen].reset_index(drop=True)
        num_written = (attempt + 1) * size
        if num_written >= MAX_TRIES * (1 + len(log_weights)):
            raise RuntimeError(
                f"the conditions are too rare: {len(log_weights):,} of {num_written:,} records that the model wrote "
                "satisfy them; widen them, or train longer"
            )


def _choose(log_weights: np.ndarray, num_candidates: int, seed: int) -> np.ndarray:
    """One of each `num_candidates`, in proportion to its weight."""
    weights = log_weights.reshape(-1, num_candidates)
    cumulative = np.exp(weights - weights.max(1, keepdims=True)).cumsum(1)
    targets = np.random.default_rng(seed).random(len(weights)) * cumulative[:, -1]
    return np.arange(len(weights)) * num_candidates + (cumulative <= targets[:, None]).sum(1)


def _make_grammar(
    processor: DiffLMProcessor, conditions: Mapping[str, Any], json_schema: dict[str, Any]
) -> Grammar | None:
    """The grammar of records that satisfy conditions; `None` where texts are written freely."""
    eos = special_ids(processor.tokenizer)[1]
    if not processor.schema.is_of_texts:
        return JSONGrammar(json_schema, processor.tokenizer, eos)
    pattern = _text_pattern(AllOf(tuple(conditions.values())))
    return None if pattern is None else TextGrammar(pattern, processor.tokenizer, eos)


def _text_pattern(condition: Any) -> str | None:
    """A regular expression of texts that satisfy a condition, or more; `None` where none is sought."""
    if isinstance(condition, StartsWith):
        return f"{re.escape(condition.prefix)}(?s:.*)"
    if isinstance(condition, str):
        return re.escape(condition)
    if isinstance(condition, AllOf):
        return next(filter(None, map(_text_pattern, condition.conditions)), None)
    if isinstance(condition, (list, tuple, set)):
        patterns = [_text_pattern(part) for part in condition]
        return None if None in patterns else "|".join(f"(?:{pattern})" for pattern in patterns)
    return None
