"""How good generated records with lists and optional keys are: as flat tables, and by what tables cannot say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..checks import check_integer
from ..records.datetime_format import datetime_format
from ..records.field import naming_column
from ..records.inference import find_format
from ..records.nested import is_nested
from ..records.nested_tables import ABSENT, GIVEN, NULL, Level, NestedTables, Place, plain_or_none
from .tables.encoding import to_numbers
from .tables.plain_columns import plain_table


NO_KEY, NO_VALUE = "⟨absent⟩", "⟨null⟩"  # categories of their own
ITEMS_QUANTILE = 0.99  # of lengths: the few longer lists would add columns that hardly any record fills
MAX_LAG = 12
MIN_PAIRS = 100  # of numbers; correlations of fewer are mostly noise
MIN_ORDERED, MIN_LISTS = 0.9, 10  # share and number of real lists in order; a few short ones are so by chance
NUM_BINS = 20
MAX_GROUPS, MIN_GROUP = 20, 10  # rarer categories share a group, or else correlation ratios grow with their number


@dataclass
class _Rows:
    """What a table has at a level: values and states (given, null, absent; none inside of what is not there)."""

    values: pd.DataFrame
    states: pd.DataFrame
    parents: np.ndarray


@dataclass
class _ReadLevel:
    """A level of all tables. Kinds are those of places: `number`, `time`, `category`, `list` or `object`."""

    name: str
    parent: int
    places: list[Place]
    kinds: dict[str, str]
    rows: list[_Rows]

    def names(self, *kinds: str) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind in kinds]


def flatten_records(real: pd.DataFrame, *others: pd.DataFrame, max_items: int | None = None) -> list[pd.DataFrame]:
    """
    Nested records as flat tables, for metrics such as [`classifier_two_sample_test`].

    Columns are those of the places that any of the tables has. A scalar stands at its path, `status.experimental`; a
    list gives its number of items, `len(support.chrome)`, and its items by position, `support.chrome[0].added`. Lists
    inside of items go by their number of items alone. Numbers are float64, and so are dates and times, as seconds,
    those written as texts included; they are NaN where there is none. All else is of dtype `category`, as are columns
    that have it in `real`. There, `"⟨absent⟩"` says that there is no such key or item, and `"⟨null⟩"` that it is null;
    columns such as `status?` say so of objects and lists, and of numbers that may be either.

    Args:
        real (`pandas.DataFrame` of shape `(num_records, num_columns)`):
            Real records. They decide what is a number or a time, and how many items have columns.
        others (`pandas.DataFrame` of shape `(any, num_columns)`):
            Other records, such as generated ones. Numbers and times that cannot be read as such are NaN.
        max_items (`int`, *optional*):
            The most items of a list that have columns; by default as many as 99% of the real lists have.

    Returns:
        `list[pandas.DataFrame]` of shape `(num_records, num_flat_columns)`: A flat table for each table, in order.

    Raises:
        `ValueError`: when a table has no records, columns do not match or none is nested, or values of several types
            stand in one place. It names the table, or the column and the place.

    Example:

    ```python
    >>> flat = flatten_records(test, synthetic)
    >>> classifier_two_sample_test(*flat, categorical=categorical_columns(flat[0]))
    ```
    """
    if max_items is not None:
        check_integer("max_items", max_items, least=0)
    tables = {"real": real} | {f"others[{k}]": table for k, table in enumerate(others)}
    levels = _read(tables)
    columns: list[list[tuple[str, pd.Series]]] = [list(_columns(levels[0], rows)) for rows in levels[0].rows]
    for level in levels[1:]:
        if level.parent:
            continue
        lengths = levels[0].rows[0].values[level.name].dropna()
        size = 0 if lengths.empty else int(np.quantile(lengths, ITEMS_QUANTILE, method="higher"))
        size = size if max_items is None else int(min(max(lengths, default=0), max_items))
        for flat, rows, outer in zip(columns, level.rows, levels[0].rows):
            of_items = list(_columns(level, rows))
            positions = pd.Series(rows.parents).groupby(rows.parents).cumcount().to_numpy()
            for k in range(size):
                here = positions == k
                for name, values in of_items:
                    at_k = values[here].set_axis(rows.parents[here]).reindex(outer.values.index)
                    at_k = at_k if values.dtype == float else at_k.fillna(NO_KEY)
                    flat.append((name.replace(f"{level.name}[*]", f"{level.name}[{k}]", 1), at_k))
    names = [name for name, _ in columns[0]]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two columns of the flat table would be called {twice[0]!r}; rename a column or key")
    flats = [pd.DataFrame(dict(flat)) for flat in columns]
    for name in names:
        if flats[0][name].dtype != float:
            known = pd.CategoricalDtype(sorted(set().union(*(flat[name] for flat in flats))))
            flats = [flat.assign(**{name: flat[name].astype(known)}) for flat in flats]
    return [flat.set_axis(table.index) for flat, table in zip(flats, tables.values())]


def categorical_columns(flat: pd.DataFrame) -> list[str]:
    """
    The columns of a table of [`flatten_records`] that are categorical.

    Args:
        flat (`pandas.DataFrame` of shape `(num_records, num_flat_columns)`): The table.
    """
    return list(flat.select_dtypes("category"))


def nested_scores(real: pd.DataFrame, synthetic: pd.DataFrame) -> dict[str, Any]:
    """
    How alike lists, optional keys, and the relations of items to each other and to their records are.

    All scores are best at 0. Other real records score above 0, too, the fewer the more so: compare with the scores of
    as many of them as of generated ones. Lists inside of items have scores as well; items of all lists count together.
    Total variation distances of numbers, lengths included, are those between 20 bins of real quantiles where there are
    more than 20 distinct real values.

    Args:
        real (`pandas.DataFrame` of shape `(num_records, num_columns)`):
            Real records, best as many as synthetic ones that the generator has not seen.
        synthetic (`pandas.DataFrame` of shape `(num_synthetic, num_columns)`): Generated records.

    Returns:
        `dict[str, Any]`, each part with the `mean` and the `worst` over its places, NaN where it has none:
            - `lengths`: `lists`, the total variation distance of the number of items of each list;
            - `presence`: `places`, the total variation distance between given, null and absent of each place that
              is not always given, among the objects that it may be in;
            - `order`: `columns` of items, numbers or times, that 90% of the real lists have in order, with the
              `direction`, the shares of lists of two or more items that are so (`real`, `synthetic`), and their
              absolute `difference`;
            - `gaps`: `columns`, the total variation distance of the differences between neighbours in these;
            - `autocorrelation`: `columns` of items that are numbers, with the autocorrelations at lags 1 to 12 in
              `real` and `synthetic`, NaN for fewer than 100 pairs, and the largest `difference`. Pairs of all lists
              count together, so that lists that differ in level have one, too;
            - `parent_child`: `pairs` of a `parent` column and the number of items of a list there or the mean of a
              numeric column of its items (`child`), with their correlations (`real`, `synthetic`) and the absolute
              `difference`. They are Pearson's or, where the parent has more than two categories, correlation ratios,
              which have no sign. Fewer than 100 pairs of values have none.

    Raises:
        `ValueError`: as of [`flatten_records`].
    """
    levels = _read({"real": real, "synthetic": synthetic})
    lengths, presence, order, gaps, autocorrelation = ({} for _ in range(5))
    pairs: list[dict[str, Any]] = []
    for level in levels:
        a, b = level.rows
        lengths |= {name: _total_variation(a.values[name], b.values[name]) for name in level.names("list")}
        presence |= {name: _total_variation(a.states[name], b.states[name]) for name in a.states}
        if level.parent < 0:
            continue
        for name in level.names("number", "time"):
            if (found := _order(level, name)) is not None:
                order[name], gaps[name] = found
        for name in level.names("number"):
            real_lags, synthetic_lags = (_autocorrelations(rows, name) for rows in level.rows)
            differences = np.abs(real_lags - synthetic_lags)
            if not np.isnan(differences).all():
                lags = {"real": real_lags.tolist(), "synthetic": synthetic_lags.tolist()}
                autocorrelation[name] = lags | {"difference": float(np.nanmax(differences))}
        pairs += _parent_child(levels[level.parent], level)
    return {
        "lengths": _summary(lengths.values()) | {"lists": lengths},
        "presence": _summary(presence.values()) | {"places": presence},
        "order": _summary(score["difference"] for score in order.values()) | {"columns": order},
        "gaps": _summary(gaps.values()) | {"columns": gaps},
        "autocorrelation": _summary(score["difference"] for score in autocorrelation.values())
        | {"columns": autocorrelation},
        "parent_child": _summary(pair["difference"] for pair in pairs) | {"pairs": pairs},
    }


def _read(tables: dict[str, pd.DataFrame]) -> list[_ReadLevel]:
    """The levels of all tables, with values as numbers and categories; `real`, the first, decides which."""
    real = tables["real"]
    for name, table in tables.items():
        if not len(table):
            raise ValueError(f"`{name}` has no records; pass at least one")
        if not table.columns.is_unique:
            raise ValueError(f"`{name}` has two columns of one name; rename or drop one of them")
        if missing := [column for column in real if column not in table]:
            raise ValueError(f"`{name}` lacks {missing} of `real`; add these columns, or drop them there")
        if extra := [column for column in table if column not in real]:
            raise ValueError(f"`{name}` has columns {extra} that `real` lacks; drop them, or add them there")
    nested = [name for name in real if any(table[name].map(is_nested).any() for table in tables.values())]
    if not nested:
        raise ValueError(
            "no column has lists or objects; read those that hold them as texts by column.map(json.loads), and "
            "compare tables without any by evaluate_table"
        )
    # Values that are nested in some records only stay as they are: their place says what is wrong.
    tables = {
        name: plain_table(table.drop(columns=nested), name).join(table[nested].reset_index(drop=True))
        for name, table in ((name, table.reset_index(drop=True)) for name, table in tables.items())
    }
    places = {}
    for name in real:
        values = pd.concat([table[name].astype(object) for table in tables.values()])
        if name not in nested:
            places[name] = Place(str(name), "value", [NULL] * bool(values.isna().any()))
            continue
        with naming_column(name):
            places[name] = Place.infer(str(name), list(map(plain_or_none, values)))
    codes = [str(name) for name in real if isinstance(real[name].dtype, pd.CategoricalDtype)]
    split = NestedTables(places)
    by_table = [split.to_tables(table) for table in tables.values()]
    levels = []
    for number, level in enumerate(split.levels):
        roots = places.values() if level.root is None else [level.root]
        inside = [place for root in roots for place in _places_in(root)]
        values = {place.name: by_table[0][number].columns[place.name] for place in inside if place.kind == "value"}
        readers = {name: _reader([] if name in codes else column) for name, column in values.items()}
        kinds = {place.name: place.kind for place in inside} | {name: kind for name, (kind, _) in readers.items()}
        read = [
            _read_rows(level, inside, readers, rows[number].to_frame(), np.array(rows[number].parents, dtype=int))
            for rows in by_table
        ]
        levels.append(_ReadLevel(level.lengths, level.parent, inside, kinds, read))
    return levels


def _places_in(place: Place) -> Iterator[Place]:
    """A place and those inside it, but for items of lists."""
    yield place
    for part in place.parts.values():
        yield from _places_in(part)


def _reader(real: list[Any]) -> tuple[str, Callable[[pd.Series], pd.Series]]:
    """The kind of scalars, and what turns a column of them into float64 or texts."""
    given = pd.Series([value for value in real if value is not None], dtype=object)
    types = {type(value) for value in given}
    if types and types <= {int, float}:
        # XGBoost takes no number without end.
        return "number", lambda values: to_numbers(values, given).replace([np.inf, -np.inf], np.nan)
    if types == {pd.Timestamp}:
        moments = pd.to_datetime(given)
        return "time", lambda values: to_numbers(values, moments)
    if types == {str}:
        found = find_format(pd.Series(given.unique(), dtype=object))
        if found is not None and found[0] == "datetime":
            moments = datetime_format(found[1])
            return "time", lambda values: to_numbers(moments.read(values), moments.read(given.iloc[:1]))
    return "category", lambda values: values.map(_written, na_action="ignore")


def _written(value: Any) -> str:
    # Integers of columns with nulls may be floats.
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.removesuffix(".0") if isinstance(value, float) else text


def _read_rows(
    level: Level, places: list[Place], readers: dict[str, tuple], table: pd.DataFrame, parents: np.ndarray
) -> _Rows:
    values, states = {}, {}
    for place in places:
        if place.presence:
            states[place.name] = table[place.presence]
        elif place.states:
            state = table[place.name].notna().map({True: GIVEN, False: place.states[0]})
            gate = level.gates.get(place.name)
            states[place.name] = state if gate is None else state.where(table[gate] == GIVEN, None)
        if place.kind == "list":
            values[place.name] = table[place.name].astype(float)
        elif place.kind == "value":
            kind, read = readers[place.name]
            column = read(table[place.name])
            if kind == "category":
                is_null = states[place.name] == NULL if place.name in states else np.zeros(len(table), dtype=bool)
                column = column.astype(object).where(column.notna(), np.where(is_null, NO_VALUE, NO_KEY))
            values[place.name] = column
    return _Rows(pd.DataFrame(values, table.index), pd.DataFrame(states, table.index), parents)


def _columns(level: _ReadLevel, rows: _Rows) -> Iterator[tuple[str, pd.Series]]:
    """The flat columns of a level's places, with a row for each of the level."""
    for place in level.places:
        kind = level.kinds[place.name]
        if kind != "object":
            yield f"len({place.name})" if kind == "list" else place.name, rows.values[place.name]
        # Elsewhere NaN says it, but a list that no real record has would leave a column without any real value.
        if (kind in ("object", "list") and place.states) or (kind in ("number", "time") and place.presence):
            states = rows.states[place.name].fillna(ABSENT)
            yield f"{place.name}?", states.map({GIVEN: GIVEN, NULL: NO_VALUE, ABSENT: NO_KEY})


