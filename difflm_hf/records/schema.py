"""What a record may hold: one [`Field`] per column, in order, and rules between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Features

from ..checks import shown
from ..files import atomic_write
from .child_tables import ChildTable, nest_tables, relate_tables, unnest_records, with_room
from .csv_files import CSV, FORMATS, ColumnFormat, column_format, with_texts
from .csv_format import USUAL_CSV, CSVFormat
from .dtypes import for_arrow
from .equations import Equation, solve_equations
from .field import Field, naming_column
from .identifiers import Identifier
from .inference import MAX_CATEGORIES, decimals_of, infer_field
from .json_schema import fields_from_json_schema, fields_to_json_schema
from .nested import to_json
from .path_rules import PathRule, derive_paths
from .plain_values import from_plain
from .readers import OPTIONAL, check_columns, read_table
from .rule_search import search_rules
from .rules import Combinations, PresentIf, Rule, Unique


@dataclass
class RecordSchema:
    """
    The fields of a record, in order.

    Infer it from data, look at it, edit it (`schema["age"] = replace(schema["age"], maximum=99)`), and pass it to
    [`DiffLMProcessor`] or [`train`].

    Args:
        fields (`list[Field]`): The fields.
        rules (`list[Rule]`, defaults to none):
            What relates them to each other: [`Ascending`], [`SumOf`], [`ProductOf`], [`Combinations`], [`PresentIf`],
            [`Unique`] and [`Identifier`]. They hold for all generated records.
        csv ([`CSVFormat`], *optional*): How CSV files of generated records are written, if not with commas in UTF-8.

    Raises:
        `ValueError`: for a rule that does not suit the fields.

    Example:

    ```python
    >>> schema = RecordSchema.infer("train.csv")
    >>> schema["age"].type
    'integer'
    >>> schema.to_json_schema()["properties"]["age"]
    {'type': 'integer', 'minimum': 17, 'maximum': 90}
    ```
    """

    fields: list[Field] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    csv: CSVFormat | None = None

    def __post_init__(self):
        if not isinstance(self.rules, Sequence) or not all(isinstance(rule, Rule) for rule in self.rules):
            raise ValueError(f"rules={shown(self.rules)} is not a list of rules")
        for rule in self.rules:
            if odd := [name for name in rule.columns if not isinstance(name, str)]:
                raise ValueError(f"{rule}: {shown(odd[0])} is no name of a column")
        self.rules = [PathRule.wrap(rule, self.by_name) for rule in self.rules]
        for rule in self.rules:
            rule.check(self.by_name)
            if numbered := [name for name in rule.columns if name in self.identifiers and rule.is_of_each]:
                raise ValueError(f"{rule}: column {numbered[0]!r} is an identifier, which says nothing of a record")
        if twice := [
            rule for rule in self.rules if isinstance(rule, Unique) and set(rule.names) & set(self.identifiers)
        ]:
            raise ValueError(f"{twice[0]}: an identifier is unique by itself; leave the rule out")

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, name: str) -> Field:
        for f in self.fields:
            if f.name == name:
                return f
        raise KeyError(f"no field {shown(name)}; the fields are {shown(self.names)}")

    def __setitem__(self, name: str, value: Field) -> None:
        self.fields[self.fields.index(self[name])] = value

    @property
    def names(self) -> list[str]:
        """The names of the fields, in their order."""
        return [f.name for f in self.fields]

    @property
    def by_name(self) -> dict[str, Field]:
        """The fields by their names."""
        return {f.name: f for f in self.fields}

    @property
    def identifiers(self) -> dict[str, Identifier]:
        """The rules of the columns that are not learnt, by these."""
        return {rule.name: rule for rule in self.rules if isinstance(rule, Identifier)}

    @property
    def is_of_documents(self) -> bool:
        """Whether records are texts or have nested values, and thus are no rows of a table."""
        return any(f.type == "json" for f in self) or all(f.type == "text" for f in self)

    @property
    def is_of_texts(self) -> bool:
        """Whether a record is one text, and nothing else."""
        return len(self) == 1 and self.fields[0].type == "text" and not self.fields[0].nullable

    @classmethod
    def infer(
        cls, data: Any, categorical: Sequence[str] = (), max_categories: int = MAX_CATEGORIES, find_rules: bool = False
    ) -> RecordSchema:
        """
        Reads the schema off data.

        Args:
            data (`pandas.DataFrame`, `datasets.Dataset`, `list[dict]`, `str` or `Path`):
                A table, or the path of a CSV, Parquet, JSON or JSON-lines file.
            categorical (`Sequence[str]`, defaults to none):
                Columns to take as categories whatever their values look like, such as codes and identifiers.
            max_categories (`int`, defaults to 100,000):
                Strings with more distinct values than this, or with more than one for every two records, are text.
            find_rules (`bool`, defaults to `False`):
                Whether to look for rules between columns that hold in all of the data, and hardly by chance.

        Raises:
            `ValueError`: on a table with no rows or columns, names that are double or no strings, columns of mixed
                types, and infinite numbers. The message names the column and the way out.
        """
        table = read_table(data)
        check_columns(table, str(data) if isinstance(data, (str, Path)) else "the table")
        if unknown := set(categorical) - set(table.columns):
            raise ValueError(f"no column {sorted(unknown)[0]!r} to take as a category; columns: {shown([*table])}")
        schema = cls()
        decimal = table.attrs.get(CSV, {}).get("decimal")
        for name in table.columns:
            with naming_column(name):
                f = infer_field(name, table[name], name in categorical, max_categories, decimal)
                written = column_format(table, name)
                f.format, f.null = f.format or written.format, written.null or None
                schema.fields.append(replace(f, optional=name in table.attrs.get(OPTIONAL, ())))
        if find_rules:
            rules = search_rules(table, schema.by_name)
            for rule in rules:
                if isinstance(rule, Identifier) and rule.pattern is None:  # there may be more records than in the data
                    schema[rule.name] = with_room(schema[rule.name])
            schema = cls(schema.fields, rules)
        how = CSVFormat(**table.attrs.get(CSV, {}))
        schema.csv = how if how not in (CSVFormat(), USUAL_CSV) else None
        return schema.fit(table)

    @classmethod
    def from_tables(
        cls, parents: pd.DataFrame, children: Mapping[str, pd.DataFrame], on: str | Mapping[str, str], **kwargs
    ) -> RecordSchema:
        """
        The schema of tables that belong together: a record is a row of the parents with the lists of its children.

        Args:
            parents (`pandas.DataFrame`): A row for each record.
            children (`Mapping[str, pandas.DataFrame]`):
                Tables with any number of rows for each, in the order that lists are to have: `{"orders": orders}`.
                Children of these are named by the way to them: `"orders.lines"`.
            on (`str` or `Mapping[str, str]`):
                The column by which children name their parents, and both have; for each child table, where they
                differ. Records get new keys.
            kwargs (*optional*): Those of [`RecordSchema.infer`].

        Raises:
            `ValueError`: for keys that are doubled or null, children without parents, and what inference refuses.

        Example:

        ```python
        >>> schema = RecordSchema.from_tables(customers, children={"orders": orders}, on="customer_id")
        >>> records = schema.from_parents(customers, {"orders": orders})
        >>> pipe = train(records, "model", schema=schema, data_args=DataArguments(nested="rows"))
        >>> customers, children = pipe.processor.schema.to_tables(pipe(1000, output_type="pandas").records)
        ```
        """
        identifier, rules = relate_tables(parents, children, on)
        records = nest_tables(rules, parents, children)
        schema = cls.infer(records, **kwargs)
        schema[identifier.name] = with_room(schema[identifier.name])
        return cls(schema.fields, [*schema.rules, identifier, *rules], schema.csv)

    def from_parents(self, parents: pd.DataFrame, children: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """The records of tables as of [`RecordSchema.from_tables`], with their children in lists."""
        return nest_tables(self._child_tables, parents, children)

    def to_tables(self, records: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
        """
        Parents and children of records, with keys that fit.

        Args:
            records (`pandas.DataFrame`): Records of this schema, which [`RecordSchema.from_tables`] made.
        """
        return unnest_records(self._child_tables, self.conform(records))

    @property
    def _child_tables(self) -> list[ChildTable]:
        rules = [rule for rule in self.rules if isinstance(rule, ChildTable)]
        if not rules:
            raise ValueError("this schema is of one table; make it by RecordSchema.from_tables")
        return rules

    def fit(self, table: pd.DataFrame) -> RecordSchema:
        """
        A schema with what only data tell: the `rarest` of its fields, the decimals of numbers without any, and the
        combinations of [`Combinations`].

        Args:
            table (`pandas.DataFrame`): The data, which conforms to this schema.
        """
        fields = list(self.fields)
        for i, f in enumerate(fields):
            if f.discloses_values:
                _, positions, names = f.names_in(table[f.name])
                rarest = np.bincount(positions, minlength=len(names)).min(initial=len(table))
                fields[i] = replace(f, rarest=int(rarest))
            elif f.type == "number" and f.decimals is None and len(values := table[f.name].dropna()):
                fields[i] = replace(f, decimals=decimals_of(f.to_numpy(values)))
        return RecordSchema(fields, [rule.fit(table) for rule in self.rules], self.csv)

    def check_rules(self, data: Any) -> pd.DataFrame:
        """
        How well data keep the rules.

        Args:
            data (`pandas.DataFrame` or anything that [`RecordSchema.infer`] takes):
                Records with the columns of the rules. Their values may lie outside the bounds of the fields.

        Returns:
            `pandas.DataFrame` with a row for each rule: `rule`, `num_broken` records, and the `first_broken` row.
        """
        table, rows = read_table(data), []
        rules = [PathRule.wrap(rule, self.by_name) for rule in self.rules]
        for rule in rules:
            if missing := [name for name in rule.columns if name not in table]:
                raise ValueError(f"{rule}: column {missing[0]!r} is missing; the table has {shown([*table])}")
        for rule in rules:
            broken = ~rule.holds(table, self.by_name)
            rows.append((str(rule), int(broken.sum()), int(broken.argmax()) if broken.any() else None))
        return pd.DataFrame(rows, columns=["rule", "num_broken", "first_broken"])

    def derive(self, table: pd.DataFrame, known: Mapping[str, np.ndarray] | None = None) -> pd.DataFrame:
        """
        A table with the values that follow from others by a rule: sums, products, and nulls.

        Args:
            table (`pandas.DataFrame`): Records.
            known (`Mapping[str, np.ndarray]`, *optional*):
                Values that stay, as a `bool` array of shape `(num_records,)` for each column, and for paths as of
                [`derive_paths`].
        """
        table = derive_paths([rule for rule in self.rules if isinstance(rule, PathRule)], table, known)
        if equations := [rule for rule in self.rules if isinstance(rule, Equation)]:
            table = solve_equations(equations, table, self.by_name, known)
        for rule in self.rules:
            if isinstance(rule, PresentIf):
                table = rule.derive(table, self.by_name, known)
        return table

    def holds(self, table: pd.DataFrame, known: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """
        Which records keep the rules that are of each alone.

        Args:
            table (`pandas.DataFrame`): Records.
            known (`Mapping[str, np.ndarray]`, *optional*):
                As of [`RecordSchema.derive`]; rules between values that are all known are not looked at.

        Returns:
            `np.ndarray` of shape `(num_records,)`, `bool`.
        """
        held = np.ones(len(table), bool)
        for rule in self.rules:
            if isinstance(rule, PathRule):
                held &= rule.holds(table, self.by_name, known)
            elif rule.is_of_each:
                is_given = False if known is None else np.logical_and.reduce([known[name] for name in rule.columns])
                held &= rule.holds(table, self.by_name) | is_given
        # What was derived may lie outside the bounds; so may what follows from known values alone.
        equations = [rule for rule in self.rules if isinstance(rule, Equation)]
        settled = {name: np.zeros(len(table), bool) for rule in equations for name in rule.columns}
        if known is not None:
            settled = {name: known[name].copy() for name in settled}
            for rule in equations * len(equations):
                num_open = sum(~settled[name] for name in rule.columns)
                for name in rule.columns:
                    settled[name] |= num_open == 1
        for name, is_settled in settled.items():
            held &= self[name].allows(table[name]) | is_settled
        return held

    def without_rare_categories(self, table: pd.DataFrame, min_count: int) -> tuple[RecordSchema, np.ndarray]:
        """
        A schema that names no category of fewer than `min_count` records, for data about people: a category of one is
        that one. So are a key and a string that an inferred JSON Schema names.

        Args:
            table (`pandas.DataFrame`): The data, which conforms to this schema.
            min_count (`int`): The fewest records of a category.

        Returns:
            The schema, and a mask of shape `(num_records,)` of the records that conform to it.

        Raises:
            `ValueError`: when that is fewer than half of the records. The message names the column.
        """
        found = {f.name: f.names_in(table[f.name]) for f in self if f.discloses_values}
        kept, counts = np.ones(len(table), bool), {}
        while True:
            # Without its records, a category of another column may have become rare.
            left, rare = kept.copy(), {}
            for name, (rows, positions, names) in found.items():
                counts[name] = np.bincount(positions[kept[rows]], minlength=len(names))
                rare[name] = np.zeros(len(table), bool)
                rare[name][rows[counts[name][positions] < min_count]] = True
                left &= ~rare[name]
            if 2 * left.sum() < len(table):
                name = max(rare, key=lambda name: rare[name].sum())
                raise ValueError(
                    f"column {name!r}: {rare[name].sum()} of {len(table)} records have categories of fewer than "
                    f"{min_count}; drop the column, merge its categories, or lower min_category_count"
                )
            if (left == kept).all():
                break
            kept = left
        schema, has_new_names = RecordSchema(list(self.fields), csv=self.csv), False
        for name, count in counts.items():
            f, is_common = self[name], count >= min_count
            if f.type == "category" and is_common.any():
                common = [category for category, is_named in zip(f.categories, is_common) if is_named]
                schema[name] = replace(f, categories=common)
            elif f.type == "category":
                schema[name] = replace(f, type="null", categories=None, ordered=None, rarest=None)
            elif f.words:
                common = [word for word, is_named in zip(f.words, is_common) if is_named]
                schema[name] = replace(f, words=common or None, rarest=None)
            elif not is_common.all():
                inferred = RecordSchema.infer(table.loc[kept, [name]])[name]
                schema[name] = replace(inferred, nullable=f.nullable, optional=f.optional)
                has_new_names = True
        schema.rules = self._rules_of(schema)
        if has_new_names:  # what few enough keys had, once too many to be named, has names now
            schema, kept[kept] = schema.without_rare_categories(table[kept], min_count)
        return schema.fit(table[kept]), kept

    def _rules_of(self, schema: RecordSchema) -> list[Rule]:
        """The rules for a schema without some of the categories, which they do not name either."""
        rules: list[Rule] = []
        for rule in self.rules:
            if any(schema[name].type == "null" for name in rule.columns):
                continue
            if isinstance(rule, Combinations):
                rule = replace(rule, values=None)  # anew from the records that are left
            elif isinstance(rule, PresentIf) and schema[rule.other].type == "category":
                rule = replace(rule, values=[v for v in rule.values if v in schema[rule.other].categories])
            rules.append(rule)
        return rules

    def conform(self, data: Any) -> pd.DataFrame:
        """
        The data as a table with exactly the columns of this schema, in its order.

        Raises:
            `ValueError`: when a column is missing or stands twice, or has a value that its field does not allow. The
                message names column, row and value.
        """
        table = self.with_texts(read_table(data, self.reading))
        lacking = [f.name for f in self if f.optional and f.name not in table]
        if 0 < len(lacking) < len(self):
            table = table.assign(**dict.fromkeys(lacking))
        for f in self:
            if (count := list(table.columns).count(f.name)) != 1:
                problem = "stands more than once" if count else "is missing"
                raise ValueError(
                    f"column {f.name!r} {problem}; the schema has {shown(self.names)}, and the data "
                    f"{shown([*table])}: make them agree"
                )
            with naming_column(f.name):
                f.check(table[f.name])
        return table[self.names]

    @property
    def reading(self) -> CSVFormat:
        """What other CSV files of such records are read by: the words for missing values."""
        return CSVFormat(null_words=None if self.csv is None else self.csv.null_words)

    def with_texts(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table that was read from a CSV file, with texts in the columns that have these by this schema."""
        return with_texts(table, [f.name for f in self if f.has_texts])

    @classmethod
    def from_json_schema(cls, schema: dict[str, Any]) -> RecordSchema:
        """
        Takes over a JSON Schema.

        Args:
            schema (`dict`): The JSON Schema (draft 2020-12) of one record, which is an object.

        Raises:
            `ValueError`: when it is none, not of objects with named properties, or ties properties to each other.
        """
        return cls(fields_from_json_schema(schema))

    @classmethod
    def from_pydantic(cls, model: type) -> RecordSchema:
        """
        Takes over a pydantic model: its fields, under the names that JSON has for them.

        Args:
            model (`type[pydantic.BaseModel]`): The class.
        """
        return cls.from_json_schema(model.model_json_schema(mode="serialization"))

    def to_json_schema(self) -> dict[str, Any]:
        """The schema of one record as a JSON Schema (draft 2020-12), with those rules that it can say."""
        rules = [said for rule in self.rules if (said := rule.to_json_schema(self.by_name))]
        return fields_to_json_schema(self.fields) | ({"allOf": rules} if rules else {})

    def to_table(self, columns: dict[str, pd.Series]) -> pd.DataFrame:
        """A table of the fields' columns, which says what of them its records may lack."""
        table = pd.DataFrame(columns, columns=self.names)
        if optional := [f.name for f in self if f.optional]:
            table.attrs[OPTIONAL] = optional
        if self.csv is not None:
            table.attrs[CSV] = self.csv.to_dict()
        formats = {f.name: ColumnFormat(None if f.is_spelled else f.format, f.null or "") for f in self}
        if written := {name: asdict(of) for name, of in formats.items() if of != ColumnFormat()}:
            table.attrs[FORMATS] = written
        return table

    def to_record_batch(self, table: pd.DataFrame) -> pa.RecordBatch:
        """A table of this schema as Arrow has it, nested values as JSON."""
        columns = {
            f.name: table[f.name].map(to_json, na_action="ignore") if f.type == "json" else for_arrow(table[f.name])
            for f in self
        }
        return pa.RecordBatch.from_pandas(table.assign(**columns), self.to_arrow(), preserve_index=False)

    def to_arrow(self) -> pa.Schema:
        """The Arrow schema of generated tables, the same for all of them."""
        return pa.schema([f.to_arrow() for f in self])

    def to_features(self) -> Features:
        """The features of a `datasets.Dataset` of generated records."""
        return Features.from_arrow_schema(self.to_arrow())

    def to_dict(self) -> dict[str, Any] | list[dict[str, Any]]:
        """The schema as JSON values: a list of its fields, and with rules a dict of both."""
        fields = [f.to_dict() for f in self.fields]
        if not self.rules and self.csv is None:
            return fields
        written = {} if self.csv is None else {"csv": self.csv.to_dict()}
        return {"fields": fields, "rules": [rule.to_dict() for rule in self.rules], **written}

    @classmethod
    def from_dict(cls, state: dict[str, Any] | list[dict[str, Any]]) -> RecordSchema:
        """A schema of what [`RecordSchema.to_dict`] gave. Raises a `ValueError` for anything else."""
        state = state if isinstance(state, Mapping) else {"fields": state, "rules": []}
        for name in ("fields", "rules"):
            if not isinstance(state.get(name), list):
                raise ValueError(f"a schema has a list of {name}, not {shown(state.get(name))}")
        csv = from_plain(CSVFormat, state["csv"]) if "csv" in state else None
        fields = [*map(Field.from_dict, state["fields"])]
        for f in fields:
            f.check_dtype()
        return cls(fields, [*map(Rule.from_dict, state["rules"])], csv)

    def save(self, path: str | Path) -> None:
        """Writes the schema as a JSON file that can be edited and read back by [`RecordSchema.load`]."""
        with atomic_write(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> RecordSchema:
        """Reads a file of [`RecordSchema.save`]. Raises a `ValueError` for any other."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a record schema ({error})") from error
