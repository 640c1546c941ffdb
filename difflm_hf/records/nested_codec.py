"""The nested codec: records with lists and optional keys as a few tokens, for decoders trained from scratch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .bpe import SPECIAL_TOKENS, to_tokenizer
from .codec import RecordCodec
from .compact_codec import CompactCodec
from .field import Field, naming_column
from .grammar import JSONGrammar
from .hashing import derive_keys, keys_of, uniforms_of
from .inference import infer_field
from .json_codec import JSONCodec
from .layout import Gate, LevelLayout, LevelRows, RecordLayout
from .nested_tables import ABSENT_VALUE, GAP, GIVEN, UNKNOWN, NestedRows, NestedTables, Place
from .ordered_columns import OrderedColumn
from .schema import RecordSchema
from .spelling import Speller


NUM_SPECIAL = len(SPECIAL_TOKENS)
MAX_CHARACTERS = 200  # of texts that are spelled in rows
AS_JSON = 'leave it out, or learn the records as documents, by nested="json"'


class NestedCodec(RecordCodec):
    """
    Turns records with nested values into token ids and back, exactly.

    A record is `⟨s⟩`, then a row of tokens as the compact codec makes it of a table's row: of its columns, of what is
    in its objects, and of the lengths of its lists. Then follow the items of the lists, each a row of its own.

    Use [`NestedCodec.fit`] to make one.

    Args:
        schema (`RecordSchema`): The fields.
        tables ([`NestedTables`]): How the nested ones are tables.
        codecs (`list[CompactCodec]`): That of each table, with ids from the special ones on.
        ordered (`dict[str, OrderedColumn]`): Columns of items that ascend, by name: their tokens are of gaps.
    """

    name = "nested"
    has_fixed_layout = True

    def __init__(
        self,
        schema: RecordSchema,
        tables: NestedTables,
        codecs: list[CompactCodec],
        ordered: dict[str, OrderedColumn],
    ):
        super().__init__(schema)
        self.ordered = ordered
        self.tables = tables
        self.codecs = codecs
        sizes = [codec.vocab_size - NUM_SPECIAL for codec in codecs]
        self.offsets = [sum(sizes[:number]) for number in range(len(sizes))]
        self.num_offsets = 1
        self.layout = RecordLayout([self._level_layout(number) for number in range(len(codecs))])
        self.levels = self.layout.to_list()
        self.texts: list[Field] = []

    @classmethod
    def fit(cls, schema: RecordSchema, table: pd.DataFrame, **kwargs) -> tuple[NestedCodec, PreTrainedTokenizerFast]:
        """
        Reads places, lengths, bins and values off records.

        Args:
            schema (`RecordSchema`): Their schema.
            table (`pandas.DataFrame`): The records.
            kwargs (*optional*): Those of [`CompactCodec.fit`].

        Returns:
            The codec and its tokenizer.

        Raises:
            `ValueError`: for records that are no rows inside rows of categories, numbers, dates and short texts.
        """
        table = schema.conform(table)
        nested = table[_nested_names(schema)]
        tables = cls.tables_of(schema, table, kwargs.get("min_text_count", 1))
        codecs, vocab, ordered = [], list(SPECIAL_TOKENS), {}
        rows = tables.to_tables(nested)
        records = tables.records_of(rows, len(table))
        for number, frame in enumerate(_frames(schema, table, rows)):
            level, parents = tables.levels[number], np.array(rows[number].parents)
            for name in level.columns if number else ():
                if name not in level.gates and (found := OrderedColumn.find(name, frame[name], parents)):
                    ordered[name] = found
                    frame[name] = found.to_gaps(frame[name], parents)
            fields = [f for f in schema if f.name not in nested] if number == 0 else []
            for name in level.columns:
                with naming_column(name):
                    fields.append(_infer_leaf(name, frame[name], name in tables.presences))
                    if name in tables.pieces:
                        fields[-1] = Field(name, "category", categories=tables.speller.vocab)
            exact = {}
            for place in (below.lengths for below in tables.levels if below.parent == number):
                exact[place] = sorted(set(frame[place].dropna()))
                if f"{place}[*]" in tables.pieces:  # there may be texts of any number of pieces, up to the most
                    exact[place] = [*range(exact[place][-1] + 1)]
                    fields = [replace(f, minimum=0) if f.name == place else f for f in fields]
            rules = list(schema.identifiers.values()) if number == 0 else []
            codec, tokenizer = CompactCodec.fit(
                RecordSchema(fields, rules), frame, exact=exact, owners=records[number], **kwargs
            )
            _count_records(codec, frame, records[number])
            codecs.append(codec)
            vocab += tokenizer.convert_ids_to_tokens(range(NUM_SPECIAL, codec.vocab_size))
        return cls(schema, tables, codecs, ordered), to_tokenizer(vocab, [])

    @classmethod
    def tables_of(cls, schema: RecordSchema, table: pd.DataFrame, min_text_count: int = 1) -> NestedTables:
        """
        How the nested values of records are tables.

        Args:
            schema (`RecordSchema`): Their schema.
            table (`pandas.DataFrame`): The records, which conform to it.
            min_text_count (`int`, defaults to 1): As of [`CompactCodec.fit`].

        Raises:
            `ValueError`: where they are no tables of categories, numbers, dates and short texts.
        """
        nested = table[_nested_names(schema)]
        try:
            tables = NestedTables.infer(nested)
            for level, rows in zip(tables.levels, tables.to_tables(nested)):
                if level.root is not None and all(value is None for of in rows.columns.values() for value in of):
                    raise ValueError(f"the items of {level.lengths!r} have nothing but nulls in them")
        except ValueError as error:
            raise ValueError(f"{error}: these are no rows inside rows; {AS_JSON}") from error
        tables = _spelled(tables, nested, min_text_count)
        inside = {name for level in tables.levels for name in level.columns} - set(nested)
        if both := sorted(inside & set(schema.names)):
            raise ValueError(f"column {both[0]!r} is called as a place inside another column; rename it")
        return tables

    @classmethod
    def suits(cls, schema: RecordSchema, table: pd.DataFrame) -> bool:
        """Whether there is a codec for records of a schema."""
        try:
            cls.tables_of(schema, table)
        except ValueError:
            return False
        return True

    @staticmethod
    def with_common_values(table: pd.DataFrame, min_count: int) -> np.ndarray:
        """
        Which records have no string, no length of a list and no presence of a key that fewer than `min_count` records
        have: the codec names them all.

        Args:
            table (`pandas.DataFrame`): The columns of nested values.
            min_count (`int`): The fewest records.

        Returns:
            `np.ndarray` of shape `(num_records,)`, `bool`.
        """
        tables, kept = NestedTables.infer(table), np.ones(len(table), bool)
        rows = tables.to_tables(table)
        for level, of_level, records in zip(tables.levels, rows, tables.records_of(rows, len(table))):
            lengths, frame = {below.lengths for below in tables.levels}, of_level.to_frame()
            for name in level.columns:
                is_presence = name in tables.presences
                if name in lengths or _infer_leaf(name, frame[name], is_presence).type == "category":
                    places, values = pd.factorize(frame[name])
                    pairs = np.unique(np.stack([records, places]), axis=1)
                    counts = np.bincount(pairs[1][pairs[1] >= 0], minlength=len(values))
                    kept[records[(places >= 0) & (counts[places] < min_count)]] = False
        return kept

    def _level_layout(self, number: int) -> LevelLayout:
        level, codec, offset = self.tables.levels[number], self.codecs[number], self.offsets[number]
        ranges = [(start + offset, end + offset) for start, end in codec.position_ranges]
        positions = {name: position for position, name in enumerate(codec.tokens)}
        gates = []
        for name, source in level.gates.items():
            if name not in positions:  # nothing but nulls
                continue
            opened = codec.tokens[source]
            open_id = opened.start + len(codec.schema[source].apart) + opened.values.index(GIVEN) + offset
            gates.append(Gate(positions[name], positions[source], open_id, name in level.nullable))
        if level.parent < 0:
            return LevelLayout(ranges, gates)
        above = self.codecs[level.parent]
        f, tokens = above.schema[level.lengths], above.tokens[level.lengths]
        lengths = [*[0] * len(f.apart), *tokens.grid.decode(f, np.array(tokens.values, np.uint64)).tolist()]
        position = list(above.tokens).index(level.lengths)
        return LevelLayout(ranges, gates, level.parent, position, lengths)

    @property
    def position_fields(self) -> list[int]:
        """The field that stands at each position before the lists, as a place among those with tokens."""
        return self.codecs[0].position_fields

    @property
    def ordered_ranges(self) -> list[tuple[int, int]]:
        ranges = zip(self.codecs, self.offsets)
        return [(start + o, end + o) for codec, o in ranges for start, end in codec.ordered_ranges]

    @property
    def rarest(self) -> dict[str, int]:
        found = super().rarest
        for codec in self.codecs:
            found |= codec.rarest
        of_texts = {column.removesuffix("[*]") for column in self.tables.pieces} | self.tables.pieces
        return {name: count for name, count in found.items() if name not in of_texts}

    def split(self, table: pd.DataFrame) -> tuple[list[pd.DataFrame], list[NestedRows]]:
        """
        The tables that records are, with the columns that its codec has tokens for, and which rows these are of.

        Args:
            table (`pandas.DataFrame`): Records of the schema.
        """
        rows = self.tables.to_tables(table[_nested_names(self.schema)])
        frames = _frames(self.schema, table, rows)
        for frame, of_level in zip(frames, rows):
            for name in self.ordered.keys() & set(frame):
                with naming_column(name):
                    if any(value is GAP or value is UNKNOWN for value in frame[name]):
                        raise ValueError("it ascends, and has gaps; fill these, or leave out the items")
                    frame[name] = self.ordered[name].to_gaps(frame[name], np.array(of_level.parents))
        return frames, rows

    def to_inputs(
        self,
        records: Any,
        tokenizer: PreTrainedTokenizerBase,
        encoder_tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        key_order: str = "schema",
        grammar: JSONGrammar | None = None,
    ) -> dict[str, np.ndarray]:
        frames, rows = self.split(self.schema.conform(records))
        ids, parents, offsets = [], [], []
        for number, (codec, frame) in enumerate(zip(self.codecs, frames)):
            for name in (column.removesuffix("[*]") for column in self.tables.pieces):
                most = codec.schema[name].maximum if name in frame else 0
                if name in frame and (longest := frame[name].max()) > most:
                    raise ValueError(
                        f"column {name!r} has a text of {longest} pieces, and the longest of the training data has "
                        f"{most}; shorten or drop it"
                    )
            found, above = codec.encode_fields(codec.schema.conform(frame))
            ids.append(torch.from_numpy(found + self.offsets[number]))
            parents.append(torch.tensor(rows[number].parents or range(len(frame)), dtype=torch.long))
            offsets.append(above)
        input_ids = self.layout.pack(ids, parents)
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": (input_ids > 0).long().numpy()}
        return inputs | {"within_bin_offsets": self.pack_offsets(offsets, self.layout.unpack(input_ids))}

    def to_records(
        self, input_ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, within_bin_offsets: np.ndarray | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        levels = self.layout.unpack(torch.from_numpy(np.ascontiguousarray(input_ids)))
        rows, flat = [], pd.DataFrame()
        for number, (codec, level) in enumerate(zip(self.codecs, levels)):
            offsets = self.offsets_of(within_bin_offsets, number, levels)
            ids = np.pad(level.ids.numpy() - self.offsets[number], ((0, 0), (1, 0)))
            table = codec.decode(ids, tokenizer, offsets)
            for name in self.ordered.keys() & set(table):
                table[name] = self.ordered[name].from_gaps(table[name], level.parents.numpy())
            columns = {name: _to_list(table[name]) for name in self.tables.levels[number].columns}
            rows.append(NestedRows(columns, level.parents.tolist()))
            flat = table if number == 0 else flat
        values = self.tables.to_values(rows)
        columns = {f.name: flat[f.name] for f in self.schema if f.name not in values}
        columns |= {name: _to_series(self.schema[name], of_field) for name, of_field in values.items()}
        return self.schema.to_table(columns), np.ones(len(input_ids), bool)

    def offsets_of(self, given: np.ndarray | None, number: int, levels: list[LevelRows]) -> np.ndarray:
        """
        The offsets of a level's rows, of shape `(num_rows, num_offsets)`: as encoded, or floats in [0, 1), which those
        of a record stand for, of shape `(num_records, 1)`.
        """
        level, shape = levels[number], (len(levels[number].ids), self.codecs[number].num_offsets)
        if given is None:
            return np.full(shape, 0.5)
        if given.dtype == np.int64:
            return given.view(np.uint64)[self._offset_places(levels)[number]]
        ranks = torch.arange(shape[0]) - torch.searchsorted(level.records, level.records)
        keys = derive_keys(derive_keys(keys_of(torch.from_numpy(given[:, 0])), number)[level.records], ranks)
        return uniforms_of(derive_keys(keys[:, None], torch.arange(shape[1]))).numpy()

    def pack_offsets(self, offsets: list[np.ndarray], levels: list[LevelRows]) -> np.ndarray:
        """The offsets of all rows of a record side by side, of shape `(num_records, most_of_a_record)`."""
        places = self._offset_places(levels)
        width = max((int(columns.max(initial=-1)) for _, columns in places), default=-1) + 1
        packed = np.zeros((len(levels[0].ids), width), np.uint64)
        for of_level, at in zip(offsets, places):
            packed[at] = of_level
        return packed.view(np.int64)

    def _offset_places(self, levels: list[LevelRows]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Where in packed offsets those of each level are: row and column, of shape `(num_rows, num_offsets)`."""
        used, places = np.zeros(len(levels[0].ids), np.int64), []
        for codec, level in zip(self.codecs, levels):
            records = level.records.numpy()
            rank = np.arange(len(records)) - np.searchsorted(records, records)
            columns = (used[records] + rank * codec.num_offsets)[:, None] + np.arange(codec.num_offsets)
            places.append((np.broadcast_to(records[:, None], columns.shape), columns))
            used += np.bincount(records, minlength=len(used)) * codec.num_offsets
        return places

    def to_texts(self, records: Any) -> list[str]:
        return JSONCodec(self.schema).encode(records)

    def too_long(
        self, records: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, key_order: str = "schema"
    ) -> np.ndarray:
        return np.zeros(len(self.schema.conform(records)), bool)

    def config_fields(self, max_length: int) -> dict[str, Any]:
        root = self.codecs[0]
        return {
            "position_ranges": root.position_ranges,
            "max_record_length": root.max_length,
        }

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON values."""
        return {
            "name": self.name,
            "schema": self.schema.to_dict(),
            "speller": self.tables.speller and self.tables.speller.to_dict(),
            "places": [[name, place.to_dict()] for name, place in self.tables.places.items()],
            "codecs": [codec.to_dict() for codec in self.codecs],
            "ordered": {name: column.to_dict() for name, column in self.ordered.items()},
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> NestedCodec:
        """A codec of what `to_dict` gave. Raises a `ValueError` for tables that are not those of the places."""
        schema = RecordSchema.from_dict(state["schema"])
        speller = None if state["speller"] is None else Speller(**state["speller"])
        tables = NestedTables({name: Place.from_dict(place) for name, place in state["places"]}, speller)
        if tables.pieces and speller is None:
            raise ValueError(f"there are texts of {sorted(tables.pieces)}, and no speller")
        codecs = [CompactCodec.from_dict(codec) for codec in state["codecs"]]
        ordered = {name: OrderedColumn.from_dict(column) for name, column in state["ordered"].items()}
        if list(tables.places) != _nested_names(schema):
            raise ValueError(f"there are places of {list(tables.places)}, and the fields are {schema.names}")
        expected = [list(level.columns) for level in tables.levels]
        expected[0] = [*(f.name for f in schema if f.name not in tables.places), *expected[0]]
        if (found := [codec.schema.names for codec in codecs]) != expected:
            raise ValueError(f"there are tables of {found}, and the places are {expected}")
        for level in tables.levels[1:]:
            f, tokens = codecs[level.parent].schema[level.lengths], codecs[level.parent].tokens.get(level.lengths)
            if f.type != "integer" or tokens is None or tokens.bins is not None or f.bounds[0] < 0:
                raise ValueError(f"the lengths of {level.lengths} are no numbers of items with a token each")
        for name, column in ordered.items():
            of_name = [codec.schema[name] for codec in codecs[1:] if name in codec.schema.names]
            if [f.type for f in of_name] != ["integer"] or column.unit < 1 or column.first > column.last:
                raise ValueError(f"{name} is no column of items that ascends")
        return cls(schema, tables, codecs, ordered)


def _nested_names(schema: RecordSchema) -> list[str]:
    """The columns that lists may be in; texts are lists of pieces."""
    return [f.name for f in schema if f.type in ("json", "text") and f.name not in schema.identifiers]


def _spelled(tables: NestedTables, nested: pd.DataFrame, min_count: int) -> NestedTables:
    """The tables of records with those texts in pieces that have no token each."""
    texts: dict[str, int] = {}
    rows, of_records = tables.to_tables(nested), [[] for _ in range(len(nested))]
    for level, of_level, records in zip(tables.levels, rows, tables.records_of(rows, len(nested))):
        frame = of_level.to_frame()
        for name in level.columns:
            with naming_column(name):
                is_presence = name in tables.presences
                if name not in nested and _infer_leaf(name, frame[name], is_presence).type != "text":
                    continue
                if not all(isinstance(value, str) for value in frame[name].dropna()):
                    continue
            given = frame[name].notna()
            texts[name] = int(frame[name][given].str.len().max()) if given.any() else 0
            for record, text in zip(records[given], frame[name][given]):
                of_records[record].append(text)
    if not texts:
        return tables
    speller = Speller.fit(of_records, min_count)
    for name, length in texts.items():
        if length > MAX_CHARACTERS:
            raise ValueError(f"column {name!r} has free texts of up to {length} characters; {AS_JSON}")
    return NestedTables({name: place.spelled(texts) for name, place in tables.places.items()}, speller)


def _frames(schema: RecordSchema, table: pd.DataFrame, rows: list[NestedRows]) -> list[pd.DataFrame]:
    """The table of each level; that of records has their columns that are not nested, too."""
    frames = [of_level.to_frame() for of_level in rows]
    flat = table.drop(columns=_nested_names(schema)).reset_index(drop=True)
    return [pd.concat([flat, frames[0]], axis=1), *frames[1:]]


def _count_records(codec: CompactCodec, frame: pd.DataFrame, records: np.ndarray) -> None:
    """Has a codec know how many records have the rarest of what it names of each column: one may have many items."""
    ids, _ = codec.encode_fields(codec.schema.conform(frame))
    for position, (name, t) in enumerate(codec.tokens.items()):
        f = codec.schema[name]
        if f.discloses_values:
            rows, places, names = f.names_in(frame[name])
            codec.schema[name] = replace(f, rarest=_fewest(records[rows], places, len(names)))
        if f.is_numeric and t.values:
            places = ids[:, position] - t.start - len(f.apart)
            is_own = (places >= 0) & (places < len(t.values))
            t.rarest = _fewest(records[is_own], places[is_own], len(t.values))


def _fewest(records: np.ndarray, places: np.ndarray, num_values: int) -> int:
    """The records that the rarest of some values is in."""
    _, of_value = np.unique(np.stack([records, places]), axis=1)
    return int(np.bincount(of_value, minlength=num_values).min())


def _infer_leaf(name: str, column: pd.Series, is_presence: bool = False) -> Field:
    """The field of a column of a level. Texts of few numbers, such as versions, are names, and no quantities."""
    f = infer_field(name, column, is_presence)
    if f.is_spelled and f.type != "datetime":
        named = infer_field(name, column, True)
        f = named if 2 * len(named.categories) <= column.notna().sum() else f
    return f


def _to_list(column: pd.Series) -> list[Any]:
    """Values as Python has them."""
    null = column.isna().to_numpy()
    if not null.any():
        return column.tolist()
    values = column.astype(object).to_numpy(copy=True)
    values[null] = None
    return values.tolist()


def _to_series(f: Field, values: list[Any]) -> pd.Series:
    """A column of nested values or texts; an absent one is null, as in all tables."""
    values = [None if value is ABSENT_VALUE else value for value in values]
    if f.type == "json":
        return pd.Series(values, dtype=object)
    null = np.array([value is None for value in values], bool)
    return f.to_series(np.array(values, dtype=object), null)
