"""Words among numbers and dates, such as `unknown`: values by themselves, from the file to what is generated."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import numpy as np
import pandas as pd
import pytest
from tiny import seeded

from difflm_hf import DiffLMPipeline, DiffLMProcessor, RecordSchema, train
from difflm_hf.control import Between, Not
from difflm_hf.evaluation import evaluate_table
from difflm_hf.records import SumOf, read_table, write_table
from difflm_hf.records.json_codec import JSONCodec
from difflm_hf.records.report import check_doubts, report


NUM_RECORDS = 600


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(0)
    days = pd.Series(pd.Timestamp("2021-01-01") + pd.to_timedelta(rng.integers(0, 800, NUM_RECORDS), "D"))
    table = pd.DataFrame(
        {
            "age": rng.integers(17, 91, NUM_RECORDS).astype(str),
            "amount": [f"{amount:.2f}" for amount in rng.lognormal(3, 1, NUM_RECORDS)],
            "day": days.dt.strftime("%d.%m.%Y"),
            "sex": rng.choice(["f", "m"], NUM_RECORDS),
        }
    )
    table.loc[::10, "age"] = "unknown"
    table.loc[5::10, "age"] = "90+"
    table.loc[::4, "amount"] = "t.b.d."
    table.loc[1::40, "amount"] = ""
    table.loc[7, "day"] = "31.02.2021"
    path = tmp_path_factory.mktemp("words") / "in.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def table(path):
    return read_table(path)


@pytest.fixture(scope="module")
def schema(table):
    return RecordSchema.infer(table)


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train(table, folder, recipe="tiny")
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class TestInference:
    def test_they_are_set_aside(self, schema):
        found = {f.name: (f.type, f.format, f.words, f.rarest) for f in schema if f.words}
        assert found == {
            "age": ("integer", "0", ["90+", "unknown"], 60),
            "amount": ("number", "0.00", ["t.b.d."], 150),
            "day": ("datetime", "%d.%m.%Y", ["31.02.2021"], 1),
        }
        assert (schema["age"].minimum, schema["age"].maximum) == (17, 90)

    def test_they_are_a_doubt(self, schema, table):
        doubts = report(schema, table).set_index("column")
        assert "words among them that stay as they are: '90+', 'unknown'" in doubts.loc["age", "doubt"]
        assert not doubts["is_mistaken"].any()
        check_doubts(schema, table)
        with pytest.raises(ValueError, match="column 'age'.*'unknown'"):
            check_doubts(schema, table, is_strict=True)

    def test_of_many_others_a_column_is_texts(self):
        texts = [str(number) for number in range(100)] + [f"word {k}" for k in range(9)]
        table = pd.DataFrame({"x": texts, "y": range(109)})
        schema = RecordSchema.infer(table)
        assert schema["x"].type == "text" and schema["x"].words is None
        with pytest.raises(ValueError, match="most values are numbers"):
            check_doubts(schema, table)

    def test_codes_with_leading_zeros_stay_categories(self):
        table = pd.DataFrame({"x": [f"{k % 40:03}" for k in range(400)]})
        table.loc[::7, "x"] = "none"
        assert RecordSchema.infer(table)["x"].type == "category"

    def test_only_texts_have_them(self, schema):
        with pytest.raises(ValueError, match="'age' has words among texts of numbers or dates alone"):
            replace(schema["age"], format=None)

    def test_no_sum_is_one(self, schema):
        with pytest.raises(ValueError, match="column 'age' has words among its numbers"):
            RecordSchema(schema.fields, [SumOf("age", ["amount"])])

    def test_rare_ones_are_left_out(self, schema, table):
        smaller, kept = schema.without_rare_categories(table, 10)
        assert smaller["day"].words is None and smaller["age"].words == ["90+", "unknown"]
        assert kept.sum() == NUM_RECORDS - 1 and not kept[7]


class TestCodecs:
    def test_compact(self, schema, table, path, tmp_path):
        processor = DiffLMProcessor.from_records(table, RecordSchema.from_dict(schema.to_dict()))
        batch = processor(table)
        records, _ = processor.decode_records(batch["input_ids"].numpy(), batch["within_bin_offsets"].numpy())
        pd.testing.assert_frame_equal(records, table)
        write_table(records, tmp_path / "out.csv")
        assert (tmp_path / "out.csv").read_bytes() == path.read_bytes()

    def test_json(self, schema, table):
        codec = JSONCodec(schema)
        records, valid = codec.decode(codec.encode(table))
        assert valid.all()
        pd.testing.assert_frame_equal(records, table)

    def test_json_schema(self, schema):
        validator = jsonschema.Draft202012Validator(schema.to_json_schema())
        record = {"age": "90+", "amount": "t.b.d.", "day": "31.02.2021", "sex": "f"}
        assert validator.is_valid(record)
        assert not validator.is_valid(record | {"age": "91+"})
        assert not validator.is_valid(record | {"day": "30.02.2021x"})

    def test_another_word_is_an_error(self, schema, table):
        processor = DiffLMProcessor.from_records(table, schema)
        with pytest.raises(ValueError, match="column 'age': 'nobody knows' in row 0 is not an integer .*or 'unknown'"):
            processor(table.assign(age="nobody knows"))


class TestGeneration:
    def test_shares_are_those_of_the_data(self, pipe, table):
        records = pipe(2000, generator=seeded(), output_type="pandas").records
        # A few steps learn a quarter to within a fifth of it, in bfloat16 too.
        for name, word in (("age", "unknown"), ("age", "90+"), ("amount", "t.b.d.")):
            assert (records[name] == word).mean() == pytest.approx((table[name] == word).mean(), rel=0.5)
        assert pipe.processor.schema["age"].allows(records["age"]).all()

    def test_conditions(self, pipe):
        records = pipe(50, conditions={"age": "unknown", "amount": Between(10, 30)}, output_type="pandas").records
        assert (records["age"] == "unknown").all()
        assert records["amount"].astype(float).between(10, 30).all()
        records = pipe(200, conditions={"age": Not("unknown")}, output_type="pandas").records
        assert not (records["age"] == "unknown").any() and (records["age"] == "90+").any()
        records = pipe(50, conditions={"age": ["90+", Between(80, 90)]}, output_type="pandas").records
        assert records["age"].isin(["90+", *map(str, range(80, 91))]).all()
        records = pipe(50, where="age == 'unknown' or amount < 20", output_type="pandas").records
        assert ((records["age"] == "unknown") | (pd.to_numeric(records["amount"], errors="coerce") < 20)).all()

    def test_rows_with_gaps(self, pipe):
        rows = pd.DataFrame({"age": ["unknown", "33", None], "sex": [None, "m", "f"]})
        records = pipe(conditions=rows, output_type="pandas").records
        assert records["age"].tolist()[:2] == ["unknown", "33"] and records["sex"].tolist()[1:] == ["m", "f"]

    @pytest.mark.parametrize("num_imputations", [1, 5])
    def test_imputation(self, pipe, table, num_imputations):
        gaps = table.head(40).copy()
        gaps.loc[::3, "age"] = None
        gaps.loc[1::3, "amount"] = None
        filled = pipe.impute(gaps, num_imputations)
        filled = filled if isinstance(filled, pd.DataFrame) else filled[0]
        assert filled.notna().all(axis=None)
        known = gaps.notna()
        assert (filled.astype(object)[known].fillna("") == gaps.astype(object)[known].fillna("")).all(axis=None)

    @pytest.mark.slow
    def test_in_an_evaluation_they_count_as_missing(self, pipe, table):
        records = pipe(NUM_RECORDS, output_type="pandas").records
        scores = evaluate_table(records, table, table, target="sex", categorical=["sex"])
        assert any("'90+', 'unknown' among integers count as missing" in note for note in scores["notes"])
        assert not any("synthetic values, such as" in note for note in scores["notes"])

    def test_the_card_names_no_rare_one(self, folder):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "words among numbers" in card and "31.02.2021" not in card
