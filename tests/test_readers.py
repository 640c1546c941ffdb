"""Files and databases as people have them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import jsonschema
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy

from difflm_hf import DiffLMProcessor, RecordSchema
from difflm_hf.records import CSVFormat, read_table, write_table
from difflm_hf.records.csv_files import alike
from difflm_hf.records.csv_format import USUAL_CSV
from difflm_hf.records.json_schema import field_to_json_schema
from difflm_hf.records.report import check_doubts, describe


ROWS = [("n1", "1,5", "x"), ("n2", "22,25", "é"), ("n3", "1000", "z")]
TABLE = pd.DataFrame(
    {
        "count": pd.Series([1, 2, None], dtype="Int64"),
        "price": [1.5, 22.25, 3.0],
        "country": ["NA", "DE", "FR"],
        "day": pd.to_datetime(["2024-01-02", "2024-02-03", "2024-03-04"]),
    }
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_comes_back_as_it_was_written(separator, encoding, tmp_path):
    path = tmp_path / "in.csv"
    lines = [separator.join(row) + "\n" for row in [("name", "price", "note"), *ROWS]]
    path.write_bytes("".join(lines).encode(encoding))
    table = read_table(path)
    assert table["price"].tolist() == [1.5, 22.25, 1000] and table["note"].tolist() == ["x", "é", "z"]
    schema = RecordSchema.from_dict(RecordSchema.infer(table).to_dict())
    assert schema.csv == replace(USUAL_CSV, separator=separator, decimal=",", encoding=encoding)
    assert repr(separator) in describe(schema, table)
    write_table(schema.to_table(dict(table)), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == path.read_bytes()


def test_what_is_given_is_not_found(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("1;2,500;none\n3;4,000;.\n")
    how = CSVFormat(decimal=",", null_words=["none", "."], header=False)
    table = read_table(path, how)
    assert table.columns.tolist() == ["column_1", "column_2", "column_3"]
    assert table["column_2"].tolist() == [2.5, 4] and table["column_3"].isna().all()
    with pytest.raises(ValueError, match="encoding 'utf-99' is not one that Python knows"):
        read_table(path, CSVFormat(encoding="utf-99"))


def test_one_column_of_texts_is_no_csv_of_many(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('text\n"one; two; three"\n"four; five; six"\n"seven"\n')
    assert read_table(path)["text"].tolist() == ["one; two; three", "four; five; six", "seven"]
    assert read_table(path, CSVFormat(separator=","))["text"].tolist()[2] == "seven"


def test_a_separator_that_leaves_one_column_of_many(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("age;city\n1;Ulm\n2;Bonn\n")
    with pytest.raises(ValueError, match="',' leaves a single column, 'age;city'; leave it out, or give ';'"):
        read_table(path, CSVFormat(separator=","))


def test_other_rows_of_a_file_are_of_the_same_types(tmp_path):
    # The second file has nothing by which its columns would be known for texts.
    (tmp_path / "train.csv").write_text("zip,price,flag\n" + "02134,$1.50,yes\n10001,$2.25,no\n" * 30)
    (tmp_path / "test.csv").write_text("zip,price,flag\n10001,$2.25,no\n")
    (tmp_path / "numbers.csv").write_text("zip,price,flag\n10001,3,no\n")
    schema = RecordSchema.infer(tmp_path / "train.csv")
    assert schema.conform(tmp_path / "test.csv")["zip"].tolist() == ["10001"]
    with pytest.raises(ValueError, match=r"column 'price': '3' in row 0 is not a number in the format '\$0.00'"):
        schema.conform(tmp_path / "numbers.csv")


@pytest.mark.parametrize(
    ("texts", "others", "message"),
    [
        (
            [f"2024-01-{day}" for day in range(10, 30)],
            [f"2024-02-{day}" for day in range(30, 40)],
            "dates like %Y-%m-%d",
        ),
        ([f"{k}.5" for k in range(9)], [*"abcdefghi"], "numbers like 0.0, but not 'a', 'b', 'c'"),
        ([f"${k}" for k in range(5)], ["five, " * 6], "numbers like \\$0, but not 'five, five"),
    ],
)
def test_mistaken_columns_are_errors(texts, others, message):
    table = pd.DataFrame({"x": [*texts, *others]})
    schema = RecordSchema.infer(table)
    assert schema["x"].type == "text"
    with pytest.raises(ValueError, match=f"column 'x' is taken as text: most values are {message}.*accept"):
        check_doubts(schema, table)
    check_doubts(schema, table, accept=["x"])
    made_missing = table.replace(others, None)
    assert RecordSchema.infer(made_missing)["x"].type in ("datetime", "number", "integer")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["01/02/2020", "03/04/2021"], "taken as dates like %m/%d/%Y, and could be %d/%m/%Y"),
        (["1,234", "5,678"], "taken as numbers like #,##0, whose decimal point is in doubt"),
    ],
)
def test_doubts_are_errors_when_strict(texts, message):
    table = pd.DataFrame({"x": texts})
    schema = RecordSchema.infer(table)
    check_doubts(schema, table)
    assert message in describe(schema, table)
    with pytest.raises(ValueError, match=message):
        check_doubts(schema, table, is_strict=True)


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather", ".xlsx"])
def test_files_with_types(ending, tmp_path):
    write_table(TABLE, tmp_path / f"table{ending}")
    table = read_table(tmp_path / f"table{ending}")
    assert table["count"].dropna().tolist() == [1, 2] and table["country"].tolist() == ["NA", "DE", "FR"]
    schema = RecordSchema.infer(table)
    assert [f.type for f in schema] == ["integer", "number", "text", "datetime"]
    if ending != ".xlsx":
        pd.testing.assert_frame_equal(table, TABLE)


def read_text(tmp_path, text: str | bytes, how: CSVFormat | None = None) -> pd.DataFrame:
    path = tmp_path / "in.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path, how)


@pytest.mark.parametrize(
    ("texts", "odd"),
    [
        (["1.1", "1.9", "1.10", "2.0"], "1.10"),
        (["1", "2", "1e5"], "1"),
        (["1.5E+5", "2.5"], "1.5E+5"),
        (["0.1234567890123456789", "2.5"], "0.1234567890123456789"),
    ],
)
def test_numbers_that_come_back_otherwise_are_doubted(texts, odd, tmp_path):
    table = read_text(tmp_path, "k,x\n" + "".join(f"{k},{text}\n" for k, text in enumerate(texts)))
    schema = RecordSchema.infer(table)
    assert schema["x"].type == "number"
    assert f"{odd!r} will be written otherwise" in describe(schema, table)
    with pytest.raises(ValueError, match="written otherwise"):
        check_doubts(schema, table, is_strict=True)


@pytest.mark.parametrize(
    ("text", "values", "is_doubted"),
    [
        ("a;b\n12,345;1\n67,891;2\n", [12.345, 67.891], True),
        ("a;b\n0,123;1\n0,124;2\n", [0.123, 0.124], False),
        ("a;b\n12,345;5,5\n67,891;6,25\n", [12.345, 67.891], False),
        ('a,b\n"12,345",1\n"67,891",2\n', ["12,345", "67,891"], True),
        ('a,b\n"12,345",1.5\n"67,891",2.25\n', ["12,345", "67,891"], False),
        ("a;b\n" + "1;1\n" * 3000 + "1,5;2\n", [1] * 3000 + [1.5], False),
    ],
)
def test_the_decimal_point_is_that_of_the_file_or_in_doubt(text, values, is_doubted, tmp_path):
    table = read_text(tmp_path, text)
    schema = RecordSchema.infer(table)
    assert table["a"].tolist() == values and schema["a"].type in ("integer", "number")
    assert ("decimal point is in doubt" in describe(schema, table)) == is_doubted


def test_usual_words_for_missing_values_count_together(tmp_path):
    table = read_text(tmp_path, "k,x\n1,1.5\n2,\n3,NA\n4,\n5,n/a\n6,2.25\n")
    assert table["x"].isna().tolist() == [False, True, True, True, True, False]
    assert "will be written otherwise" in describe(RecordSchema.infer(table), table)


def test_what_a_schema_says_is_missing_is_so_in_other_files(tmp_path):
    table = read_text(tmp_path, "k,x\n1,1.5\n2,none\n3,2.5\n", CSVFormat(null_words=["none"]))
    schema = RecordSchema.from_dict(RecordSchema.infer(table).to_dict())
    (tmp_path / "other.csv").write_text("k,x\n3,none\n1,2.5\n")
    assert schema.conform(tmp_path / "other.csv")["x"].isna().tolist() == [True, False]


def test_unknown_columns_are_not_accepted():
    table = pd.DataFrame({"x": ["a", "b"]})
    with pytest.raises(ValueError, match="no column 'y' to accept"):
        check_doubts(RecordSchema.infer(table), table, accept=["y"])


def test_codes_are_not_in_doubt():
    table = pd.DataFrame({"zip": [f"{k % 9:05d}" for k in range(50)]})
    schema = RecordSchema.infer(table)
    assert schema["zip"].type == "category" and "?" not in describe(schema, table)


def test_rows_and_lines_are_not_lost(tmp_path):
    assert read_text(tmp_path, "x\n1\n\n3\n")["x"].tolist() == [1, pd.NA, 3]
    assert read_text(tmp_path, "sep=;\na;b\n1;2\n").columns.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="line 2 opens a quote"):
        read_text(tmp_path, 'a,b\n1,"abc\n2,x\n3,y\n')
    with pytest.raises(ValueError, match="the header has a NUL character"):
        read_text(tmp_path, b"a\0,b\n1,x\n")
    long = "y" * 3_000_000
    assert read_text(tmp_path, f"a,b\n1,{long}\n")["b"].tolist() == [long]


@pytest.mark.parametrize(
    "fields", [{"decimal": "x"}, {"decimal": ",", "separator": ","}, {"separator": "tab"}, {"null_words": "NA"}]
)
def test_bad_formats_of_a_csv(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))}="):
        CSVFormat(**fields)


def test_a_validation_file_without_values_changes_no_types(tmp_path):
    (tmp_path / "valid.csv").write_text("x,flag,price\n" + ",,1.5\n" * 5)
    table = read_text(
        tmp_path, "x,flag,price\n" + "".join(f"{k},{'true' if k % 2 else 'false'},$1.50\n" for k in range(50))
    )
    first, second = alike(table.assign(price=1.5), read_table(tmp_path / "valid.csv"))
    both = pd.concat([first, second])
    assert both["x"].dtype == "Int64" and both["flag"].dtype == "boolean"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([Decimal("12345678901234567890.12"), Decimal("1.5")], "has more digits than numbers keep"),
        ([Decimal("Infinity"), Decimal("1.5")], "is no finite number"),
        ([date(2020, 1, 1), datetime(2020, 1, 2, 10)], "dates and datetimes in one column"),
    ],
)
def test_what_no_number_or_date_can_hold(values, message):
    with pytest.raises(ValueError, match=f"column 'x': .*{message}"):
        RecordSchema.infer(pd.DataFrame({"x": pd.Series(values * 5, dtype=object)}))


def test_decimals_as_categories():
    table = pd.DataFrame({"x": pd.Series([Decimal("1.50"), Decimal("2.5")] * 20, dtype=object), "k": range(40)})
    processor = DiffLMProcessor.from_records(table, RecordSchema.infer(table, categorical=["x"]))
    batch = processor(table)
    records, _ = processor.decode_records(batch["input_ids"].numpy(), batch["within_bin_offsets"].numpy())
    assert records["x"].tolist() == table["x"].tolist()


DDL = (
    "CREATE TABLE shop (id bigint, qty smallint, number integer, price numeric(7, 2), weight double precision, "
    "ok boolean, name varchar(20), day date, bought timestamp, clock time)"
)
ROW = "({0}, {1}, {0}, {0}.25, {0} / 7.0, {2}, 'n{3}', '2024-01-{4:02}', '2024-01-{4:02} 10:00:00', '10:{4:02}:00')"


@pytest.fixture(scope="module")
def postgres():
    """The URL of a PostgreSQL server, where there is one to start."""
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    pytest.importorskip("psycopg")
    if found is None:
        pytest.skip("no PostgreSQL here")
    folder = Path(tempfile.mkdtemp())  # all of whose parents others may enter
    user = {}
    if os.getuid() == 0:  # as whom it does not run
        user = {"user": "postgres"}
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    subprocess.run([found, "-D", folder / "data", "-U", "postgres", "-A", "trust"], check=True, **quiet)
    options = ["-D", folder / "data", "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen([Path(found).with_name("postgres"), *options], **quiet)
    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    for _ in range(100):
        try:
            sqlalchemy.create_engine(url).connect().close()
            break
        except sqlalchemy.exc.OperationalError:
            time.sleep(0.1)
    yield url
    server.send_signal(signal.SIGINT)  # without waiting for connections
    server.wait()
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'shop.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for name in ("shop", "made"):
            connection.execute(sqlalchemy.text(f"DROP TABLE IF EXISTS {name}"))
        connection.execute(sqlalchemy.text(DDL))
        for k in range(60):
            qty = "NULL" if k % 7 == 0 else k % 5
            row = ROW.format(k, qty, "true" if k % 2 else "false", k % 4, k % 28 + 1)
            connection.execute(sqlalchemy.text(f"INSERT INTO shop VALUES {row}"))
    return url


def test_a_table_of_a_database_comes_back_in_its_types(database):
    table = read_table(database, query="shop")
    assert table["qty"].dtype == "Int16" and str(table["price"].dtype) == "decimal128(7, 2)[pyarrow]"
    processor = DiffLMProcessor.from_records(table)
    batch = processor(table)
    records, _ = processor.decode_records(batch["input_ids"].numpy(), batch["within_bin_offsets"].numpy())
    write_table(records, database, "made")
    again = read_table(database, query="made")
    pd.testing.assert_frame_equal(again, table)
    assert read_table(database, query="SELECT qty, ok FROM shop LIMIT 3").shape == (3, 2)


def test_what_a_database_refuses(database):
    table = read_table(database, query="shop")
    write_table(table, database, "made")
    for call, message in (
        (lambda: write_table(table, database, "made"), "'made' already exists"),
        (lambda: read_table(database, query="none"), "has no table 'none'; name one, or give a SELECT"),
        (lambda: read_table(database, query="SELECT nothing FROM shop"), "nothing"),
        (lambda: read_table(database, query="DROP TABLE shop"), "has no table 'DROP TABLE shop'"),
        (lambda: read_table(database), "give query, the name of a table or a SELECT"),
        (lambda: write_table(table, database), "give name, that of the new table"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert len(read_table(database, query="made")) == len(read_table(database, query="shop")) == 60


def test_values_of_sqlite_that_are_not_of_their_types(tmp_path):
    url = f"sqlite:///{tmp_path / 'odd.db'}"
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_table(url, query="odd")
    with sqlalchemy.create_engine(url).begin() as connection:
        for values in ("CREATE TABLE odd (flag boolean)", "INSERT INTO odd VALUES ('t')"):
            connection.execute(sqlalchemy.text(values))
        connection.execute(sqlalchemy.text("CREATE TABLE large (n integer)"))
        connection.execute(sqlalchemy.text(f"INSERT INTO large VALUES ({2**40})"))
    with pytest.raises(ValueError, match="odd has values of other types .*'t' is no boolean.*SELECT them"):
        read_table(url, query="odd")
    assert read_table(url, query="large")["n"].tolist() == [2**40]
    with pytest.raises(ValueError, match="'odd' is no kind of database"):
        read_table("odd://host/table", query="x")
    with pytest.raises(ValueError, match="URLs are of databases; download the file"):
        read_table("https://host/table.csv", query="x")


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv.gz"])
def test_compressed_files(ending, tmp_path):
    table = pd.DataFrame({"a": ["x", "y"], "b": [1, 2]})
    for folder in ("one", "two"):
        write_table(table, tmp_path / folder / f"x{ending}")
    written = (tmp_path / "one" / f"x{ending}").read_bytes()
    assert written.startswith(b"\x1f\x8b") and written == (tmp_path / "two" / f"x{ending}").read_bytes()
    pd.testing.assert_frame_equal(read_table(tmp_path / "one" / f"x{ending}"), table)
    with pytest.raises(ValueError, match=r"\.parquet\.gz is not one of"):
        write_table(table, tmp_path / "x.parquet.gz")


def test_what_does_not_apply_to_a_file_is_an_error(tmp_path):
    write_table(TABLE, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="query='orders' is for databases and Excel files"):
        read_table(tmp_path / "x.parquet", query="orders")
    with pytest.raises(ValueError, match="x.parquet: separator, decimal, encoding and header are of CSV files"):
        read_table(tmp_path / "x.parquet", CSVFormat(separator=";"))


class TestOffsets:
    """Of moments around the nights when clocks are set."""

    MOMENTS = pd.Series(pd.date_range("2021-03-01", "2021-11-30", freq="37min", tz="UTC"))

    @pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tehran"])
    def test_of_a_time_zone_come_back(self, zone):
        texts = self.MOMENTS.dt.tz_convert(zone).map(lambda moment: moment.isoformat())
        f = RecordSchema.infer(pd.DataFrame({"x": texts}))["x"]
        assert f.type == "datetime" and f.format.startswith("%Y-%m-%dT%H:%M:%S%:z{")
        assert (f.read(texts) == self.MOMENTS.dt.tz_localize(None)).all()
        assert f.write(f.read(texts)).tolist() == texts.tolist()
        validator = jsonschema.Draft202012Validator(field_to_json_schema(f))
        assert all(map(validator.is_valid, texts[:100])) and not validator.is_valid(texts[0][:-6])

    def test_at_the_turn_of_the_year_are_in_the_json_schema(self):
        moments = pd.date_range("2024-03-01", "2024-12-31 23:30", periods=200, tz="UTC").floor("s")
        for zone in ("Europe/Berlin", "America/New_York"):
            table = pd.DataFrame({"x": [moment.isoformat() for moment in moments.tz_convert(zone)], "k": range(200)})
            schema = RecordSchema.infer(table)
            validator = jsonschema.Draft202012Validator(schema.to_json_schema())
            assert all(validator.is_valid(record) for record in table.to_dict("records"))

    @pytest.mark.slow
    def test_beside_words(self):
        texts = [moment.isoformat() for moment in self.MOMENTS[::10][:900].dt.tz_convert("Europe/Berlin")]
        for number, separator in ((400, "T"), (900, " ")):
            column = [text.replace("T", separator) for text in texts[:: 900 // number]] + ["unknown"] * 5
            f = RecordSchema.infer(pd.DataFrame({"x": column}))["x"]
            assert (f.type, f.words) == ("datetime", ["unknown"]) and f.format.endswith("{Europe/Berlin}")

    def test_after_a_space(self):
        texts = [moment.isoformat(sep=" ") for moment in self.MOMENTS.dt.tz_convert("Europe/Berlin")]
        table = pd.DataFrame({"x": [f"{text[:-6]} {text[-6:]}" for text in texts]})
        f = RecordSchema.infer(table)["x"]
        assert f.format == "%Y-%m-%d %H:%M:%S %:z{Europe/Berlin}"
        assert f.write(f.read(table["x"])).tolist() == table["x"].tolist()

    def test_that_no_zone_has_are_no_dates_of_it(self):
        f = RecordSchema.infer(
            pd.DataFrame({"x": [t.isoformat() for t in self.MOMENTS.dt.tz_convert("Europe/Berlin")]})
        )["x"]
        assert f.read(pd.Series(["2021-06-01T10:00:00+01:00", "2021-06-01T10:00:00+02:00"])).notna().tolist() == [
            False,
            True,
        ]

    @pytest.mark.parametrize("zone", ["Berlin", "Europe", "../etc/passwd"])
    def test_of_no_time_zone_are_an_error(self, zone):
        table = pd.DataFrame({"x": [moment.isoformat() for moment in self.MOMENTS.dt.tz_convert("Europe/Berlin")]})
        schema = RecordSchema.infer(table)
        schema["x"] = replace(schema["x"], format=f"%Y-%m-%dT%H:%M:%S%:z{{{zone}}}")
        with pytest.raises(ValueError, match=f"column 'x': '{zone}' is no time zone; write one like Europe/Berlin"):
            schema.conform(table)

    def test_of_several_time_zones_are_an_error(self):
        zones = ["Asia/Tokyo", "UTC", "America/Lima"]
        texts = [moment.tz_convert(zones[k % 3]).isoformat() for k, moment in enumerate(self.MOMENTS)]
        table = pd.DataFrame({"x": texts})
        with pytest.raises(ValueError, match="dates in no format that is kept"):
            check_doubts(RecordSchema.infer(table), table)


def test_a_column_that_was_changed_after_reading_is_written_as_it_is_now(tmp_path):
    table = read_text(tmp_path, "a,b,c\n" + "1.50,true,0.10\n2.25,false,0.20\n" * 30)
    schema = RecordSchema.infer(table)
    assert [f.format for f in schema] == ["0.00", "false/true", "0.00"]
    table["a"] /= 7
    table["b"] = table["b"].map({True: "on", False: "off"})
    schema = RecordSchema.infer(table)
    assert [(f.type, f.format) for f in schema] == [("number", None), ("category", None), ("number", "0.00")]
    write_table(table, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == f"{1.5 / 7},on,0.10"
    table["b"] = range(60)
    write_table(table, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[2] == f"{2.25 / 7},1,0.20"


def test_a_few_wrong_bytes_in_utf_8_are_an_error(tmp_path):
    text = "name,k\n" + "Müller 東京,1\n" * 20
    with pytest.raises(ValueError, match=r"line 22 has bytes that are no UTF-8, such as b'\\xfc', and all else is"):
        read_text(tmp_path, text.encode() + b"M\xfcller,2\n")
    table = read_text(tmp_path, "name,k\nMüller,1\n".encode("cp1252"))
    assert table["name"].tolist() == ["Müller"]


def test_numbers_in_place_of_texts_say_how_to_read_them(tmp_path):
    (tmp_path / "in.csv").write_text("zip\n" + "02134\n10001\n" * 20)
    schema = RecordSchema.infer(tmp_path / "in.csv")
    with pytest.raises(ValueError, match="2134 in row 0 .*read the file by difflm_hf.records.read_table"):
        schema.conform(pd.read_csv(tmp_path / "in.csv"))


@pytest.mark.parametrize("dtype", ["object", pd.ArrowDtype(pa.date32())], ids=str)
def test_days_beyond_the_years_of_datetimes_are_an_error(dtype):
    days = pd.Series([date(2020, 1, 1), date(9999, 12, 31)] * 10, dtype=dtype)
    with pytest.raises(ValueError, match="column 'x': 9999-12-31 lies outside of the years 1677 to 2262"):
        RecordSchema.infer(pd.DataFrame({"x": days}))


def test_periods_without_any_value():
    table = pd.DataFrame({"k": range(5), "x": pd.Series([pd.NaT] * 5, dtype="period[M]")})
    processor = DiffLMProcessor.from_records(table)
    batch = processor(table)
    records, _ = processor.decode_records(batch["input_ids"].numpy())
    pd.testing.assert_frame_equal(records, table)


def test_a_fraction_of_zeros_is_no_left_out_one():
    fractions = [".000000" if k % 20 == 0 else "" if k % 3 == 0 else f".{k:06}" for k in range(1, 200)]
    table = pd.DataFrame({"x": [f"2024-01-{k % 28 + 1:02}T10:00:00{of}" for k, of in enumerate(fractions)]})
    with pytest.raises(ValueError, match="column 'x'"):
        check_doubts(RecordSchema.infer(table), table)


def test_tables_of_a_database_may_have_spaces_in_their_names(tmp_path):
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    table = pd.DataFrame({"a": [1, 2]})
    write_table(table, url, "Order Lines")
    assert read_table(url, query="Order Lines")["a"].tolist() == [1, 2]


def test_what_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"{tmp_path} is a folder; name a file of it"):
        read_table(tmp_path)
    with pytest.raises(ValueError, match="/dev/null is a device or a pipe; write what comes from it to a file"):
        read_table("/dev/null")


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "file", "hf"])
def test_addresses_of_files(scheme):
    message = f"{scheme}://x/y.csv: URLs are of databases; download the file, and give its path"
    with pytest.raises(ValueError, match=message):
        read_table(f"{scheme}://me:secret@x/y.csv")
    with pytest.raises(ValueError, match=message):
        read_table(f"{scheme}://x/y.csv", query="a")
    with pytest.raises(ValueError, match="URLs are of databases"):
        write_table(pd.DataFrame({"a": [1]}), f"{scheme}://x/y.csv", "a")


def test_formulas_are_escaped_where_that_is_asked(tmp_path):
    path = tmp_path / "in.csv"
    texts = ["=HYPERLINK(1)", "+1 a", "-x", "@b", "\tc", "plain", "a=b"]
    table = pd.DataFrame({"=name": texts, "x": [-1.5] * 7, "kind": pd.Categorical(["-a", "b"] * 3 + ["b"])})
    path.write_text("price;-d\n" + "-1,50;-3\n2,00;4\n" * 9)
    write_table(table, tmp_path / "out.csv", escape_formulas=True)
    written = read_table(tmp_path / "out.csv")
    assert written["'=name"].tolist() == [f"'{text}" for text in texts[:5]] + texts[5:]
    assert written["x"].tolist() == [-1.5] * 7 and written["kind"].tolist() == ["'-a", "b"] * 3 + ["b"]
    # Numbers keep the writing of their file.
    write_table(read_table(path), tmp_path / "out.csv", escape_formulas=True)
    assert (tmp_path / "out.csv").read_text() == path.read_text().replace("-d", "'-d")
    with pytest.raises(ValueError, match="escape_formulas is of CSV files; leave it out"):
        write_table(table, tmp_path / "out.parquet", escape_formulas=True)
