"""Tables count by their values: every dtype that pandas has for them gives the same scores."""

from datetime import time, timedelta, timezone
from decimal import Decimal
from functools import partial
from zoneinfo import ZoneInfo

import dateutil.tz
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import pytz

from difflm_hf.evaluation import evaluate_table, row_validity, table_figures
from difflm_hf.evaluation.tables.encoding import encode_tables
from difflm_hf.evaluation.tables.plain_columns import plain_table
from difflm_hf.evaluation.tables.preparation import prepare_tables


CODES = ["code"]


def make_table(seed, num_rows=40):
    """A table as NumPy holds it, with nulls in all columns but the first."""
    generator = np.random.default_rng(seed)
    since = pd.Timestamp("2023-01-01") + pd.to_timedelta(generator.integers(0, 10**6, num_rows) * 1001, "ms")
    table = pd.DataFrame(
        {
            "age": generator.integers(0, 100, num_rows),
            "children": generator.integers(0, 9, num_rows),
            "price": generator.integers(0, 200, num_rows) / 10,
            "code": generator.integers(0, 4, num_rows),
            "job": generator.choice(["clerk", "cook", "pilot"], num_rows),
            "member": generator.random(num_rows) > 0.5,
            "since": since,
            "day": since.normalize(),
            "seen": since.tz_localize("UTC"),
            "clock": since.strftime("%H:%M:%S"),
        }
    )
    nulls = generator.random(table.shape) < 0.1
    nulls[:, 0] = False
    return table.mask(nulls)


TABLES = [make_table(seed) for seed in range(3)]


def to(*dtypes):
    """Conversions into one dtype after the other."""

    def convert(column):
        for dtype in dtypes:
            column = column.astype(dtype)
        return column

    return convert


def arrow(arrow_type, function=None):
    """The conversion into an Arrow type, of what a function makes of values."""
    function = function or (lambda value: value)
    return lambda column: objects(function)(column).astype(pd.ArrowDtype(arrow_type))


def objects(function):
    """The conversion into Python objects."""
    return lambda column: pd.Series(
        [None if pd.isna(value) else function(value) for value in column], column.index, object, column.name
    )


def sparse(column):
    return pd.Series(pd.arrays.SparseArray(column), column.index, name=column.name)


def dictionary(column):
    encoded = pa.array(column, pa.string(), from_pandas=True).dictionary_encode()
    return pd.Series(pd.arrays.ArrowExtensionArray(encoded), column.index, name=column.name)


def with_unused_category(column):
    return column.astype("category").cat.add_categories(["nobody"])


def period(frequency):
    return lambda column: column.dt.to_period(frequency)


def in_zone(zone):
    return lambda column: column.dt.tz_convert(zone)


ZONES = {
    "pytz": pytz.timezone("Europe/Berlin"),
    "pytz offset": pytz.FixedOffset(90),
    "dateutil offset": dateutil.tz.tzoffset(None, 3600),
    "dateutil local": dateutil.tz.tzlocal(),
    "zoneinfo": ZoneInfo("America/New_York"),
    "offset": timezone(timedelta(hours=-3, minutes=-30)),
}


def in_many_zones(value):
    return value.to_pydatetime().astimezone(list(ZONES.values())[value.second % len(ZONES)])


