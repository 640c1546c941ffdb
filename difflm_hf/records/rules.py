"""What relates the columns of records to each other."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..checks import shown
from .field import Field, naming_column


@dataclass(frozen=True)
class Rule(ABC):
    """
    What relates columns of a record to each other. A [`RecordSchema`] holds rules beside its fields.

    Attributes:
        types (`tuple[str, ...]`): The types that its columns may have.
        is_of_each (`bool`): Whether it is of each record alone, or of all together.
    """

    types: ClassVar[tuple[str, ...]] = ()
    is_of_each: ClassVar[bool] = True
    kinds: ClassVar[dict[str, type[Rule]]] = {}

    def __init_subclass__(cls):
        Rule.kinds[cls.__name__] = cls

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that it relates."""

    @property
    def derived(self) -> tuple[str, ...]:
        """The columns whose values may be made to follow from those of others."""
        return ()

    def check(self, fields: Mapping[str, Field]) -> None:
        """Raises a `ValueError` where it does not suit the fields of a schema, which are given by name."""
        for name in self.columns:
            if name not in fields:
                raise ValueError(f"{self}: no column {shown(name)}; the columns are {shown(list(fields))}")
            if fields[name].type not in self.types:
                kinds = f"{', '.join(self.types[:-1])} or {self.types[-1]}"
                raise ValueError(f"{self}: column {name!r} is of type {fields[name].type}, and not {kinds}")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"{self}: a column is named twice")

    def fit(self, table: pd.DataFrame) -> Rule:
        """The rule with what only data tell."""
        return self

    @abstractmethod
    def holds(self, table: pd.DataFrame, fields: Mapping[str, Field]) -> np.ndarray:
        """For which records it holds, as a `bool` array of shape `(num_records,)`."""

    def to_json_schema(self, fields: Mapping[str, Field]) -> dict[str, Any]:
        """The rule as keywords of a JSON Schema of records; none where that cannot say it."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON values, with its name under `"rule"`."""
        return {"rule": type(self).__name__, **asdict(self)}

    @staticmethod
    def from_dict(state: dict[str, Any]) -> Rule:
        """A rule of what [`Rule.to_dict`] gave."""
        if not isinstance(state, Mapping):
            raise ValueError(f"a rule is an object, not {shown(state)}")
        state = dict(state)
        name = state.pop("rule", None)
        if not isinstance(name, str) or name not in Rule.kinds:
            raise ValueError(f"{shown(name)} is not one of the rules {sorted(Rule.kinds)}")
        try:
            return Rule.kinds[name](**state)
        except TypeError as error:
            raise ValueError(f"{shown(state)} does not make a rule {name}: {error}") from error

    def __str__(self) -> str:
        # Not what was read off data, of which there may be much.
        given = (getattr(self, f.name) for f in fields(self) if f.repr)
        return f"{type(self).__name__}({', '.join(map(shown, given))})"


@dataclass(frozen=True)
class Ascending(Rule):
    """
    Numbers or datetimes, none of which is above the next: `start <= end`. Nulls are left out.

    Args:
        names (`Sequence[str]`): The columns, from that of the smallest values on.
        strict (`bool`, defaults to `False`): Whether equal values break it.
    """

    names: tuple[str, ...]
    strict: bool = False

    types = ("integer", "number", "datetime")

    def __post_init__(self):
        object.__setattr__(self, "names", read_names(self.names, 2))

    @property
    def columns(self) -> tuple[str, ...]:
        return self.names

    def check(self, fields: Mapping[str, Field]) -> None:
        super().check(fields)
        if len({fields[name].type == "datetime" for name in self.names}) > 1:
            raise ValueError(f"{self}: numbers do not compare with datetimes")

    def holds(self, table: pd.DataFrame, fields: Mapping[str, Field]) -> np.ndarray:
        numbers = [read_numbers(fields[name], table[name]) for name in self.names]
        held = np.ones(len(table), bool)
        for (low, has_low), (high, has_high) in itertools.combinations(numbers, 2):  # a null may stand between
            held &= ~(has_low & has_high) | ((low < high) if self.strict else (low <= high))
        return held


