"""Quotes and ends of lines of CSV files: found, kept by schemas, and written again."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest

from difflm_hf import DiffLMProcessor, RecordSchema
from difflm_hf.records import CSVFormat, read_table, write_table
from difflm_hf.records.report import check_doubts, describe


NAMES = ["name", "k", "amount", "code"]
ROWS = [
    [name, str(k), f"{k / 7:.2f}", f"{k:03}"]
    for k, name in enumerate(["a, b", 'say "x"', "it's", "a;b", "plain"] * 30)
]


def written(quoting: int, **style) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=quoting, lineterminator="\n", **style).writerows([NAMES, *ROWS])
    return file.getvalue()


def as_r_writes() -> str:
    rows = (['"' + row[0].replace('"', '""') + '"', row[1], row[2], f'"{row[3]}"'] for row in ROWS)
    return "".join(",".join(row) + "\n" for row in ([f'"{name}"' for name in NAMES], *rows))


FILES = {
    "minimal": (written(csv.QUOTE_MINIMAL), {"quoting": "minimal"}),
    "all": (written(csv.QUOTE_ALL), {"quoting": "all"}),
    "texts, as R writes them": (as_r_writes(), {"quoting": ("name", "code")}),
    "single quotes": (written(csv.QUOTE_ALL, quotechar="'", delimiter=";"), {"quoting": "all", "quote": "'"}),
    "carriage returns": (written(csv.QUOTE_MINIMAL).replace("\n", "\r\n"), {"newline": "\r\n"}),
}


@pytest.mark.parametrize("name", FILES)
def test_files_come_back_to_the_byte(name, tmp_path):
    text, style = FILES[name]
    (tmp_path / "in.csv").write_bytes(text.encode())
    table = read_table(tmp_path / "in.csv")
    assert {key: table.attrs["csv"][key] for key in style} == style
    assert table[["name", "code"]].values.tolist() == [[row[0], row[3]] for row in ROWS]
    schema = RecordSchema.from_dict(RecordSchema.infer(table).to_dict())
    processor = DiffLMProcessor.from_records(table, schema)
    batch = processor(table)
    records, _ = processor.decode_records(batch["input_ids"].numpy(), batch["within_bin_offsets"].numpy())
    write_table(records, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == text.encode()


def test_a_quote_can_be_given(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text(written(csv.QUOTE_MINIMAL, quotechar="'"))
    with pytest.raises(ValueError, match="quote values that hold the separator"):
        read_table(path)
    table = read_table(path, CSVFormat(quote="'"))
    assert table["name"].tolist() == [row[0] for row in ROWS]
    assert 'quote "\'"' in describe(RecordSchema.infer(table), table)


def test_inches_are_no_quotes_where_there_are_none(tmp_path):
    (tmp_path / "in.csv").write_text('size;k\n5" pipe;1\n7 1/2" pipe;2\n9 pipe;3\n')
    table = read_table(tmp_path / "in.csv", CSVFormat(quote=""))
    assert table["size"].tolist() == ['5" pipe', '7 1/2" pipe', "9 pipe"]


@pytest.mark.parametrize("given", [{"quote": "|"}, {"quoting": "some"}, {"newline": "\r"}])
def test_wrong_styles(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))}=.* is not one of"):
        CSVFormat(**given)


def read_bytes(folder, data: bytes | str, how: CSVFormat | None = None) -> pd.DataFrame:
    path = folder / "in.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_table(path, how)


def written_again(folder, table: pd.DataFrame) -> str:
    write_table(table, folder / "out.csv")
    return (folder / "out.csv").read_bytes().decode(table.attrs["csv"]["encoding"])


class TestDecimals:
    def test_a_column_may_have_another_point_than_the_file(self, tmp_path):
        text = "a,size\n" + "".join(f'{k},"{k % 9 + 1},5"\n' for k in range(30))
        table = read_bytes(tmp_path, text)
        assert RecordSchema.infer(table)["size"].format == "0,0"
        assert written_again(tmp_path, table) == text

    def test_thousands_with_one_ungrouped(self, tmp_path):
        text = "n,price\n" + "".join(f'n{k},"{1000 + k:,}"\n' for k in range(30)) + "k,12345\n"
        f = RecordSchema.infer(read_bytes(tmp_path, text))["price"]
        assert (f.type, f.format, f.words) == ("integer", "#,##0", ["12345"])

    def test_floats_of_full_precision_with_decimal_commas(self, tmp_path):
        text = "a;b\n" + "".join(f"{k / 7!r};x\n".replace(".", ",") for k in range(1, 50))
        table = read_bytes(tmp_path, text)
        assert table["a"].dtype == "float64" and written_again(tmp_path, table) == text

    def test_a_late_number_with_too_many_digits_is_doubted(self, tmp_path):
        text = "a,b\n" + "".join(f"{k}.25,x\n" for k in range(1500)) + "123456789012345678901.25,x\n"
        table = read_bytes(tmp_path, text)
        with pytest.raises(ValueError, match="'123456789012345678901.25' will be written otherwise"):
            check_doubts(RecordSchema.infer(table), table, is_strict=True)


class TestQuotes:
    @pytest.mark.parametrize(
        "text",
        [
            '"id","t"\n9007199254740993,"x"\n,"y"\n',
            '"d","t"\n2024-01-01,"x"\n2024-02-01,"y"\n',
            '"","t"\n1.5,"x"\n,"y"\n',
            '"a","b"\n"1","2"\n"","3"\n',
            '"n","x"\n"a",1\nNA,2\n"NA",3\n"a",NA\n',
            '"n","d"\n"a","b"\nNA,"c"\n"NA",NA\n',
            '"n","x","y"\n"a",1.50,TRUE\nNA,NA,NA\n"b",2.25,FALSE\n',
        ],
    )
    def test_come_back_around_the_same_values(self, text, tmp_path):
        assert written_again(tmp_path, read_bytes(tmp_path, text)) == text

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("id,note\n" + "".join(f"{k},{chr(34) * (k in (20, 70))}note{k}\n" for k in range(100)), 22),
            ('id,note\n1,"x" y\n', 2),
            ('id,note\n1,"x\\"1"\n', 2),
        ],
    )
    def test_that_end_inside_of_a_value_are_errors(self, text, line, tmp_path):
        with pytest.raises(ValueError, match=f"line {line} opens a quote"):
            read_bytes(tmp_path, text)

    def test_inside_of_values_without_any_are_signs(self, tmp_path):
        table = read_bytes(tmp_path, 'id,note\n1,5" pipe\n2,"a\nb"\n3,"say ""c"", d"\n4,x\n')
        assert table["note"].tolist() == ['5" pipe', "a\nb", 'say "c", d', "x"]

    def test_none_are_written_where_there_are_none(self, tmp_path):
        table = read_bytes(tmp_path, 'id,note\n1,5" pipe\n', CSVFormat(quote=""))
        assert written_again(tmp_path, table) == 'id,note\n1,5" pipe\n'
        table["note"] = "a,b"
        with pytest.raises(ValueError, match="a value has the separator ',' in it"):
            written_again(tmp_path, table)


@pytest.mark.parametrize("sign", ["£0.50", "0.5 °C", "Coruña, Málaga", "1,5 €", "Ä é"])
def test_signs_that_often_repeat_are_of_western_windows(sign, tmp_path):
    text = "x;town\n" + "".join(f"{sign};Leeds{k}\n" for k in range(100))
    table = read_bytes(tmp_path, text.encode("cp1252"))
    assert table.attrs["csv"]["encoding"] == "cp1252" and written_again(tmp_path, table) == text


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([*(repr(k / 7) for k in range(1, 300)), "unknown"], "most values are numbers, but not 'unknown'"),
        ([*map(str, range(1, 200)), "9" * 20], "numbers in no format that is kept"),
        ([f"{k / 7:+.2f}" for k in range(-50, 50)], "numbers in no format that is kept"),
        ([f"2024-01-{k % 28 + 1:02} 10:00:00.{k}" for k in range(5, 105)], "dates in no format that is kept"),
    ],
)
def test_numbers_and_dates_without_a_format_are_errors(texts, message, tmp_path):
    table = read_bytes(tmp_path, "x,k\n" + "".join(f"{text},{k}\n" for k, text in enumerate(texts)))
    with pytest.raises(ValueError, match=f"column 'x'.*{message}"):
        check_doubts(RecordSchema.infer(table), table)


def test_long_codes_are_texts(tmp_path):
    table = read_bytes(tmp_path, "x,k\n" + "".join(f"{10**20 + k},{k}\n" for k in range(100)))
    schema = RecordSchema.infer(table)
    check_doubts(schema, table)
    assert schema["x"].type == "text"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\n", "the file is empty"), (b"\xef\xbb\xbf", "the file is empty")],
)
def test_files_without_anything(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_bytes(tmp_path, data)


def test_empty_lines_before_the_header(tmp_path):
    assert read_bytes(tmp_path, "\n\na,b\n1,2\n").to_dict("list") == {"a": [1], "b": [2]}


def test_an_empty_value_that_is_rarer_than_a_word_is_doubted(tmp_path):
    table = read_bytes(tmp_path, "x,k\n" + "1,1\nNA,2\nNA,3\n,4\n" * 20)
    with pytest.raises(ValueError, match="'' will be written otherwise"):
        check_doubts(RecordSchema.infer(table), table, is_strict=True)


@pytest.mark.parametrize("null_words", [[5], "NA"])
def test_words_for_missing_values_are_strings(null_words):
    with pytest.raises(ValueError, match="null_words="):
        CSVFormat(null_words=null_words)


@pytest.mark.parametrize("texts", [["TRUE", "FALSE", "NA"] * 10, ["true", "false", "", "NA"] * 9])
def test_missing_booleans(texts, tmp_path):
    table = read_bytes(tmp_path, "x,k\n" + "".join(f"{text},{k}\n" for k, text in enumerate(texts)))
    f = RecordSchema.infer(table)["x"]
    assert (f.type, f.nullable) == ("boolean", True)


def test_codes_with_a_hyphen_are_no_negative_numbers(tmp_path):
    table = read_bytes(tmp_path, "id,k\n" + "".join(f"CRM-{160000 + 7 * k},{k}\n" for k in range(100)))
    assert RecordSchema.infer(table)["id"].type == "text"


def test_signs_that_an_encoding_lacks_lose_no_records(tmp_path, caplog):
    table = read_bytes(tmp_path, "name;k\nMüller;1\nKöln;2\n".encode("cp1252"))
    table["name"] = ["東京", "Köln"]
    write_table(table, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == "name;k\n??;1\nKöln;2\n".encode("cp1252")


def test_tsv_files_have_tabs(tmp_path):
    table = read_bytes(tmp_path, "a;b\n1;2\n")
    write_table(table, tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text() == "a\tb\n1\t2\n"


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("text", ["a,b", "a", '"a","b\nc"', "<html><body>502 Bad Gateway, sorry</body></html>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_header_alone_has_no_rows(tmp_path, name, text, encoding):
    (path := tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match="has no rows"):
        read_table(path)
    if name == "t.csv":  # with a row it is read, with or without the end of its line
        for end in ("", "\n"):
            path.write_bytes((text + "\n" + text.replace("\n", " ") + end).encode(encoding))
            assert len(read_table(path)) == 1


@pytest.mark.slow
def test_a_header_of_many_columns_is_told_in_short(tmp_path):
    (path := tmp_path / "t.csv").write_text("<p>,".join(map(str, range(5000))))
    with pytest.raises(ValueError, match="has no rows") as error:
        read_table(path)
    assert len(str(error.value)) < 1000
