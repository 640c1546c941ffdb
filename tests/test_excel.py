"""Excel files: sheets, words for missing values, and what cells cannot hold."""

from __future__ import annotations

from datetime import time

import pandas as pd
import pytest

from difflm_hf import RecordSchema
from difflm_hf.records import CSVFormat, read_table, write_table
from difflm_hf.records.json_codec import JSONCodec


def test_sheets(tmp_path):
    path = tmp_path / "book.xlsx"
    with pd.ExcelWriter(path) as writer:
        for name, value in (("first", 1), ("second", 2)):
            pd.DataFrame({"a": [value]}).to_excel(writer, sheet_name=name, index=False)
        pd.DataFrame().to_excel(writer, sheet_name="third", index=False)
    assert read_table(path)["a"].tolist() == [1]
    assert read_table(path, query="second")["a"].tolist() == [2]
    with pytest.raises(ValueError, match="book.xlsx.*'fourth'"):
        read_table(path, query="fourth")
    with pytest.raises(ValueError, match="the sheet is empty"):
        read_table(path, query="third")


def test_texts_like_formulas_and_errors_stay_texts(tmp_path):
    table = pd.DataFrame({"a": ['=HYPERLINK("x")', "=1+1", "#N/A", "b"]})
    write_table(table, tmp_path / "x.xlsx")
    pd.testing.assert_frame_equal(read_table(tmp_path / "x.xlsx"), table)


@pytest.mark.parametrize("ending", [".xlsx", ".parquet", ".jsonl"])
def test_words_for_missing_values_can_be_given(ending, tmp_path):
    values = [1, "unknown", 3] * 10 if ending == ".xlsx" else ["1", "unknown", "3"] * 10
    given = pd.DataFrame({"a": values, "k": range(30)})
    if ending == ".xlsx":
        given.to_excel(tmp_path / "x.xlsx", index=False)
    else:
        write_table(given, tmp_path / f"x{ending}")
    table = read_table(tmp_path / f"x{ending}", CSVFormat(null_words=["unknown"]))
    assert table["a"].isna().sum() == 10 and [str(value) for value in table["a"].dropna()[:2]] == ["1", "3"]
    assert table["k"].tolist() == list(range(30))


def test_columns_of_the_same_name(tmp_path):
    path = tmp_path / "x.xlsx"
    pd.DataFrame([[2020, "2020"], [1, 2]]).to_excel(path, header=False, index=False)
    with pytest.raises(ValueError, match="column name '2020' stands more than once"):
        read_table(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [(2**53 + 1, "more digits than Excel keeps"), ("y" * 40_000, "too long"), ("x\x01y", "control characters")],
)
def test_what_cells_cannot_hold(value, message, tmp_path):
    with pytest.raises(ValueError, match=f"column 'a': .*{message}"):
        write_table(pd.DataFrame({"a": [value]}), tmp_path / "x.xlsx")
    assert not list(tmp_path.iterdir())


def test_times_of_day_as_json():
    times = [time(hour % 24, hour % 60) for hour in range(200)]
    codec = JSONCodec(RecordSchema.infer(pd.DataFrame({"a": times, "k": list("xy") * 100})))
    table = pd.DataFrame({"a": times, "k": list("xy") * 100})
    records, valid = codec.decode(codec.encode(table))
    assert valid.all() and records["a"].tolist() == times