@dataclass(frozen=True)
class Combinations(Rule):
    """
    Columns of which only some combinations of values occur, such as a city and its state.

    Args:
        names (`Sequence[str]`): The columns.
        values (`Sequence[Sequence]`, *optional*): The combinations; those of the training data when not given.
        rarest (`int`, *optional*): Records of the rarest of them in the training data.
    """

    names: tuple[str, ...]
    values: tuple[tuple[Hashable, ...], ...] | None = None
    rarest: int | None = None

    types = ("category", "boolean", "integer", "text")

    def __post_init__(self):
        object.__setattr__(self, "names", read_names(self.names, 2))
        if self.values is not None:
            if isinstance(self.values, str) or not isinstance(self.values, Iterable):
                raise ValueError(f"{self}: values={self.values!r} is not a list of combinations")
            object.__setattr__(self, "values", tuple(read_values(value, str(self)) for value in self.values))
            if wrong := [value for value in self.values if len(value) != len(self.names)]:
                raise ValueError(f"{self}: {wrong[0]!r} is not a value for each column")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.names

    def fit(self, table: pd.DataFrame) -> Rule:
        counts: dict[tuple, int] = {}
        for key in _keys(table, self.names):
            counts[key] = counts.get(key, 0) + 1
        values = tuple(counts) if self.values is None else self.values
        return replace(self, values=values, rarest=min((counts.get(value, 0) for value in values), default=0))

    def holds(self, table: pd.DataFrame, fields: Mapping[str, Field]) -> np.ndarray:
        if self.values is None:
            return np.ones(len(table), bool)
        allowed = set(self.values)
        return np.fromiter((key in allowed for key in _keys(table, self.names)), bool, len(table))

    def to_json_schema(self, fields: Mapping[str, Field]) -> dict[str, Any]:
        if self.values is None:
            return {}
        options = [{"properties": {n: {"const": v} for n, v in zip(self.names, value)}} for value in self.values]
        return {"anyOf": options}

    def __str__(self) -> str:
        return f"Combinations({shown(list(self.names))})"


@dataclass(frozen=True)
class PresentIf(Rule):
    """
    A column that is null unless another has certain values.

    Args:
        name (`str`): The column that may be null.
        other (`str`): The column that it depends on, a category or a boolean.
        values (`Sequence`): The values of that with which it may be given.
    """

    name: str
    other: str
    values: tuple[Hashable, ...]

    def __post_init__(self):
        object.__setattr__(self, "values", read_values(self.values, f"PresentIf({self.name!r}, {self.other!r})"))

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name, self.other)

    @property
    def derived(self) -> tuple[str, ...]:
        return self.columns

    def check(self, fields: Mapping[str, Field]) -> None:
        for name in self.columns:
            if name not in fields:
                raise ValueError(f"{self}: no column {shown(name)}; the columns are {shown(list(fields))}")
        if not fields[self.name].nullable:
            raise ValueError(f"{self}: column {self.name!r} is never null")
        f = fields[self.other]
        if f.type not in ("category", "boolean"):
            raise ValueError(f"{self}: column {self.other!r} is no category or boolean")
        index = f.index(pd.Series(self.values, dtype=object))
        if (index < 0).any():
            raise ValueError(f"{self}: {self.values[(index < 0).argmax()]!r} is no value of column {self.other!r}")

    def holds(self, table: pd.DataFrame, fields: Mapping[str, Field]) -> np.ndarray:
        return (table[self.name].isna() | table[self.other].astype(object).isin(self.values)).to_numpy(bool)

    def derive(
        self, table: pd.DataFrame, fields: Mapping[str, Field], known: Mapping[str, np.ndarray] | None = None
    ) -> pd.DataFrame:
        """A table in which what must be null is null, with arguments as of [`solve_equations`]."""
        broken = ~self.holds(table, fields)
        if known is not None:
            broken &= ~known[self.name]
        column = table[self.name]
        return table.assign(**{self.name: column.astype(object).mask(broken, None).astype(column.dtype)})

    def to_json_schema(self, fields: Mapping[str, Field]) -> dict[str, Any]:
        return {
            "if": {"properties": {self.other: {"enum": list(self.values)}}, "required": [self.other]},
            "else": {"properties": {self.name: {"type": "null"}}},
        }


@dataclass(frozen=True)
class Unique(Rule):
    """
    A key: no two records have the same values in its columns.

    Args:
        names (`Sequence[str]`): The columns.
    """

    names: tuple[str, ...]

    types = ("integer", "number", "category", "boolean", "datetime", "text")
    is_of_each = False

    def __post_init__(self):
        object.__setattr__(self, "names", read_names(self.names, 1))

    @property
    def columns(self) -> tuple[str, ...]:
        return self.names

    def keys(self, table: pd.DataFrame) -> Iterator[tuple[Hashable, ...]]:
        """The keys of records."""
        return _keys(table, self.names)

    def holds(self, table: pd.DataFrame, fields: Mapping[str, Field]) -> np.ndarray:
        return ~table.duplicated(list(self.names)).to_numpy()


def read_names(names: Any, least: int) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence) or len(names) < least:
        raise ValueError(f"{names!r} is not a list of {least} or more columns")
    return tuple(names)


def read_values(values: Any, rule: str) -> tuple[Hashable, ...]:
    """Values of a rule, as JSON has them. Any other is a `ValueError`."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ValueError(f"{rule}: {values!r} is not a list of values")
    plain = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    for value in plain:
        if not (value is None or isinstance(value, (bool, int, float, str))):
            raise ValueError(f"{rule}: {value!r} is no string, number, bool or None")
    return plain


def read_numbers(f: Field, column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a column, any where there are none, and where there are, both of shape `(num_records,)`."""
    given = f.index_apart(column) < 0
    with naming_column(f.name):
        found = f.to_numpy(column[given])
    numbers = np.zeros(len(column), found.dtype)
    numbers[given] = found
    return numbers, given


def _keys(table: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[Hashable, ...]]:
    """The values of each record in some columns, `None` for nulls."""
    return zip(*(table[name].astype(object).where(table[name].notna(), None).tolist() for name in names))