INTEGERS = {
    **{dtype: to(dtype) for dtype in ("Int64", "Int8", "UInt16")},
    "int64[pyarrow]": arrow(pa.int64(), int),
    "int8[pyarrow]": arrow(pa.int8(), int),
    "decimal128(5, 0)": arrow(pa.decimal128(5), lambda value: Decimal(int(value))),
    "sparse": sparse,
    "ints": objects(int),
    "Decimals": objects(lambda value: Decimal(int(value))),
}
CONVERSIONS = {
    "age": {dtype: to(dtype) for dtype in ("int8", "uint64", "object")} | INTEGERS,
    "children": INTEGERS | {"float32": to("float32"), "double[pyarrow]": arrow(pa.float64())},
    "price": {
        **{dtype: to(dtype) for dtype in ("float32", "float16", "Float64", "Float32", "object")},
        **{f"{width}[pyarrow]": to(f"{width}[pyarrow]") for width in ("double", "float", "halffloat")},
        "sparse": sparse,
        "sparse float32": lambda column: sparse(column.astype("float32")),
        "Decimals": objects(lambda value: Decimal(f"{value:.2f}")),
        "decimal128(10, 2)": arrow(pa.decimal128(10, 2), lambda value: Decimal(f"{value:.2f}")),
    },
    "code": INTEGERS
    | {
        "category": to("category"),
        "category of ints": to("Int64", "object", "category"),
        "category of Int64": to("Int64", "category"),
        "category of float32": to("float32", "category"),
        "category of int64[pyarrow]": lambda column: arrow(pa.int64(), int)(column).astype("category"),
    },
    "job": {
        **{dtype: to(dtype) for dtype in ("string[python]", "string[pyarrow]", "category")},
        "string as Arrow has it": arrow(pa.string()),
        "large_string": arrow(pa.large_string()),
        "dictionary": dictionary,
        "sparse": sparse,
        "unused category": with_unused_category,
        "category of string": to("string", "category"),
        "category of string[pyarrow]": to("string[pyarrow]", "category"),
        "category of large_string": lambda column: arrow(pa.large_string())(column).astype("category"),
    },
    "member": {
        "boolean": to("boolean"),
        "bool[pyarrow]": arrow(pa.bool_()),
        "sparse": sparse,
        "category": to("category"),
        "category of boolean": to("boolean", "category"),
    },
    "since": {
        **{dtype: to(dtype) for dtype in ("datetime64[ms]", "datetime64[us]", "object")},
        **{f"timestamp[{unit}]": arrow(pa.timestamp(unit)) for unit in ("ms", "us", "ns")},
        "datetimes": objects(pd.Timestamp.to_pydatetime),
        "NumPy's datetimes": objects(np.datetime64),
        "period": period("ms"),
    },
    "day": {
        "datetime64[s]": to("datetime64[s]"),
        **{str(kind): arrow(kind, pd.Timestamp.date) for kind in (pa.date32(), pa.date64())},
        "timestamp[s]": arrow(pa.timestamp("s")),
        "dates": objects(pd.Timestamp.date),
        "dates and datetimes": objects(lambda value: value.to_pydatetime() if value.day % 2 else value.date()),
        "period": period("D"),
    },
    "seen": {
        **{name: in_zone(zone) for name, zone in ZONES.items()},
        "datetime64[ms, UTC]": to("datetime64[ms, UTC]"),
        "timestamp[ms, UTC]": arrow(pa.timestamp("ms", "UTC")),
        "timestamp[us, Europe/Berlin]": arrow(pa.timestamp("us", "Europe/Berlin")),
        "datetimes of many zones": objects(in_many_zones),
    },
    "clock": {
        "string": to("string"),
        "times": objects(time.fromisoformat),
        **{str(kind): arrow(kind, time.fromisoformat) for kind in (pa.time32("s"), pa.time64("ns"))},
    },
}


def what_scores_come_from(synthetic, train, holdout):
    """All that [`evaluate_table`] reads off tables, without the models that it trains on them."""
    categorical = [name for name in CODES if name in train]
    plain, _, notes = prepare_tables({"train": train, "holdout": holdout, "synthetic": synthetic}, categorical)
    encoded, codes = encode_tables(plain, categorical)
    values = [table.to_dict("list") for table in encoded]
    return repr((values, codes, notes, row_validity(synthetic, train, categorical)))


@pytest.mark.parametrize("column, dtype", [(name, dtype) for name, dtypes in CONVERSIONS.items() for dtype in dtypes])
def test_a_dtype_changes_nothing(column, dtype):
    plain = [table[[column]] for table in TABLES]
    converted = [table.assign(**{column: CONVERSIONS[column][dtype](table[column])}) for table in plain]
    expected = what_scores_come_from(*plain)
    assert what_scores_come_from(*converted) == expected
    assert what_scores_come_from(converted[0], *plain[1:]) == expected
    assert what_scores_come_from(plain[0], *converted[1:]) == expected


