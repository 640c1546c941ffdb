"""Quotes and ends of lines of CSV files: found, kept by schemas, and written again."""

from __future__ import annotations

import csv
import io

import pytest

from difflm_hf import DiffLMProcessor, RecordSchema
from difflm_hf.records import CSVFormat, read_table, write_table
from difflm_hf.records.report import describe


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
    "texts, as R writes them": (as_r_writes(), {"quoting": "texts"}),
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
