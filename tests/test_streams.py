"""Samples of records that are more than memory holds."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, IterableDataset
from scipy.stats import kstest
from tiny import make_table

import difflm_hf.records.streams
from difflm_hf import DataArguments, DiffLMPipeline, train
from difflm_hf.commands.program import app
from difflm_hf.records import write_table
from difflm_hf.records.readers import read_table
from difflm_hf.records.streams import sample_records
from difflm_hf.training import summary
from difflm_hf.training.summary import fingerprint_records


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(difflm_hf.records.streams, "CHUNK", 100)


def table_of(num_records: int) -> pd.DataFrame:
    table = pd.DataFrame({"k": np.arange(num_records), "x": np.sin(np.arange(num_records))})
    table["city"] = pd.Series(np.where(table["k"] % 5 == 0, "Ulm", "Bonn")).mask(table["k"] == 777, "Rome")
    table["maybe"] = table["k"].astype("Int64").mask(table["k"] < 300)
    return table


@pytest.fixture(params=["parquet", "stream", "table", "csv"])
def source(request, tmp_path):
    """`source(table)`: the table in one of the forms."""

    def make(table):
        if request.param in ("parquet", "csv"):
            write_table(table, tmp_path / f"in.{request.param}")
            return tmp_path / f"in.{request.param}"
        return table if request.param == "table" else Dataset.from_pandas(table).to_iterable_dataset()

    return make


def test_a_sample_is_drawn_evenly_and_knows_all_values(source):
    table = table_of(2000)
    sample, num_seen = sample_records(source(table), 400, seed=3)
    # The bounds of k, x and maybe grow within chunks, and the three cities come once each.
    assert num_seen == 2000 and 400 <= len(sample) <= 470
    assert sample["k"].is_monotonic_increasing and sample["k"].is_unique
    assert set(sample["city"]) == {"Ulm", "Bonn", "Rome"}
    for name in ("k", "x", "maybe"):
        assert (sample[name].min(), sample[name].max()) == (table[name].min(), table[name].max())
    pd.testing.assert_frame_equal(
        sample.reset_index(drop=True), table.loc[sample["k"]].reset_index(drop=True), check_dtype=False
    )


def test_draws_are_uniform():
    table, times = pd.DataFrame({"k": np.zeros(600), "row": np.arange(600)}).astype({"row": str}), []
    for seed in range(40):
        sample, _ = sample_records(table.assign(row=[[k] for k in range(600)]), 60, seed)
        times += sample["row"].str[0].tolist()[1:]  # the first has the bounds
    assert len(times) >= 40 * 59 and kstest(np.array(times) / 600, "uniform").pvalue > 0.01


def test_what_is_less_than_the_sample_is_taken_whole(source):
    table = table_of(250)
    sample, num_seen = sample_records(source(table), 1000)
    assert num_seen == 250 and sample["k"].tolist() == list(range(250))


def test_types_are_those_of_the_whole_file(tmp_path):
    table = make_table(350)
    write_table(table, tmp_path / "in.parquet")
    sample, _ = sample_records(tmp_path / "in.parquet", 350)
    pd.testing.assert_frame_equal(sample, read_table(tmp_path / "in.parquet"))


@pytest.mark.slow
def test_training(tmp_path):
    stream = Dataset.from_pandas(make_table(500).drop(columns="nothing")).to_iterable_dataset()
    pipe = train(stream, tmp_path / "model", recipe="tiny", data_args=DataArguments(max_records=200))
    facts = pipe.config.training["data"]
    assert facts["num_given_records"] == 500
    assert 200 <= facts["num_records"] + facts["num_validation_records"] < 450
    assert "**A sample** of 500 records" in (tmp_path / "model/README.md").read_text()
    assert len(pipe(5).records) == 5


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table(table_of(500).drop(columns="maybe"), "in.parquet")
    options = ["--output-dir", "model", "--recipe", "tiny", "--max-records", "100", "--accept", "k"]
    app(["train", "in.parquet", *options], standalone_mode=False)
    assert DiffLMPipeline.from_pretrained("model").config.training["data"]["num_given_records"] == 500
    assert "of 500 records are learnt from" in capsys.readouterr().err


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="max_records"):
        DataArguments(max_records=0)
    with pytest.raises(ValueError, match="has no records"):
        sample_records(IterableDataset.from_generator(lambda: iter([])), 5)


def test_fingerprints_are_those_of_parts(monkeypatch):
    table = make_table(50)
    whole = fingerprint_records(table)
    monkeypatch.setattr(summary, "CHUNK", 7)
    assert fingerprint_records(table.sample(frac=1, random_state=0)) == whole
    assert fingerprint_records(table.head(49)) != whole
