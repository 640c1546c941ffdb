"""Columns as people have them: read, encoded, learnt, generated and written, each in its own type and writing."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd
import pytest
from traits import COLUMNS, NUM_RECORDS, TEXTS

from difflm_hf import DiffLMProcessor, RecordSchema, train
from difflm_hf.records import read_table, write_table
from difflm_hf.records.report import check_doubts


PAGE = Path(__file__).parent.parent / "docs" / "traits.md"


def write_csv(path: Path, columns: dict[str, list[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))
    return path


def copied(table: pd.DataFrame, schema: RecordSchema) -> pd.DataFrame:
    """What comes back of exactly encoded records."""
    processor = DiffLMProcessor.from_records(table, schema)
    batch = processor(table)
    return processor.decode_records(batch["input_ids"].numpy(), batch["within_bin_offsets"].numpy())[0]


def assert_same_values(found: pd.Series, expected: pd.Series) -> None:
    assert found.dtype == expected.dtype
    assert found.isna().tolist() == expected.isna().tolist()
    assert found.dropna().tolist() == expected.dropna().tolist()


@pytest.fixture(scope="module")
def keys() -> list[str]:
    return [str(k % 7) for k in range(NUM_RECORDS)]


@pytest.mark.parametrize("name", TEXTS)
def test_texts_come_back_as_they_stand(name, keys, tmp_path):
    texts, kind, format = TEXTS[name]
    path = write_csv(tmp_path / "in.csv", {"key": keys, "x": texts})
    table = read_table(path)
    schema = RecordSchema.infer(table)
    assert (schema["x"].type, schema["x"].format) == (kind, format)
    check_doubts(schema, table)
    saved = RecordSchema.from_dict(schema.to_dict())
    assert saved == schema
    records = copied(table, saved)
    assert_same_values(records["x"], table["x"])
    write_table(records, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", TEXTS)
def test_texts_in_memory_come_back_as_they_are(name, keys):
    texts, kind, _ = TEXTS[name]
    if kind in ("boolean", "null"):  # texts in memory are no booleans, and empty ones no nulls
        pytest.skip("of files alone")
    table = pd.DataFrame({"key": keys, "x": pd.Series(texts, dtype=object).replace("", None)})
    assert_same_values(copied(table, RecordSchema.infer(table))["x"], table["x"])


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_come_back_in_their_dtype(name, keys, tmp_path):
    table = pd.DataFrame({"key": keys, "x": COLUMNS[name]})
    schema = RecordSchema.infer(table)
    assert RecordSchema.from_dict(schema.to_dict()) == schema
    records = copied(table, schema)
    assert_same_values(records["x"], table["x"])
    assert schema.to_record_batch(records).num_rows == len(records) and schema.to_features()


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A model of all columns at once, what it learnt from, and what it wrote."""
    folder = tmp_path_factory.mktemp("traits")
    given = {name: texts for name, (texts, _, _) in TEXTS.items()}
    table = read_table(write_csv(folder / "in.csv", given))
    attrs = table.attrs
    table = pd.concat([table, pd.DataFrame(COLUMNS)], axis=1)
    table.attrs = attrs
    pipe = train(table, folder / "model", recipe="quick")
    pipe.set_progress_bar_config(disable=True)
    records = pipe(300, output_type="pandas").records
    write_table(records[list(TEXTS)], folder / "out.csv")
    with open(folder / "out.csv", newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    return pipe.processor.schema, table, records, written


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEXTS, *COLUMNS])
def test_generated_values_are_like_those_of_the_data(name, generated):
    schema, table, records, written = generated
    f, found = schema[name], records[name]
    assert found.dtype == table[name].dtype
    assert f.allows(found).all()  # bounds, too
    assert abs(found.isna().mean() - table[name].isna().mean()) < 0.25
    if name in TEXTS and f.type not in ("text", "null"):
        # Any digit for each digit of the data: letters and signs are those of some value.
        shapes = {re.sub(r"\d+", "0", text) for text in TEXTS[name][0]}
        of_dates = f.type == "datetime" and re.search("%.?[abBA]", f.format)
        if not of_dates:
            assert {re.sub(r"\d+", "0", row[name]) for row in written} <= shapes


def test_the_page_has_all_traits():
    page = PAGE.read_text(encoding="utf-8")
    assert len(TEXTS) + len(COLUMNS) >= 60
    rows = re.findall(r"^\| ([^|]+) \|", page, re.M)
    assert [name for name in (*TEXTS, *COLUMNS) if name not in rows] == []
