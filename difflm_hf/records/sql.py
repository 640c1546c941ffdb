"""Tables of databases, by SQLAlchemy: the extra `sql`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa


def read_sql(url: str, query: str) -> pd.DataFrame:
    """
    Reads a table of a database.

    Args:
        url (`str`): As SQLAlchemy has it, such as `"sqlite:///shop.db"` or `"postgresql+psycopg://user@host/shop"`.
        query (`str`):
            The name of a table, whose types columns then have exactly: `Int16` for `SMALLINT`, Arrow's `decimal128`
            for `NUMERIC(7, 2)`. Or a `SELECT`, of which numbers and booleans have the widest dtypes with nulls.

    Raises:
        `ImportError`: without SQLAlchemy, or the driver that the URL names.
        `ValueError`: when the table is not there, or the database refuses. The message says why, without a password.
    """
    sqlalchemy = _sqlalchemy()
    is_select = re.match(r"[\s(]*(select|with)\s", query, re.IGNORECASE) is not None
    engine = _engine(url)
    if engine.dialect.name == "sqlite" and engine.url.database and not Path(engine.url.database).is_file():
        raise FileNotFoundError(f"{engine.url.database}: no such file")
    try:
        with engine.connect() as connection:
            if is_select:
                return pd.read_sql_query(sqlalchemy.text(query), connection, dtype_backend="numpy_nullable")
            schema, _, name = query.strip().rpartition(".")
            columns = sqlalchemy.Table(name, sqlalchemy.MetaData(), schema=schema or None, autoload_with=connection).c
            raw = [
                sqlalchemy.type_coerce(c, sqlalchemy.types.NullType())
                if isinstance(c.type, sqlalchemy.types.Boolean)
                else c
                for c in columns
            ]
            rows = connection.execute(sqlalchemy.select(*raw)).all()
            values = zip(*rows) if rows else [()] * len(columns)
            return pd.DataFrame(
                {c.name: _to_series(list(of), c.type, engine.dialect.name) for c, of in zip(columns, values)}
            )
    except sqlalchemy.exc.NoSuchTableError as error:
        raise ValueError(f"{engine.url!r} has no table {query!r}; name one, or give a SELECT") from error
    except (OverflowError, TypeError, ValueError) as error:  # SQLite holds any value in any column
        raise ValueError(f"{engine.url!r}: {query} has values of other types ({error}); SELECT them") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise ValueError(f"{engine.url!r}: {str(error).splitlines()[0]}") from error
    finally:
        engine.dispose()


def write_sql(table: pd.DataFrame, url: str, name: str) -> None:
    """
    Writes a new table of a database, all of its rows or none.

    Args:
        table (`pandas.DataFrame`): The rows.
        url (`str`): As of [`read_sql`].
        name (`str`): Of the table; there must be none of that name.

    Raises:
        `ImportError`: without SQLAlchemy, or the driver that the URL names.
        `ValueError`: when there is such a table, or the database refuses. The message says why, without a password.
    """
    sqlalchemy = _sqlalchemy()
    engine = _engine(url)
    schema, _, name = name.rpartition(".")
    types = {column: kind for column in table if (kind := _sql_type(table[column])) is not None}
    objects = table.astype({column: object for column in types})
    try:
        with engine.begin() as connection:
            objects.to_sql(name, connection, schema=schema or None, index=False, dtype=types, chunksize=10_000)
    except (ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise ValueError(f"{engine.url!r}: {str(error).splitlines()[0]}") from error
    finally:
        engine.dispose()


def _engine(url: str) -> Any:
    sqlalchemy = _sqlalchemy()
    try:
        return sqlalchemy.create_engine(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise ValueError(
            f"{url.partition(':')[0]!r} is no kind of database that SQLAlchemy knows ({error})"
        ) from error
    except ImportError as error:
        kind = url.partition(":")[0]
        raise ImportError(
            f"{kind} needs the driver {error.name}; install it, or name another, as in postgresql+psycopg://..."
        ) from error


def _sqlalchemy() -> Any:
    try:
        import sqlalchemy
    except ImportError as error:
        raise ImportError(
            "databases need SQLAlchemy; pip install 'difflm_hf[sql]', and the driver of yours"
        ) from error
    return sqlalchemy


def _to_series(values: list, kind: Any, dialect: str) -> pd.Series:
    """Values in the dtype of an SQL type."""
    types = _sqlalchemy().types
    if isinstance(kind, types.Boolean) and (odd := [value for value in values if value not in (None, 0, 1)]):
        raise ValueError(f"{odd[0]!r} is no boolean")
    dtypes = (
        (types.Boolean, "boolean"),
        (types.SmallInteger, "Int16"),
        (types.BigInteger, "Int64"),
        (types.Integer, "Int64" if dialect == "sqlite" else "Int32"),
        (types.Float, "Float64"),
        (types.String, "string"),
    )
    if isinstance(kind, types.Numeric) and not isinstance(kind, types.Float) and kind.scale is not None:
        decimal = pa.decimal128(min(kind.precision or 38, 38), kind.scale)
        return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values, decimal)))
    series = pd.Series(values, dtype=object)
    dtype = next((dtype for of, dtype in dtypes if isinstance(kind, of)), None)
    if dtype is not None:
        return series.astype(dtype)
    if isinstance(kind, types.DateTime):
        return pd.to_datetime(series, utc=True) if kind.timezone else pd.to_datetime(series)
    return series


def _sql_type(column: pd.Series) -> Any:
    """The SQL type of a column where pandas would take another one."""
    types = _sqlalchemy().types
    kind = column.dtype.pyarrow_dtype if isinstance(column.dtype, pd.ArrowDtype) else None
    if kind is not None and pa.types.is_decimal(kind):
        return types.Numeric(kind.precision, kind.scale)
    if column.dtype == object and pd.api.types.infer_dtype(column.dropna()) == "decimal":
        return types.Numeric()
    return None
