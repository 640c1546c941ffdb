"""What a record may look like, as masks over the vocabulary of a causal LM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase


# As `json.dumps` writes, and thus as the records that the LM has learnt from.
JSON_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
# Whose choices a grammar remembers. Finding them takes a millisecond a record, in training once an epoch.
NUM_REMEMBERED = 2**17
NUM_VOCABULARIES = 2  # that are kept: conditions make grammars of their own


class ChoiceSets(NamedTuple):
    """
    What there was to choose from: many choices are among the same ids.

    Args:
        sets (`torch.BoolTensor` of shape `(num_sets, vocab_size)`): Sets of ids, as masks.
        numbers (`torch.LongTensor` of shape `(num_choices,)`): The set of each choice.
    """

    sets: torch.BoolTensor
    numbers: torch.LongTensor


class Grammar:
    """
    What a record may look like, compiled for a tokenizer: which token may come next, and which must.

    The parsers are those of [llguidance](https://github.com/guidance-ai/llguidance). Compiling takes milliseconds,
    reading the vocabulary, which is kept, a second.

    Args:
        grammar (`str`): A grammar as llguidance writes it.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        eos_token_id (`int`, *optional*): The id that ends a record; the tokenizer's own when not given.

    Raises:
        `ValueError`: for a grammar or a tokenizer that llguidance does not support.
    """

    source: ClassVar[str] = "the grammar"

    def __init__(self, grammar: str, tokenizer: PreTrainedTokenizerBase, eos_token_id: int | None = None):
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer, which a grammar needs")
        self.eos_token_id = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
        self.vocab_size = len(tokenizer)
        vocabulary = _read_vocabulary(tokenizer, self.vocab_size, self.eos_token_id)
        self._start = llguidance.LLMatcher(vocabulary, grammar, log_level=0)
        if self._start.is_error():
            raise ValueError(f"no grammar can be made of {self.source}: {_error(self._start)}")
        try:
            parser = self.start()  # at whose first ids it shows what is too much
            if not parser.is_complete:
                bits = np.frombuffer(parser.matcher.compute_bitmask(), np.uint8)
                parser.append(int(np.unpackbits(bits, bitorder="little").argmax()))
        except ValueError as error:
            raise ValueError(
                f"no grammar can be made of {self.source}, which leaves too much open ({error}); make fewer parts "
                "optional, or group them"
            ) from error
        all_ids = np.packbits(np.ones(self.vocab_size, bool), bitorder="little").tobytes()
        # Sets of ids, as bits, by their number. Records have few different ones.
        self._numbers = {all_ids.ljust(len(self._start.compute_bitmask()), b"\0"): 0}
        self._sets: torch.ByteTensor | None = None  # the same, as one tensor
        self._remembered = lru_cache(NUM_REMEMBERED)(self._find_choices)
        self._pools: tuple[int, llguidance.LLExecutor, ThreadPoolExecutor] | None = None

    def start(self) -> RecordParser:
        """A parser at the start of a record."""
        return RecordParser(self._start.deep_copy(), self.eos_token_id)

    def is_choice(self, ids: Sequence[int]) -> np.ndarray:
        """
        Where the grammar leaves the LM a choice, as it does not at keys and punctuation.

        Args:
            ids (`Sequence[int]`): A record, without BOS, with EOS.

        Returns:
            `np.ndarray` of shape `(len(ids),)`, `bool`.
        """
        return self._choices(ids) >= 0

    def allowed(self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor) -> ChoiceSets:
        """
        What there was to choose from, wherever the grammar leaves the LM a choice.

        Args:
            input_ids (`torch.LongTensor` of shape `(num_records, sequence_length)`): Records from BOS to EOS.
            attention_mask (`torch.LongTensor` of shape `(num_records, sequence_length)`): 0 for padding.

        Returns:
            [`ChoiceSets`]: Of each choice of the first record, and so on.
        """
        lengths = attention_mask.sum(1).tolist()
        records = [ids[1:length] for ids, length in zip(input_ids.tolist(), lengths)]
        numbers = np.concatenate([choices[choices >= 0] for choices in map(self._choices, records)])
        if self._sets is None or len(self._sets) < len(self._numbers):
            sets = torch.frombuffer(bytearray(b"".join(self._numbers)), dtype=torch.uint8)
            self._sets = sets.view(len(self._numbers), -1)
        used, numbers = np.unique(numbers, return_inverse=True)
        bits = torch.arange(8, dtype=torch.uint8)
        masks = self._sets[torch.from_numpy(used), :, None] >> bits & 1
        sets = masks.flatten(1)[:, : self.vocab_size].bool()
        return ChoiceSets(sets.to(input_ids.device), torch.from_numpy(numbers).to(input_ids.device))

    def _choices(self, ids: Sequence[int]) -> np.ndarray:
        return self._remembered(np.array(ids, np.int32).tobytes())

    def _find_choices(self, record: bytes) -> np.ndarray:
        """The number of the set that each id of a record was chosen from; −1 for those that are forced."""
        ids = np.frombuffer(record, np.int32).tolist()
        matcher, numbers = self._start.deep_copy(), np.full(len(ids), -1, np.int32)
        position = 0
        while position < len(ids) and not matcher.is_stopped():
            run = matcher.compute_ff_tokens()
            if not run or ids[position : position + len(run)] != run:
                run = ids[position : position + 1]
                bits = matcher.compute_bitmask()
                is_known = bits[run[0] // 8] >> run[0] % 8 & 1
                numbers[position] = self._numbers.setdefault(bits, len(self._numbers)) if is_known else 0
            if not matcher.consume_tokens(run):
                break
            position += len(run)
        if ids[position:] != [self.eos_token_id]:
            numbers[position:] = 0  # what the grammar does not know is for the LM to learn
        return numbers

    def forbidden(self, parsers: Iterable[RecordParser]) -> Future[np.ndarray]:
        """
        Which ids may not come next in each record, as a `bool` array of shape `(num_records, vocab_size)`.

        It is computed in the background, for as long as the LM computes the logits.
        """
        if self._pools is None or self._pools[0] != os.getpid():  # a forked process has none of its parent's threads
            self._pools = os.getpid(), llguidance.LLExecutor(torch.get_num_threads()), ThreadPoolExecutor(1)
        _, executor, background = self._pools
        return background.submit(self._forbidden, executor, list(parsers))

    def _forbidden(self, executor: llguidance.LLExecutor, parsers: list[RecordParser]) -> np.ndarray:
        bits = llguidance.numpy.allocate_token_bitmask(len(parsers), self.vocab_size)
        matchers = [(parser.matcher, row) for row, parser in enumerate(parsers)]
        llguidance.numpy.fill_next_token_bitmask_par(executor, matchers, bits)
        return np.unpackbits(~bits.view(np.uint8), axis=1, count=self.vocab_size, bitorder="little").view(bool)


class JSONGrammar(Grammar):
    """
    A JSON Schema as a grammar.

    Args:
        json_schema (`dict`): A JSON Schema (draft 2020-12). Keys come in the order of its `properties`.
        tokenizer, eos_token_id: As of [`Grammar`].

    Raises:
        `ValueError`: for a schema or a tokenizer that llguidance does not support.
    """

    source = "the JSON Schema"

    def __init__(
        self, json_schema: dict[str, Any], tokenizer: PreTrainedTokenizerBase, eos_token_id: int | None = None
    ):
        super().__init__(_from_json_schema(json_schema), tokenizer, eos_token_id)

    @staticmethod
    def find_fault(json_schema: dict[str, Any]) -> str:
        """Why no grammar can be made of a JSON Schema, such as that no value satisfies it; empty where one can."""
        return llguidance.LLMatcher.validate_grammar(_from_json_schema(json_schema))


class TextGrammar(Grammar):
    """
    A regular expression that whole texts match, as a grammar.

    Args:
        pattern (`str`): A regular expression in the syntax of Rust's regex crate.
        tokenizer, eos_token_id: As of [`Grammar`].

    Raises:
        `ValueError`: for an expression or a tokenizer that llguidance does not support.
    """

    source = "the pattern"

    def __init__(self, pattern: str, tokenizer: PreTrainedTokenizerBase, eos_token_id: int | None = None):
        super().__init__(llguidance.LLMatcher.grammar_from_regex(pattern), tokenizer, eos_token_id)


def _from_json_schema(json_schema: dict[str, Any]) -> str:
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(json_schema), overrides=JSON_STYLE)
    except ValueError as error:
        raise ValueError(
            f"no grammar can be made of the JSON Schema ({error}); leave out numbers that no float can hold"
        ) from error


@lru_cache(NUM_VOCABULARIES)
def _read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int, eos_token_id: int) -> llguidance.LLTokenizer:
    return llguidance.hf.from_tokenizer(tokenizer, size, eos_token_id)


def _error(matcher: llguidance.LLMatcher) -> str:
    """What is wrong, without the state of the parser and the grammar that follow."""
    return matcher.get_error().partition("\n")[0]


class RecordParser:
    """How far a record has come. `ids` are those written so far."""

    def __init__(self, matcher: llguidance.LLMatcher, eos_token_id: int):
        self.matcher = matcher
        self.eos_token_id = eos_token_id
        self.ids: list[int] = []
        self._append_forced()

    @property
    def is_complete(self) -> bool:
        """Whether the record has come to its end."""
        return self.ids[-1:] == [self.eos_token_id]

    def append(self, token_id: int) -> list[int]:
        """
        Takes the next id, and all those that it leaves no choice but to follow.

        Returns:
            `list[int]`: These ids, `token_id` first.

        Raises:
            `ValueError`: when the grammar does not allow `token_id` here.
        """
        position = len(self.ids)
        self._consume([token_id])
        self._append_forced()
        return self.ids[position:]

    def _append_forced(self) -> None:
        if not self.is_complete:
            self._consume(self.matcher.compute_ff_tokens())
        if self.matcher.is_stopped() and not self.is_complete:
            self.ids.append(self.eos_token_id)  # nothing else could follow

    def _consume(self, ids: list[int]) -> None:
        if ids and not self.matcher.consume_tokens(ids):
            raise ValueError(f"the grammar does not allow the ids {ids} after {self.ids}: {_error(self.matcher)}")
        self.ids += ids