def mixture(number):
    """The tables in dtypes that differ between them and between columns."""
    tables = []
    for position, table in enumerate(TABLES):
        columns = {}
        for name, conversions in CONVERSIONS.items():
            conversions = list(conversions.values())
            columns[name] = conversions[(5 * number + position) % len(conversions)](table[name])
        tables.append(pd.DataFrame(columns))
    return tables


scores_of = partial(evaluate_table, target="job", categorical=CODES, num_seeds=1, n_jobs=1)


@pytest.fixture(scope="module")
def scores():
    return scores_of(*TABLES)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_all_scores_are_those_of_plain_columns(scores, number):
    assert repr(scores_of(*mixture(number))) == repr(scores)


@pytest.mark.slow
def test_arrow_tables_have_the_scores_of_plain_ones(scores):
    tables = [table.astype({"age": int}).convert_dtypes(dtype_backend="pyarrow") for table in TABLES]
    assert repr(scores_of(*tables)) == repr(scores)


def test_figures_are_those_of_plain_columns(scores):
    def shown(tables):
        axes = table_figures(*tables, scores)["marginals"].axes
        return [
            [
                *(patch.get_path().vertices.tolist() for patch in ax.patches),
                *(label.get_text() for label in ax.get_yticklabels()),
            ]
            for ax in axes
        ]

    assert shown(mixture(1)) == shown(TABLES)


REFUSED = {
    r"interval\[float64, right\]": lambda column: pd.cut(column, 3).astype("interval"),
    "category": lambda column: pd.cut(column, 3),
    r"timedelta64\[ns\]": lambda column: pd.to_timedelta(column, "s"),
    r"duration\[s\]\[pyarrow\]": lambda column: pd.to_timedelta(column, "s").astype(pd.ArrowDtype(pa.duration("s"))),
    "complex128": lambda column: column * 1j,
    r"binary\[pyarrow\]": arrow(pa.binary(), lambda value: str(value).encode()),
    r"list<item: int64>\[pyarrow\]": arrow(pa.list_(pa.int64()), lambda value: [int(value)]),
    "object": objects(lambda value: {"years": value}),
}


@pytest.mark.parametrize("position, table", list(enumerate(("synthetic", "train", "holdout"))))
@pytest.mark.parametrize("dtype", REFUSED)
def test_dtypes_without_a_score(dtype, position, table):
    tables = list(TABLES)
    tables[position] = tables[position].assign(age=REFUSED[dtype](tables[position]["age"]))
    with pytest.raises(ValueError, match=rf"column 'age' of `{table}` has dtype {dtype}: .* values") as error:
        scores_of(*tables)
    fix = str(error.value).partition("convert it, e.g. by ")[2]
    plain_table(tables[position].assign(age=eval(fix, {"column": tables[position]["age"], "pd": pd})), table)


def test_long_identifiers_beside_nulls_are_none_alike():
    """Floats would round both to the same one."""
    train = pd.DataFrame({"code": pd.Series([2**60, 2**60 + 1, None] * 20, dtype="Int64")})
    scores = row_validity(train.replace(2**60 + 1, 2**60 + 2), train, CODES)
    assert scores["examples"] == {"code": [str(2**60 + 2)]}


@pytest.mark.parametrize("dtype", ["datetime64[s]", "timestamp[s][pyarrow]", "object"])
def test_moments_beyond_nanoseconds(dtype):
    """Those of synthetic rows count as missing; others are an error."""
    synthetic, train, holdout = (table[["age", "day"]] for table in TABLES)
    days = synthetic["day"].astype("datetime64[s]")
    days[0] = pd.Timestamp("9999-01-01")
    late = synthetic.assign(day=days.astype(dtype))
    assert "'day': 1 synthetic values, such as Timestamp('9999-" in what_scores_come_from(late, train, holdout)
    for tables in ((synthetic, late, holdout), (synthetic, train, late)):
        with pytest.raises(ValueError, match="column 'day'.*Timestamp.'9999-01-01.*convert"):
            what_scores_come_from(*tables)
