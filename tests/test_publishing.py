"""What the files of a model tell of its data: rare categories, rare words, and the record of the training."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_training import save_pretrained_pair
from tiny import RECIPES, train

from difflm_hf import DiffLMPipeline, DiffLMProcessor, JSONCodec, RecordSchema
from difflm_hf.callbacks import LossProgressCallback
from difflm_hf.hub.cards import model_card
from difflm_hf.records import CompactCodec
from difflm_hf.training import DataArguments
from difflm_hf.training.prepare import prepare_records
from difflm_hf.training.summary import summarize_training


# In one record each: a category, a free text, and an extreme number.
PLANTED = {"city": "Unterammerfeld", "note": "Zacharias Quellmalz", "salary": 987654.25}
RARE_NUMBER = 17  # of children

thorough = settings(suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def brief() -> str:
    """A recipe of a few steps a phase."""
    tiny = RECIPES["tiny"]
    RECIPES["brief, published"] = replace(tiny, min_steps=8, denoiser={**tiny.denoiser, "max_steps": 8})
    return "brief, published"


def make_people(num_records: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "city": rng.choice(["Ulm", "Bonn", "Gera"], num_records),
            "note": [f"seen {x:.4f} times" for x in rng.random(num_records)],
            "salary": np.round(rng.lognormal(8, 0.5, num_records), 2),
            "member": rng.random(num_records) < 0.3,
        }
    )


def without_rare(table: pd.DataFrame, min_count: int, categorical=()) -> tuple[RecordSchema, pd.DataFrame]:
    """The schema of a table without rare categories, and the records that are left."""
    schema, kept = RecordSchema.infer(table, categorical).without_rare_categories(table, min_count)
    assert kept.dtype == bool and len(kept) == len(table)
    return schema, table[kept]


@st.composite
def tables(draw) -> pd.DataFrame:
    """Two or three columns of categories: strings, integers or pandas categories, with nulls and unused categories."""
    num_records, columns = draw(st.integers(1, 60)), {}
    for name in "abc"[: draw(st.integers(2, 3))]:
        names = ["v", "w", "x", "y", "z"]
        codes = draw(st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]), min_size=num_records, max_size=num_records))
        if draw(st.booleans()):
            values = [names[code] for code in codes]
            holes = draw(st.sets(st.integers(0, num_records - 1), max_size=num_records))
            values = [None if i in holes and draw(st.booleans()) else v for i, v in enumerate(values)]
            is_dtype = draw(st.booleans()) or not any(v is not None for v in values)
            columns[name] = pd.Categorical(values, names) if is_dtype else pd.Series(values, dtype=object)
        else:
            columns[name] = codes
    return pd.DataFrame(columns)


class TestRareCategories:
    @thorough
    @given(tables(), st.integers(1, 12))
    def test_what_remains_is_common(self, table, min_count):
        schema = RecordSchema.infer(table, categorical=list(table.columns))
        before = schema.to_dict()
        try:
            published, kept = schema.without_rare_categories(table, min_count)
        except ValueError as error:
            assert "records have categories of fewer than" in str(error)
            return
        finally:
            assert schema.to_dict() == before
        left = table[kept]
        assert 2 * len(left) >= len(table)
        published.conform(left)
        for field in published:
            counts = left[field.name].value_counts()
            counts = counts[counts > 0]
            if field.type == "null":
                assert counts.empty and field.nullable and field.categories is field.rarest is None
                continue
            # Each is common, and each of those that are left is named.
            assert set(field.categories) == set(counts.index)
            assert field.rarest == counts.min() >= min_count
        # Once more changes nothing: it is a fixed point.
        again, all_kept = published.without_rare_categories(left, min_count)
        assert all_kept.all() and again.to_dict() == published.to_dict()

    @thorough
    @given(tables(), st.integers(1, 12))
    def test_no_more_is_removed_than_need_be(self, table, min_count):
        """An independent search for the largest set of records, from which one rare category at a time is removed."""
        left = table
        while True:
            counts = [(name, value, n) for name in left for value, n in left[name].value_counts().items()]
            rare = [(name, value) for name, value, n in counts if 0 < n < min_count]
            if not rare:
                break
            name, value = rare[-1]
            left = left[left[name] != value]
        schema = RecordSchema.infer(table, categorical=list(table.columns))
        if 2 * len(left) < len(table):
            with pytest.raises(ValueError, match=r"column '[abc]': \d+ of \d+ records"):
                schema.without_rare_categories(table, min_count)
        else:
            _, kept = schema.without_rare_categories(table, min_count)
            assert table.index[kept].tolist() == left.index.tolist()

    @thorough
    @given(tables())
    def test_nothing_is_rare(self, table):
        schema = RecordSchema.infer(table, categorical=list(table.columns))
        published, kept = schema.without_rare_categories(table, 1)
        assert kept.all()
        for field in published:
            used = set(table[field.name].dropna())
            expected = [category for category in schema[field.name].categories if category in used]
            assert (field.categories or []) == expected  # in the same order

    def test_removal_cascades(self):
        # Each step leaves the next category rare: "u" is, then "x" has one record less, then "q".
        table = pd.DataFrame({"a": ["u"] + ["v"] * 40, "b": ["x"] * 3 + ["y"] * 38, "c": ["q"] * 4 + ["p"] * 37})
        table.loc[3, "b"] = "y"
        schema, left = without_rare(table, 3)
        assert [field.categories for field in schema] == [["v"], ["y"], ["p"]]
        assert left.index.tolist() == list(range(4, 41))

    def test_nulls_are_no_category(self):
        table = pd.DataFrame({"a": [None] + ["v"] * 40, "b": ["x"] * 41})
        schema, left = without_rare(table, 10)
        assert len(left) == 41 and schema["a"].categories == ["v"] and schema["a"].nullable

    def test_a_column_that_has_nothing_left(self):
        for dtype in object, pd.CategoricalDtype(["u", "v", "w"]):
            table = pd.DataFrame({"a": ["u"] * 4 + ["v"] * 4 + [None] * 12, "b": range(20)})
            table["a"] = table["a"].astype(dtype)
            schema, left = without_rare(table, 5, categorical=["a"])
            assert (schema["a"].type, schema["a"].categories) == ("null", None)
            assert left["b"].tolist() == list(range(8, 20))
            # The rest of the package knows what to do with it.
            processor = DiffLMProcessor.from_records(left, schema)
            records, _ = processor.decode_records(processor(left)["input_ids"].numpy())
            assert records["a"].isna().all() and records["a"].dtype.name == table["a"].dtype.name
            assert '"a": null' in JSONCodec(schema).encode(left)[0]

    def test_all_categories_rare(self):
        table = pd.DataFrame({"street": [f"s{i % 30}" for i in range(60)], "x": range(60)})
        with pytest.raises(
            ValueError, match="column 'street': 60 of 60 records have categories of fewer than 3; drop the column"
        ):
            without_rare(table, 3)

    def test_dtypes(self):
        table = pd.DataFrame(
            {
                "size": pd.Categorical(["S"] * 2 + ["L"] * 20 + ["M"] * 20, ["S", "M", "L", "XL"], ordered=True),
                "code": pd.Series([7] * 40 + [9] * 2, dtype="int8"),
                "flag": [True] + [False] * 41,
                "count": range(42),
            }
        )
        schema, left = without_rare(table, 10, categorical=["code"])
        assert left.index.tolist() == list(range(2, 40))
        # Neither a record's size nor an unused one is named; the order is kept.
        assert (schema["size"].categories, schema["size"].ordered, schema["size"].rarest) == (["M", "L"], True, 18)
        assert schema["code"].categories == [7]
        # "True" and "False" name no one.
        assert schema["flag"] == RecordSchema.infer(table)["flag"]
        assert schema["count"] == RecordSchema.infer(table)["count"]
        processor = DiffLMProcessor.from_records(left, schema)
        batch = processor(left)
        records, _ = processor.decode_records(batch["input_ids"].numpy(), batch["within_bin_offsets"].numpy())
        assert records["size"].cat.categories.tolist() == ["M", "L"] and records["size"].tolist() == list(left["size"])


def test_unused_categories_of_a_dtype_are_not_told(brief, tmp_path, caplog):
    people = make_people(60)
    people.loc[0, "city"] = PLANTED["city"]
    people["city"] = people["city"].astype("category")
    with caplog.at_level("WARNING", "difflm_hf"):
        pipe = train(people, tmp_path / "model", recipe=brief, min_category_count=10)
    assert pipe.processor.schema["city"].categories == ["Bonn", "Gera", "Ulm"]
    assert pipe.processor.schema["city"].rarest >= 10
    assert PLANTED["city"] not in (tmp_path / "model" / "processor" / "processor_config.json").read_text()
    assert "1 records have categories of fewer than 10" in caplog.text


class TestPublishable:
    def test_categories(self):
        table = pd.DataFrame({"a": ["u"] * 9 + ["v"] * 40, "b": ["x"] * 2 + ["y"] * 47})
        with pytest.raises(ValueError, match=r"\['a', 'b'\] have values of .*: the rarest of column 'b' has 2; train"):
            DiffLMProcessor.from_records(table).check_publishable()
        DiffLMProcessor.from_records(table).check_publishable(min_count=2)
        schema, left = without_rare(table, 10)
        DiffLMProcessor.from_records(left, schema).check_publishable()
        with pytest.raises(ValueError, match="fewer than 41"):
            DiffLMProcessor.from_records(left, schema).check_publishable(min_count=41)

    def test_numbers_of_few_values(self):
        """Each has a token of its own, as categories have."""
        dates = pd.to_datetime(["2020-01-01"] * 41 + ["2020-05-01"] * 8)
        table = pd.DataFrame({"children": [1] * 40 + [7] * 9, "day": dates, "price": [0.5] * 49})
        processor = DiffLMProcessor.from_records(table)
        with pytest.raises(
            ValueError,
            match=r"\['children', 'day'\] have values of fewer than 10 .*: the rarest of column 'day' has 8;",
        ):
            processor.check_publishable()
        processor.check_publishable(min_count=8)
        with pytest.raises(ValueError, match=r"\['children'\]"):
            DiffLMProcessor.from_records(table, min_token_count=9).check_publishable()
        assert JSONCodec(processor.schema).rarest == {}  # which has bounds alone

    def test_rare_numbers_get_no_token(self, tmp_path):
        table = pd.DataFrame({"children": [0, 1, 2] * 30 + [5, 6, 9], "price": [*range(93)]})
        processor = DiffLMProcessor.from_records(table, min_token_count=10)
        processor.check_publishable()
        tokens = processor.codec.tokens["children"]
        assert (tokens.values, tokens.rarest) == ([0, 1, 2], 30)
        # What is rare lies anywhere between the bounds, and is itself kept.
        assert (tokens.bins.starts, tokens.bins.end) == ([0], 9)
        batch = processor(table)
        assert processor.decode_records(batch["input_ids"], batch["within_bin_offsets"])[0].equals(table)
        processor.save_pretrained(tmp_path)
        DiffLMProcessor.from_pretrained(tmp_path).check_publishable()
        # Of files without counts, nobody knows.
        path = tmp_path / "processor_config.json"
        state = json.loads(path.read_text())
        for _, field in state["codec"]["tokens"]:
            del field["rarest"]
        path.write_text(json.dumps(state))
        with pytest.raises(
            ValueError, match=r"\['children'\] have values .*the rarest of column 'children' has none, or an"
        ):
            DiffLMProcessor.from_pretrained(tmp_path).check_publishable()

    @thorough
    @given(
        st.lists(st.tuples(st.integers(-50, 400), st.integers(1, 15)), min_size=1, max_size=150),
        st.integers(2, 12),
        st.sampled_from([2, 100]),
    )
    def test_every_token_of_a_number_is_of_many_records(self, values, min_count, max_values):
        numbers = [value for value, count in values for _ in range(count)]
        table = pd.DataFrame({"x": numbers})
        schema = RecordSchema.infer(table)
        codec, tokenizer = CompactCodec.fit(schema, table, max_values=max_values, min_value_count=min_count)
        tokens, counts = codec.tokens["x"], table["x"].value_counts()
        points = tokens.grid.encode(schema["x"], table["x"])
        own = np.isin(points, np.array(tokens.values, np.uint64))
        assert tokens.rarest == (counts[table["x"][own]].min() if own.any() else None)
        assert tokens.rarest is None or tokens.rarest >= min_count
        if tokens.bins is not None and (~own).sum() >= min_count:
            starts = tokens.bins.starts
            steps = np.searchsorted(starts, points[~own], side="right") - 1
            assert np.bincount(steps, minlength=len(starts)).min() >= min_count
        elif tokens.bins is not None:
            assert (tokens.bins.starts, tokens.bins.end) == ([0], tokens.grid.size - 1)
        ids, offsets = codec.encode(table, tokenizer)
        assert codec.decode(ids, tokenizer, offsets).equals(table)

    def test_texts(self):
        table = make_people()[["note", "salary"]]
        with pytest.raises(ValueError, match="column 'note' is free text"):
            DiffLMProcessor.from_records(table, min_token_count=9).check_publishable()
        DiffLMProcessor.from_records(table, min_token_count=10).check_publishable()

    @pytest.mark.parametrize("min_text_count", [1, 3, 10])
    def test_pieces_of_texts(self, min_text_count):
        """Every piece of more than one byte was seen as often as was asked for."""
        texts = ["Zacharias went home"] * 2 + ["Maria went home"] * 4 + [f"Olga saw {i}" for i in range(20)]
        table = pd.DataFrame({"note": texts})
        schema = RecordSchema.infer(table, max_categories=2)
        codec, tokenizer = CompactCodec.fit(schema, table, min_text_count=min_text_count)
        assert codec.min_text_count == CompactCodec.from_dict(codec.to_dict()).min_text_count == min_text_count
        pieces = [tokenizer.decode([i]) for i in range(4, 4 + codec.num_text_ids)]
        words = [piece for piece in pieces if len(piece) > 1 and piece.isascii()]
        assert all("\n".join(texts).count(word) >= min_text_count for word in words)
        assert any("Zach" in word for word in words) == (min_text_count == 1)
        assert any("Olga" in word for word in words)
        # What has no piece of its own is spelled.
        ids, within_bin_offsets = codec.encode(table, tokenizer)
        assert codec.decode(ids, tokenizer, within_bin_offsets)["note"].tolist() == texts


@pytest.fixture(scope="module")
def folder(brief, tmp_path_factory) -> Path:
    """A model of a table with planted values, in the training records and in those for validation."""
    folder = tmp_path_factory.mktemp("published")
    people = pd.concat([make_people(), pd.DataFrame([{**PLANTED, "member": True}])], ignore_index=True)
    validation = make_people(40, seed=1)
    validation.loc[0, "city"] = "Hinterammerfeld"
    people["children"], validation["children"] = people.index % 3, validation.index % 3
    people.loc[:4, "children"] = [RARE_NUMBER, *range(5, 9)]
    people.to_csv(folder / "people.csv", index=False)
    train(folder / "people.csv", folder / "model", validation=validation, min_category_count=10, recipe=brief)
    return folder / "model"


def test_planted_values_are_not_told(folder):
    texts = {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in (folder / "README.md", folder / "model_index.json", *(folder / "processor").rglob("*"))
        if path.is_file()
    }
    assert {"README.md", "model_index.json", "processor/processor_config.json", "processor/tokenizer.json"} <= set(
        texts
    )
    for name, text in texts.items():
        for secret in "ammerfeld", "Zacharias", "Quellmalz", "Quell", "mmer":
            assert secret not in text, name
        assert "987654" not in text and "987,654" not in text, name
    # The others are told.
    assert "Bonn" in texts["README.md"] and "Bonn" in texts["processor/processor_config.json"]


def test_published_model(folder):
    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.processor.check_publishable()
    assert pipe.processor.schema["city"].categories == ["Bonn", "Gera", "Ulm"]
    assert pipe.processor.codec.min_text_count == 10
    assert pipe.processor.codec.tokens["children"].values == [0, 1, 2]
    assert pipe.processor.schema["children"].maximum == 2  # the largest numbers are moved
    assert {record["city"] for record in pipe(20).records} <= {"Bonn", "Gera", "Ulm"}


def test_both_tables_count(brief, tmp_path):
    """Five records here and five there make ten."""
    table, validation = make_people(60), make_people(40, seed=1)
    table["city"], validation["city"] = ["Ulm"] * 55 + ["Bonn"] * 5, ["Ulm"] * 34 + ["Bonn"] * 5 + ["Gera"]
    pipe = train(table, tmp_path / "model", validation=validation, min_category_count=10, recipe=brief)
    assert pipe.processor.schema["city"].categories == ["Bonn", "Ulm"]
    assert pipe.processor.schema["city"].rarest == 10
    data = pipe.config.training["data"]
    assert (data["num_records"], data["num_validation_records"]) == (60, 39)


def test_summary_of_a_run(folder):
    training = json.loads((folder / "model_index.json").read_text())["training"]
    assert training == json.loads(json.dumps(DiffLMPipeline.from_pretrained(folder).config.training))
    assert training["data"] == training["data"] | {
        "source": "people.csv",
        "num_records": 300,
        "num_validation_records": 39,
    }
    assert training["arguments"]["min_category_count"] == 10
    columns = {column["name"]: column for column in training["columns"]}
    assert sorted(columns["city"]["common"]) == ["Bonn", "Gera", "Ulm"] and columns["city"]["rarest"] >= 10
    assert columns["note"].keys() == {"name", "type", "nullable", "max_length"}
    low, *_, high = columns["salary"]["quantiles"]
    assert [low, high] == columns["salary"]["range"] and 0 < low < high < 20_000
    assert all(0.03 <= share <= 1 for share in columns["city"]["shares"].values())
    assert [phase["name"] for phase in training["phases"]] == ["autoencoder", "latent diffusion"]
    for phase, metric in zip(training["phases"], ("eval_bound", "eval_loss")):
        assert phase["num_steps"] == 8 and phase["num_epochs"] > 0 and phase["seconds"] > 0
        assert np.isfinite(phase["metrics"][metric])
        assert not any(name.endswith(("runtime", "per_second")) for name in phase["metrics"])
        assert phase["arguments"]["learning_rate"] > 0
    assert {"difflm_hf", "torch", "transformers"} <= set(training["versions"])


def test_card_of_a_run(folder):
    training, card = DiffLMPipeline.from_pretrained(folder).config.training, (folder / "README.md").read_text()
    data = training["data"]
    for fact in (data["source"], data["fingerprint"][:39], training["date"], "**Training records:** 300"):
        assert fact in card
    for phase in training["phases"]:
        [row] = [line for line in card.splitlines() if line.startswith(f"| {phase['name']} | 8 |")]
        assert all(f"`{metric}`" in row for metric in phase["metrics"])
    assert "| `salary` | number |" in card and "Those in fewer than 10 records were left out" in card


@pytest.mark.slow
def test_time_before_an_interruption(brief, tmp_path):
    folder, on_step_end = tmp_path / "model", LossProgressCallback.on_step_end

    def stop(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        if self.description == "latent diffusion" and state.global_step == 6:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LossProgressCallback, "on_step_end", stop)
        train(make_people(60), folder, recipe=brief)
    [path] = (folder / "checkpoints" / "denoiser").glob("checkpoint-*/trainer_state.json")
    state = json.loads(path.read_text())
    assert state["stateful_callbacks"]["Stopwatch"]["args"]["seconds"] > 0
    state["stateful_callbacks"]["Stopwatch"]["args"]["seconds"] = 5000.0
    path.write_text(json.dumps(state))
    [before] = [json.loads(p.read_text()) for p in folder.rglob("phase.json")]
    training = train(make_people(60), folder, recipe=brief, resume=True).config.training
    autoencoder, diffusion = training["phases"]
    assert autoencoder == before
    assert diffusion["seconds"] > 5000 and diffusion["num_steps"] == 8
    assert training["energy_kwh"] is None  # nobody measured that of the first part


# Summaries of tables


def summarize(table: pd.DataFrame, categorical=(), **arguments) -> dict:
    records = prepare_records(table, args=DataArguments(categorical=categorical))
    summary = summarize_training(table, records, arguments, [], None)
    return json.loads(json.dumps(summary, allow_nan=False))


def make_columns(num_records: int) -> pd.DataFrame:
    """One column for each kind of value. Numbers and times are 0, 1, 2, ... in some unit."""
    rows = np.arange(num_records)
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(rows, "D")
    return pd.DataFrame(
        {
            "int8": (rows % 100).astype("int8"),
            "id": 10**9 + 1234567 * rows,
            "nullable": pd.Series(rows, dtype="Int64").mask(rows == 3),
            "cents": np.round(rows / 100, 2),
            "float32": (rows / 7).astype("float32"),
            "day": days,
            "local": days.tz_localize("Europe/Berlin"),
            "text_day": days.strftime("%d.%m.%Y"),
            "clock": (pd.Timestamp("2020-01-01") + pd.to_timedelta(rows, "min")).strftime("%H:%M"),
            "name": [f"name {row}" for row in rows],
            "letter": np.array(["a", "b"])[rows % 2],
            "code": (rows % 3).astype("int8"),
            "dtype": pd.Categorical(np.array(["a", "b"])[rows % 2], ["a", "b", "unused"]),
            "flag": rows % 2 == 0,
            "maybe": pd.Series(rows % 2 == 0, dtype="boolean").mask(rows == 5),
            "nothing": None,
        }
    )


def test_summary_of_every_type():
    columns = {column.pop("name"): column for column in summarize(make_columns(400), ["code"])["columns"]}
    assert {name: column["range"] for name, column in columns.items() if "range" in column} == {
        "int8": [5, 94],
        "id": [1_025_000_000, 1_468_000_000],  # too few digits to know a record by
        "nullable": [21, 379],
        "cents": [0.2, 3.79],
        "float32": [2.86, 54.1],
        "day": ["2020-01-21", "2021-01-14"],
        "local": ["2020-01-21", "2021-01-14"],
        "text_day": ["2020-01-21", "2021-01-14"],
        "clock": ["00:20", "06:19"],
    }
    assert sorted(columns["code"]["common"]) == [0, 1, 2]
    assert columns["dtype"]["common"] == columns["letter"]["common"] == ["a", "b"]
    assert columns["name"] == {"type": "text", "nullable": False, "max_length": 8}
    assert columns["flag"] == {"type": "boolean", "nullable": False, "shares": {"True": 0.5, "False": 0.5}}
    assert columns["maybe"] == {
        "type": "boolean",
        "nullable": True,
        "shares": {"True": 0.5, "False": 0.498},
        "missing": 0.002,
    }
    assert columns["letter"]["shares"] == {"a": 0.5, "b": 0.5}
    assert [len(column["quantiles"]) for column in columns.values() if "range" in column] == [19] * 9
    assert columns["cents"]["quantiles"] == sorted(columns["cents"]["quantiles"])
    assert columns["nothing"] == {"type": "null", "nullable": True}


@pytest.mark.parametrize("num_records, has_ranges", [(30, False), (199, False), (200, True)])
def test_small_tables_have_no_ranges(num_records, has_ranges):
    columns = summarize(make_columns(num_records).drop(columns="nullable"))["columns"]
    assert any("range" in column for column in columns) == has_ranges


def test_values_are_counted_without_nulls():
    table = make_columns(250)[["cents", "letter"]]
    table.loc[:60, "cents"] = None
    assert "range" not in summarize(table)["columns"][0]


def test_common_categories():
    table = pd.DataFrame({"a": [name for i, name in enumerate("abcdefgh") for _ in range(5 * i + 4)]})
    # The five most frequent, and none of fewer than ten.
    assert summarize(table)["columns"][0]["common"] == ["h", "g", "f", "e", "d"]
    assert summarize(table.iloc[:27])["columns"][0]["common"] == ["c"]


def test_source_is_a_name():
    table = make_columns(20)
    for source, name in {"/home/someone/people.csv": "people.csv", Path("a/b.parquet"): "b.parquet"}.items():
        summary = summarize_training(source, prepare_records(table), {}, [], None)
        assert summary["data"]["source"] == name and "someone" not in json.dumps(summary)
    assert summarize(table)["data"]["source"] is None


@pytest.mark.slow
def test_fingerprint():
    table = make_columns(30)
    fingerprint = summarize(table)["data"]["fingerprint"]
    assert fingerprint == summarize(make_columns(30))["data"]["fingerprint"]
    # Which records are for validation is another question.
    assert fingerprint == summarize(table.sample(frac=1, random_state=0))["data"]["fingerprint"]
    others = {fingerprint, summarize(table.iloc[1:])["data"]["fingerprint"]}
    for name in table.columns:
        if name != "nothing":
            other = table.copy()
            other.loc[7, name] = other.loc[8, name]
            others.add(summarize(other)["data"]["fingerprint"])
    # Rows 7 and 8 differ in every column.
    assert len(others) == 1 + len(table.columns)


def test_schema_of_the_first_table_is_left_alone():
    table = pd.DataFrame({"a": ["u"] * 2 + ["v"] * 40})
    schema = RecordSchema.infer(table)
    schema.without_rare_categories(table, 10)
    assert schema == RecordSchema.infer(table)


def test_no_path_of_this_machine_is_saved(tmp_path):
    """Neither where the data or the base came from, nor where the model was trained and loaded from."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"color": rng.choice(["rot", "grün"], 32), "big": rng.random(32) < 0.5})
    table.to_csv(tmp_path / "table.csv", index=False)
    codec = JSONCodec(RecordSchema.infer(table))
    save_pretrained_pair(codec.encode(table), tmp_path, "llama", num_steps=1)
    for base in ({}, {"base_model": str(tmp_path / "decoder"), "base_encoder": str(tmp_path / "encoder")}):
        pipe = train(tmp_path / "table.csv", tmp_path / f"model{len(base)}", recipe="quick", **base)
        pipe.save_pretrained(tmp_path / f"saved{len(base)}", include_base_weights=True)
        model_card(pipe).save(tmp_path / f"saved{len(base)}" / "README.md")
        assert pipe.name_or_path == str(tmp_path / f"model{len(base)}")
        files = [path for path in (tmp_path / f"saved{len(base)}").rglob("*") if path.is_file()]
        assert len(files) > 8
        assert [path.name for path in files if str(tmp_path).encode() in path.read_bytes()] == []


@pytest.mark.parametrize("values", [np.random.default_rng(0).normal(size=300).round(1), np.arange(300) % 7])
def test_categories_of_numbers_in_the_record_of_training(values):
    table = pd.DataFrame({"g": values})
    records = prepare_records(table, args=DataArguments(categorical=["g"]))
    [column] = summarize_training(table, records, {}, [], None)["columns"]
    assert column["common"] == table["g"].value_counts().index[:5].tolist()
