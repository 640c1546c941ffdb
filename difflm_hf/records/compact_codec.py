"""The compact codec: a record as a few tokens in a fixed order, for decoders trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .bpe import BOS, BOS_ID, EOS, EOS_ID, NULL, NULL_ID, PAD, PAD_ID, to_tokenizer, train_bpe
from .codec import RecordCodec
from .field_tokens import FieldTokens, check_tokens, find_copies, own_tokens
from .grammar import JSONGrammar
from .json_codec import JSONCodec
from .numbers import Grid, QuantileBins
from .schema import RecordSchema


MAX_LISTED = 512  # categories of a field that have a token each; more are told by a bin and a step of it


class CompactCodec(RecordCodec):
    """
    Turns tables into token ids and back, exactly.

    A record is `⟨s⟩`, then one coarse token for each field, then one fine token for each number that has too many
    values for a token each, then the texts, each closed by `⟨/s⟩`. Since coarse tokens come first, the joint structure
    of a record is decided before its detail. How far above the start of its fine step a number lies, its *within-bin
    offset*, is encoded beside the ids and drawn at random in generation, by a law with the mean of the step's data.

    Use [`CompactCodec.fit`] to make one.

    Args:
        schema (`RecordSchema`): The fields.
        tokens (`dict[str, FieldTokens]`): The tokens of every field that is neither text nor null nor an identifier.
        num_text_ids (`int`): Ids of the byte-level BPE, which follow the four special ones.
        max_text_tokens (`int`): Tokens that the texts of a record may take in all, closing `⟨/s⟩` included.
        min_text_count (`int`, defaults to 1): Records that each piece of the BPE was seen in at least.
    """

    name = "compact"
    has_fixed_layout = True

    def __init__(
        self,
        schema: RecordSchema,
        tokens: dict[str, FieldTokens],
        num_text_ids: int,
        max_text_tokens: int,
        min_text_count: int = 1,
    ):
        super().__init__(schema)
        self.tokens = tokens
        self.num_text_ids = num_text_ids
        self.max_text_tokens = max_text_tokens
        self.min_text_count = min_text_count
        self.texts = [f for f in schema if f.type == "text" and f.name not in schema.identifiers]
        self.binned = [name for name, t in tokens.items() if t.bins]
        self.num_offsets = len(self.binned)

    @classmethod
    def fit(
        cls,
        schema: RecordSchema,
        table: pd.DataFrame,
        max_values: int = 100,
        num_bins: int = 64,
        num_steps: int = 32,
        min_records: int = 8,
        min_copies: float = 0.02,
        text_vocab_size: int = 2048,
        max_text_tokens: int = 1024,
        min_text_count: int = 1,
        drop_overlong: bool = False,
        min_value_count: int = 1,
        exact: Mapping[str, Sequence[int]] | None = None,
        owners: np.ndarray | None = None,
    ) -> tuple[CompactCodec, PreTrainedTokenizerFast]:
        """
        Reads bins, values and the text vocabulary off a table.

        Args:
            schema (`RecordSchema`): Its schema.
            table (`pandas.DataFrame`): The records.
            max_values (`int`, defaults to 100): A number with at most so many distinct values has a token for each.
            num_bins (`int`, defaults to 64):
                Bins of any other number. Each value heavier than a bin of what is left has a token of its own besides:
                a price list stays one, however many zeros there are.
            num_steps (`int`, defaults to 32): Steps in each bin, at most.
            min_records (`int`, defaults to 8):
                Records that a step holds at least, or hardly fewer. Those that lie apart from others have steps of
                their own, however few they are.
            min_copies (`float`, defaults to 0.02):
                Share of records in which a number must equal an earlier one for a token that says so.
            text_vocab_size (`int`, defaults to 2048): Ids of the byte-level BPE for texts.
            max_text_tokens (`int`, defaults to 1024): Most tokens that the texts of one record may take.
            min_text_count (`int`, defaults to 1):
                Records that a piece of text must be seen in to get an id. All others are spelled in smaller pieces.
            drop_overlong (`bool`, defaults to `False`):
                Take the table without the records whose texts are too long, rather than raise an error.
            min_value_count (`int`, defaults to 1):
                Records that a number must be seen in to get a token of its own, and that a step holds at least. Where
                all numbers without a token are fewer, they lie in one step from the smallest to the largest of all.
            exact (`Mapping[str, Sequence[int]]`, *optional*):
                Integers that have a token for each of these values, whatever their number, and no others.
            owners (`np.ndarray` of shape `(num_records,)`, *optional*):
                Numbers of those that `min_value_count` counts in place of records, where one may have several.

        Returns:
            The codec and its tokenizer.

        Raises:
            `ValueError`: for an empty table, for a value outside the schema, and when the texts of a record are too
                long. The message names the column.
        """
        table = schema.conform(table)
        min_records = max(min_records, min_value_count)
        if len(table) == 0:
            raise ValueError("the table has no rows to fit a codec on")
        texts = [f.name for f in schema if f.type == "text" and f.name not in schema.identifiers]
        pieces, merges = [], []
        if texts:
            given = [[text for text in row if isinstance(text, str)] for row in table[texts].itertuples(index=False)]
            pieces, merges = train_bpe(given, text_vocab_size, min_text_count)
        vocab = [PAD, BOS, NULL, EOS, *pieces]
        tokens: dict[str, FieldTokens] = {}
        units: dict[str, np.ndarray] = {}
        for f in schema:
            if f.type == "json":
                raise ValueError(f"column {f.name!r} has nested values, which the compact codec has no tokens for")
            if f.type in ("text", "null") or f.name in schema.identifiers:
                continue
            t = tokens[f.name] = FieldTokens()
            if not f.is_numeric and len(f.categories or ()) <= MAX_LISTED:
                t.values = f.categories if f.type == "category" else [False, True]
                continue
            given = f.index_apart(table[f.name]) < 0
            values = table[f.name][given]
            if len(values) == 0:
                raise ValueError(f"column {f.name!r} has no values to fit on; drop it, or make its type 'null'")
            if exact is not None and f.name in exact:
                numbers = pd.Series(exact[f.name])
                t.grid = Grid.fit(f, numbers)
                t.values = t.grid.encode(f, numbers).tolist()
                continue
            t.grid = Grid.fit(f, values)
            points = counted = t.grid.encode(f, values)
            if owners is not None and min_value_count > 1:  # each once for its owner, who may have many
                counted = np.unique(np.stack([owners[given].astype(np.uint64), points]), axis=1)[1]
            distinct, counts = np.unique(counted, return_counts=True)
            own = own_tokens(counts, max_values, num_bins, min_records, min_value_count)
            t.values = distinct[own].tolist()
            t.rarest = int(counts[own].min()) if own.any() else None
            binned = ~np.isin(points, distinct[own])
            units |= {f.name: t.grid.to_units(points)} if f.is_numeric else {}
            if binned.any():
                left = counted[~np.isin(counted, distinct[own])]
                t.bins = (
                    QuantileBins.fit(left, num_bins, num_steps, min_records, min_value_count, t.grid)
                    if len(left) >= min_value_count
                    # A step that starts at one of them would name it.
                    else QuantileBins([0], t.grid.size - 1, [0], tilts=[0.0], grid=t.grid)
                )
                t.copies = find_copies(f, units, binned, schema, min_copies) if f.is_numeric else []
        for f in schema:
            if t := tokens.get(f.name):
                t.start = len(vocab)
                vocab += [f"⟨{f.name}:{i}⟩" for i in range(t.num_coarse(f))]
        for name, t in tokens.items():
            if t.bins:
                t.fine_start = len(vocab)
                vocab += [f"⟨{name}.{i}⟩" for i in range(t.bins.num_steps)]

        tokenizer = to_tokenizer(vocab, merges)
        codec = cls(schema, tokens, len(pieces), max_text_tokens, min_text_count)
        if drop_overlong:
            lengths = codec.count_text_tokens(table, tokenizer)
            codec.max_text_tokens = int(lengths[lengths <= max_text_tokens].max(initial=0))
        else:
            codec.max_text_tokens = max(map(len, codec._text_rows(table, tokenizer)))
        return codec, tokenizer

    @property
    def vocab_size(self) -> int:
        """Ids of the vocabulary, those of texts included."""
        return max([4 + self.num_text_ids, *(end for _, end in self.position_ranges)])

    @property
    def num_fixed(self) -> int:
        """Tokens of a record without `⟨s⟩` and texts."""
        return len(self.tokens) + len(self.binned)

    @property
    def max_length(self) -> int:
        """Tokens of the longest record, `⟨s⟩` included."""
        return 1 + self.num_fixed + self.max_text_tokens

    @property
    def position_ranges(self) -> list[tuple[int, int]]:
        """
        The ids `[start, end)` that may stand at each position after `⟨s⟩`. Where there are texts, the last range is
        that of every further position.
        """
        fields = [(t, self.schema[name]) for name, t in self.tokens.items()]
        ranges = [(t.start, t.start + t.num_coarse(f)) for t, f in fields]
        ranges += [(t.fine_start, t.fine_start + t.bins.num_steps) for t, _ in fields if t.bins]
        if self.texts:
            ranges.append((NULL_ID if any(f.nullable for f in self.texts) else EOS_ID, 4 + self.num_text_ids))
        return ranges

    @property
    def position_fields(self) -> list[int]:
        """The field that stands at each position before the texts, as a place among those with tokens."""
        names = list(self.tokens)
        return [*range(len(names)), *(names.index(name) for name in self.binned)]

    @property
    def rarest(self) -> dict[str, int]:
        rarest = super().rarest
        numbers = {name: t.rarest or 0 for name, t in self.tokens.items() if self.schema[name].is_numeric and t.values}
        return rarest | {name: min(count, rarest.get(name, count)) for name, count in numbers.items()}

    @property
    def ordered_ranges(self) -> list[tuple[int, int]]:
        """The ids `[start, end)` of numbers' tokens that stand in order of value."""
        ranges = []
        for name, t in self.tokens.items():
            if not self.schema[name].is_numeric:
                continue
            start = t.start + len(self.schema[name].apart)
            ranges.append((start, start + len(t.values)))
            if t.bins is not None:
                ranges.append((start + len(t.values), start + len(t.values) + t.bins.num_bins))
                ranges.append((t.fine_start, t.fine_start + t.bins.num_steps))
        return ranges

    def encode(self, data: Any, tokenizer: PreTrainedTokenizerFast) -> tuple[np.ndarray, np.ndarray]:
        """
        Encodes records.

        Args:
            data (`pandas.DataFrame` or anything that [`RecordSchema.conform`] takes): The records.
            tokenizer (`PreTrainedTokenizerFast`): The codec's tokenizer.

        Returns:
            `input_ids` (`int64` of shape `(num_records, sequence_length)`, right-padded with `⟨pad⟩`) and
            `within_bin_offsets` (`uint64` of shape `(num_records, num_binned_fields)`).

        Raises:
            `ValueError`: for a value that the codec has no token for, naming column and value.
        """
        table = self.schema.conform(data)
        ids, within_bin_offsets = self.encode_fields(table)
        texts = self._encode_texts(table, tokenizer)
        return np.concatenate([np.full((len(table), 1), BOS_ID), ids, texts], axis=1), within_bin_offsets

    def encode_fields(
        self, table: pd.DataFrame, known: Mapping[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Encodes what stands before the texts.

        Args:
            table (`pandas.DataFrame`): Records that conform to the schema.
            known (`Mapping[str, np.ndarray]`, *optional*):
                Which values of each field are given, of shape `(num_records,)`, where others are there to fill gaps.

        Returns:
            Ids of shape `(num_records, num_fixed)` and offsets as of [`CompactCodec.encode`].
        """
        coarse, fine, within_bin_offsets, units = [], [], [], {}
        for name, t in self.tokens.items():
            f, column = self.schema[name], table[name]
            apart = f.index_apart(column)
            given = apart < 0
            ids = np.zeros(len(table), np.int64)
            if t.grid is None:
                ids[given] = f.index(column[given])
            else:
                points = np.zeros(len(table), np.uint64)
                points[given] = t.grid.encode(f, column[given])
                units[name] = t.grid.to_units(points)
                own = np.array(t.values, np.uint64)
                ids = np.searchsorted(own, points)
                rest = given & ~np.isin(points, own)
                if t.bins is None and rest.any():
                    row = rest.argmax()
                    near = own[max(ids[row] - 1, 0) : ids[row] + 1]
                    value, *near = t.grid.decode(f, np.array([points[row], *near], np.uint64))
                    raise ValueError(
                        f"column {name!r}: {value} in row {row} is none of the {len(own)} values of the training "
                        f"data, of which {' and '.join(map(str, near))} are next to it; take one of these, or drop "
                        "the record"
                    )
                if t.bins is not None:
                    bins, steps, above = t.bins.encode(points)
                    for k, source in enumerate(t.copies):
                        copied = rest & (units[source] == units[name])
                        if known is not None:
                            copied &= known[source]
                        ids[copied] = len(own) + t.bins.num_bins + k
                        rest &= ~copied
                    ids[rest] = len(own) + bins[rest]
                    fine.append((t.fine_start + np.where(rest, steps, 0))[:, None])
                    within_bin_offsets.append(np.where(rest, above, 0)[:, None])
            coarse.append((t.start + np.where(given, ids + len(f.apart), apart))[:, None])
        no_ids, no_offsets = np.zeros((len(table), 0), np.int64), np.zeros((len(table), 0), np.uint64)
        return (
            np.concatenate([no_ids, *coarse, *fine], axis=1),
            np.concatenate([no_offsets, *within_bin_offsets], axis=1),
        )

    def decode(
        self, input_ids: np.ndarray, tokenizer: PreTrainedTokenizerFast, within_bin_offsets: np.ndarray
    ) -> pd.DataFrame:
        """
        Decodes records: the inverse of [`CompactCodec.encode`].

        Args:
            input_ids (`np.ndarray` of shape `(num_records, sequence_length)`): Token ids, `⟨s⟩` included.
            tokenizer (`PreTrainedTokenizerFast`): The codec's tokenizer.
            within_bin_offsets (`np.ndarray` of shape `(num_records, num_binned_fields)`):
                As from `encode`, or floats in [0, 1): the quantile of its step's law at which each number lies.

        Returns:
            `pandas.DataFrame` with the columns and dtypes of the schema. Identifiers, which are numbered when all else
            is there, are the first one in every record.
        """
        columns, units = {}, {}
        for i, (name, t) in enumerate(self.tokens.items()):
            f, apart = self.schema[name], input_ids[:, 1 + i] - t.start
            ids = np.maximum(apart - len(f.apart), 0)
            if t.grid is None:
                values = np.array(t.values, dtype=object)[ids]
            else:
                num_own = len(t.values)
                points = np.array(t.values or [0], np.uint64)[np.minimum(ids, max(num_own - 1, 0))]
                if t.bins is not None:
                    j = self.binned.index(name)
                    steps = input_ids[:, 1 + len(self.tokens) + j] - t.fine_start
                    bins = np.clip(ids - num_own, 0, t.bins.num_bins - 1)
                    points = np.where(ids < num_own, points, t.bins.decode(bins, steps, within_bin_offsets[:, j]))
                    for k, source in enumerate(t.copies):
                        # Where the source lies outside, the nearest value is as near to a copy as can be.
                        copied = ids == num_own + t.bins.num_bins + k
                        points = np.where(copied, t.grid.floor(units[source]), points)
                units[name] = t.grid.to_units(points)
                values = t.grid.decode(f, points)
            columns[name] = f.with_words(f.to_series(values, apart < len(f.apart)), apart)
        texts = self._decode_texts(input_ids[:, 1 + self.num_fixed :], tokenizer)
        for f in self.schema:
            if f.name in texts:
                columns[f.name] = texts[f.name]
            elif rule := self.schema.identifiers.get(f.name):
                columns[f.name] = (
                    rule.values(0, 0, 1, self.schema.by_name).repeat(len(input_ids)).reset_index(drop=True)
                )
            elif f.type == "null":
                columns[f.name] = f.to_series(np.full(len(input_ids), None), np.ones(len(input_ids), bool))
        return self.schema.to_table(columns)

    def to_inputs(
        self,
        records: Any,
        tokenizer: PreTrainedTokenizerBase,
        encoder_tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        key_order: str = "schema",
        grammar: JSONGrammar | None = None,
    ) -> dict[str, np.ndarray]:
        input_ids, within_bin_offsets = self.encode(records, tokenizer)
        inputs = {"input_ids": input_ids, "within_bin_offsets": within_bin_offsets.view(np.int64)}
        if not (mask := input_ids != PAD_ID).all():
            inputs["attention_mask"] = mask.astype(np.int64)
        return inputs

    def to_records(
        self, input_ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, within_bin_offsets: np.ndarray | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        if within_bin_offsets is None:
            within_bin_offsets = np.full((len(input_ids), self.num_offsets), 0.5)
        if within_bin_offsets.dtype == np.int64:
            within_bin_offsets = within_bin_offsets.view(np.uint64)
        return self.decode(input_ids, tokenizer, within_bin_offsets), np.ones(len(input_ids), bool)

    def to_texts(self, records: Any) -> list[str]:
        return JSONCodec(self.schema).encode(records)

    def too_long(
        self, records: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, key_order: str = "schema"
    ) -> np.ndarray:
        return self.count_text_tokens(self.schema.conform(records), tokenizer) > self.max_text_tokens

    def config_fields(self, max_length: int) -> dict[str, Any]:
        return {
            "position_ranges": self.position_ranges,
            "num_texts": len(self.texts),
            "max_record_length": self.max_length,
        }

    def _text_ids(self, column: pd.Series, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
        if len(column) == 0:  # which tokenizers do not take
            return []
        null = column.isna()
        # What looks like a special token inside a text is text.
        encodings = tokenizer(column.where(~null, "").tolist(), split_special_tokens=True, add_special_tokens=False)
        return [[NULL_ID, EOS_ID] if n else [*ids, EOS_ID] for ids, n in zip(encodings["input_ids"], null)]

    def count_text_tokens(self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
        """The tokens that the texts of each record take, as an array of shape `(num_records,)`."""
        columns = [list(map(len, self._text_ids(table[f.name], tokenizer))) for f in self.texts]
        return np.array(columns, np.int64).reshape(len(columns), len(table)).sum(0)

    def _text_rows(self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
        """The ids of each record's texts, one text after the other."""
        columns = [self._text_ids(table[f.name], tokenizer) for f in self.texts]
        rows = [[i for ids in texts for i in ids] for texts in zip(*columns)] or [[] for _ in range(len(table))]
        worst = max(range(len(rows)), key=lambda row: len(rows[row]), default=0)
        if rows and len(rows[worst]) > self.max_text_tokens:
            lengths = [len(column[worst]) for column in columns]
            name = self.texts[int(np.argmax(lengths))].name
            raise ValueError(
                f"column {name!r} has a text of {len(str(table[name].iloc[worst]))} characters in row {worst} "
                f"({max(lengths)} tokens), and the texts of a record may take {self.max_text_tokens} tokens; shorten "
                "or drop it, or train with a higher max_length (max_text_tokens of the codec)"
            )
        return rows

    def _encode_texts(self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
        rows = self._text_rows(table, tokenizer)
        out = np.full((len(table), max(map(len, rows), default=0)), PAD_ID)
        for row, ids in zip(out, rows):
            row[: len(ids)] = ids
        return out

    def _decode_texts(self, ids: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> dict[str, pd.Series]:
        segments: dict[str, list[list[int]]] = {f.name: [] for f in self.texts}
        for row in ids if self.texts else []:
            ends = np.flatnonzero(row == EOS_ID)
            starts = np.concatenate([[0], ends + 1])
            for k, f in enumerate(self.texts):
                end = ends[k] if k < len(ends) else len(row)
                start = starts[k] if k < len(starts) else len(row)
                segments[f.name].append(row[start:end].tolist())
        texts = {}
        for f in self.texts:
            null = np.array([f.nullable and s[:1] == [NULL_ID] for s in segments[f.name]], bool)
            clean = [[i for i in s if i > EOS_ID] for s in segments[f.name]]
            decoded = tokenizer.batch_decode(clean, clean_up_tokenization_spaces=False) if clean else []
            texts[f.name] = f.to_series(np.array([text[: f.max_length] for text in decoded], dtype=object), null)
        return texts

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON values."""
        return {
            "name": self.name,
            "schema": self.schema.to_dict(),
            # A list, since the order of fields is that of positions, and processors sort their keys.
            "tokens": [[name, asdict(t)] for name, t in self.tokens.items()],
            "num_text_ids": self.num_text_ids,
            "max_text_tokens": self.max_text_tokens,
            "min_text_count": self.min_text_count,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> CompactCodec:
        """A codec of what `to_dict` gave. Raises a `ValueError` for tokens that are none of the schema's fields."""
        codec = cls(
            RecordSchema.from_dict(state["schema"]),
            {name: FieldTokens.from_dict(t) for name, t in state["tokens"]},
            state["num_text_ids"],
            state["max_text_tokens"],
            state["min_text_count"],
        )
        check_tokens(codec.schema, codec.tokens)
        end = 4 + codec.num_text_ids
        for start, stop in codec.position_ranges[: codec.num_fixed]:
            if start != end:
                raise ValueError(f"ids {start} to {stop} do not follow those before, which end at {end}")
            end = stop
        return codec