def _summary(scores: Any) -> dict[str, float]:
    scores = list(scores) or [np.nan]
    return {"mean": float(np.mean(scores)), "worst": float(np.max(scores))}


def _total_variation(real: pd.Series, synthetic: pd.Series) -> float:
    real, synthetic = real.dropna(), synthetic.dropna()
    if real.empty or synthetic.empty:
        return float(real.empty != synthetic.empty)
    if real.dtype == float and real.nunique() > NUM_BINS:
        edges = np.unique(np.quantile(real, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
        # By both sides, so that a value that is frequent enough to be an edge has a bin of its own.
        real, synthetic = (
            pd.Series(np.searchsorted(edges, v, "left") + np.searchsorted(edges, v, "right"))
            for v in (real, synthetic)
        )
    shares = (values.value_counts(normalize=True) for values in (real, synthetic))
    return float(next(shares).sub(next(shares), fill_value=0).abs().sum() / 2)


def _steps(rows: _Rows, name: str) -> pd.Series:
    """Differences between neighbouring values of lists, by list."""
    values = rows.values[name].set_axis(rows.parents).dropna()
    # Sums of binary fractions differ in the last digits.
    return values.groupby(level=0).diff().dropna().map(lambda step: float(f"{step:.6g}"))


def _order(level: _ReadLevel, name: str) -> tuple[dict[str, Any], float] | None:
    """The score of the order of a column and that of its gaps, if real lists have one."""
    steps = [_steps(rows, name) for rows in level.rows]
    least, most = (steps[0].groupby(level=0).agg(which) for which in ("min", "max"))
    is_moving = (least != 0) | (most != 0)
    if is_moving.sum() < MIN_LISTS:
        return None
    for direction, sign, ordered in (("ascending", 1, least >= 0), ("descending", -1, most <= 0)):
        if ordered[is_moving].mean() >= MIN_ORDERED:
            in_order = [(sign * values).groupby(level=0).min() >= 0 for values in steps]
            real, synthetic = (float(lists.mean()) if len(lists) else 1.0 for lists in in_order)
            shares = {"direction": direction, "real": real, "synthetic": synthetic}
            return shares | {"difference": abs(real - synthetic)}, _total_variation(*steps)
    return None


def _autocorrelations(rows: _Rows, name: str) -> np.ndarray:
    """At lags from 1 on, over the pairs of all lists; of shape `(MAX_LAG,)`."""
    values = rows.values[name].reset_index(drop=True)
    # Standardised at each lag over the items that it pairs: those of the few lists that are long enough for large lags
    # may differ from all others, and correlations would not stay below 1.
    pairs = (
        (values.where(rows.parents == np.roll(rows.parents, -k)), values.shift(-k)) for k in range(1, MAX_LAG + 1)
    )
    return np.array([_correlation(*pair) for pair in pairs])


def _parent_child(above: _ReadLevel, level: _ReadLevel) -> list[dict[str, Any]]:
    """The correlations of the columns of a level with what is in a list that its rows have."""
    children = {f"len({level.name})": [rows.values[level.name] for rows in above.rows]}
    for name in level.names("number", "time"):
        children[f"mean({name})"] = [
            rows.values[name].groupby(rows.parents).mean().reindex(outer.values.index)
            for rows, outer in zip(level.rows, above.rows)
        ]
    lists = above.names("list")
    pairs = []
    for name in above.names("number", "time", "category", "list"):
        columns = [rows.values[name] for rows in above.rows]
        if above.kinds[name] == "category":
            counts = columns[0].value_counts()
            frequent = sorted(counts.index[counts >= MIN_GROUP][:MAX_GROUPS])
            codes = {category: k for k, category in enumerate(frequent)}
            columns = [column.map(codes).fillna(len(codes)) for column in columns]
        # Of two categories Pearson's says the same, and has a sign.
        is_ratio = above.kinds[name] == "category" and columns[0].nunique() > 2
        for child, numbers in children.items():
            # Each pair of lists once, and no list with itself
            if child == f"len({level.name})" and name in lists[lists.index(level.name) :]:
                continue
            real, synthetic = (_correlation(*both, is_ratio) for both in zip(columns, numbers))
            if np.isnan(real - synthetic) or real == synthetic == 0:
                continue
            pair = {"parent": f"len({name})" if name in lists else name, "child": child}
            pairs.append(pair | {"real": real, "synthetic": synthetic, "difference": abs(real - synthetic)})
    return pairs


def _correlation(column: pd.Series, numbers: pd.Series, is_ratio: bool = False) -> float:
    """Pearson's, or the correlation ratio of categories; 0 where one is constant, NaN for too few pairs."""
    both = pd.DataFrame({"column": column, "numbers": numbers}).dropna()
    if len(both) < MIN_PAIRS:
        return np.nan
    if is_ratio:
        both["column"] = both.groupby("column")["numbers"].transform("mean")  # Pearson's with these is the ratio
    # What varies by rounding alone is constant, and goes with nothing.
    if (both.std() <= 1e-12 * both.abs().mean()).any():
        return 0.0
    return float(both.corr().iloc[0, 1])
