"""Records with lists as rows inside rows."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import seeded, train, weights

from difflm_hf import DiffLMPipeline, DiffLMProcessor, sampling
from difflm_hf.records import JSONCodec, NestedCodec, RecordSchema
from difflm_hf.records.hashing import derive_keys, keys_of, uniforms_of
from difflm_hf.records.nested_tables import NestedTables
from difflm_hf.training.build import build_row_model
from difflm_hf.training.recipes import RECIPES


ROWS = {"nested": "rows"}


def make_orders(num_records: int = 300, seed: int = 0) -> list[dict]:
    """Customers with orders, and these with items; keys that may lack, nulls, lists of lists, and a date."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(num_records):
        level = rng.choice(["basic", "gold"])
        orders = []
        for _ in range(rng.integers(0, 4)):
            order = {"price": round(float(rng.gamma(2.0, 10.0)), 2), "tags": rng.choice(["a", "b", "c"], 2).tolist()}
            if rng.random() < 0.3:
                order["paid"] = bool(rng.random() < 0.5)
            if rng.random() < 0.5:
                order["lines"] = [{"count": int(n)} for n in rng.integers(1, 9, rng.integers(0, 3))]
            orders.append(order)
        record = {
            "level": str(level),
            "age": int(rng.integers(18, 90)),
            "orders": orders,
            "seen": [f"2024-0{rng.integers(1, 10)}-1{rng.integers(0, 10)}" for _ in range(rng.integers(1, 3))],
            "grid": rng.integers(0, 3, (2, 2)).tolist(),
        }
        if i % 3:
            record["address"] = None if i % 5 == 0 else {"city": str(rng.choice(["Bonn", "Ulm"])), "zip": None}
        records.append(record)
    return records


def train_orders(folder: Path) -> None:
    train(make_orders(600), folder, recipe="quick", nested="rows")


@pytest.fixture(scope="module")
def orders() -> list[dict]:
    return make_orders()


@pytest.fixture(scope="module")
def processor(orders) -> DiffLMProcessor:
    return DiffLMProcessor.from_records(orders, **ROWS)


@pytest.fixture(scope="module")
def pipe(orders, tmp_path_factory) -> DiffLMPipeline:
    return train(orders, tmp_path_factory.mktemp("orders"), recipe="quick", nested="rows")


def as_json(processor: DiffLMProcessor, records) -> list[str]:
    return [json.dumps(json.loads(text), sort_keys=True) for text in processor.codec.to_texts(records)]


@pytest.mark.parametrize(
    "data, arguments, codec",
    [
        ({"x": [1, 2]}, {}, NestedCodec),
        ({"x": [1, 2]}, {"nested": "json"}, JSONCodec),
        ({"x": [1, 2]}, {"key_order": "shuffled"}, JSONCodec),
        ({"x": [1, 2]}, {"schema": {"type": "array", "uniqueItems": True}}, JSONCodec),
        ({"x": [1, 2]}, {"schema": {"type": "array", "uniqueItems": True}, "nested": "rows"}, NestedCodec),
        ({"x": [1, "a", [2]]}, {}, JSONCodec),
        ({"x": [], "y": 1}, {}, JSONCodec),
    ],
)
def test_what_records_are_learnt_as(data, arguments, codec):
    if "schema" in arguments:
        schema = {"type": "object", "properties": {"x": arguments.pop("schema")}, "required": ["x"]}
        arguments["schema"] = RecordSchema.from_json_schema(schema)
    assert type(DiffLMProcessor.from_records([data] * 20, **arguments).codec) is codec


def test_what_rows_refuse_is_learnt_as_json(monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("no rows")

    records = [{"a": [f"x{i}"]} for i in range(60)]
    monkeypatch.setattr(NestedCodec, "fit", refuse)
    with pytest.raises(ValueError, match="no rows"):
        DiffLMProcessor.from_records(records, nested="rows")
    processor = DiffLMProcessor.from_records(records)
    assert type(processor.codec) is JSONCodec
    assert processor.decode_records(processor(records)["decoder_input_ids"])[0].to_dict("records") == records


def test_long_texts_are_learnt_as_json():
    records = [{"x": [{"text": f"{i} " * 80}]} for i in range(20)]
    assert type(DiffLMProcessor.from_records(records).codec) is JSONCodec


class TestTables:
    def test_levels(self, orders):
        tables = NestedTables.infer(pd.DataFrame({"orders": [r["orders"] for r in orders]}))
        assert [level.lengths for level in tables.levels] == ["", "orders", "orders[*].tags", "orders[*].lines"]
        assert [level.parent for level in tables.levels] == [-1, 0, 1, 1]
        rows = tables.to_tables(pd.DataFrame({"orders": [r["orders"] for r in orders]}))
        assert rows[0].columns["orders"] == [len(r["orders"]) for r in orders]
        assert rows[1].columns["orders[*].price"] == [o["price"] for r in orders for o in r["orders"]]
        assert len(rows[2].parents) == 2 * len(rows[1].parents)

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_records_come_back(self, data):
        def values(depth: int):
            scalars = st.one_of(st.sampled_from(["x", "y"]), st.none())
            if depth == 0:
                return scalars
            inner = values(depth - 1)
            some = st.dictionaries(st.sampled_from(["k", "m"]), inner, min_size=1, max_size=2)
            return data.draw(st.sampled_from([scalars, st.lists(inner, max_size=3), some]), label="kind")

        table = pd.DataFrame({"v": pd.Series(data.draw(st.lists(values(3), min_size=1, max_size=6)), dtype=object)})
        try:
            tables = NestedTables.infer(table)
        except ValueError:  # of several types, or nothing but empty lists
            return
        assert tables.to_values(tables.to_tables(table))["v"] == table["v"].tolist()

    @pytest.mark.parametrize(
        "values, message",
        [
            ([[1], 2], "v has values of several types: array, integer"),
            ([{"k": [1]}, {"k": "a"}], "v.k has values of several types"),
            ([[], []], "v has nothing but empty lists"),
            ([{}, {}], "v has nothing but empty objects"),
            ([{f"name {i}": 1} for i in range(99)], "v has objects whose keys are names"),
        ],
    )
    def test_what_is_no_table(self, values, message):
        with pytest.raises(ValueError, match=message):
            NestedTables.infer(pd.DataFrame({"v": values}))


class TestCodec:
    def test_exact(self, orders, processor):
        inputs = processor(orders)
        table, valid = processor.decode_records(inputs["input_ids"], inputs["within_bin_offsets"])
        assert valid.all()
        assert as_json(processor, table) == as_json(processor, orders)

    def test_saved(self, orders, processor, tmp_path):
        processor.save_pretrained(tmp_path)
        loaded = DiffLMProcessor.from_pretrained(tmp_path)
        assert isinstance(loaded.codec, NestedCodec)
        assert torch.equal(loaded(orders)["input_ids"], processor(orders)["input_ids"])

    def test_packing(self, orders, processor):
        layout, ids = processor.codec.layout, processor(orders)["input_ids"]
        rows = layout.unpack(ids)
        assert [len(of_level.ids) for of_level in rows][:2] == [len(orders), sum(len(r["orders"]) for r in orders)]
        assert torch.equal(layout.pack([r.ids for r in rows], [r.parents for r in rows]), ids)
        places = [place for r in orders for place in range(len(r["orders"]))]
        assert rows[1].places.tolist() == places

    def test_length_is_that_of_the_tokens(self, orders, processor):
        inputs = processor(orders)
        assert int(inputs["attention_mask"][0].sum()) == int((inputs["input_ids"][0] > 0).sum())
        short = processor([{**orders[1], "orders": []}])["input_ids"]
        assert short.shape[1] < inputs["input_ids"].shape[1]

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"orders": 3}, "orders"),
            ({"orders": [{"price": 1.0, "tags": ["a", "b"], "color": "red"}]}, "color"),
            ({"orders": [{"price": 1.0, "tags": ["z", "b"]}]}, "tags"),
            ({"orders": [{"tags": ["a", "b"]}]}, "price"),
        ],
    )
    def test_other_records(self, orders, processor, change, message):
        with pytest.raises(ValueError, match=message):
            processor([orders[1] | change])

    def test_long_texts(self):
        records = [{"items": [{"note": f"text {i} of " + "many words " * 20}], "kind": "a"} for i in range(40)]
        with pytest.raises(ValueError, match=r"items\[\*\].note.*free texts.*nested=\"json\""):
            DiffLMProcessor.from_records(records, **ROWS)

    @pytest.mark.slow
    def test_short_texts(self, tmp_path):
        names = [f"Zoë {chr(97 + i % 26)}{i}😀 O'Neil" for i in range(90)]
        records = [
            {
                "name": name,
                "friends": [{"nick": n} if k % 2 else {"nick": n, "said": None} for k, n in enumerate(some)],
            }
            for name, some in ((name, names[i : i + i % 3]) for i, name in enumerate(names))
        ]
        records[3]["name"] = None
        records[5]["friends"] = [{"nick": ""}]
        processor = DiffLMProcessor.from_records(records, **ROWS)
        inputs = processor(records)
        table, _ = processor.decode_records(inputs["input_ids"], inputs["within_bin_offsets"])
        assert as_json(processor, table) == as_json(processor, records)
        processor([{"name": "字", "friends": [{"nick": "Zoë"}]}])
        with pytest.raises(ValueError, match="column 'name' has a text of .* pieces, and the longest .*; shorten"):
            processor([{"name": "字" * 12, "friends": [{"nick": "Zoë"}]}])
        with pytest.raises(ValueError, match="pieces"):
            processor.check_publishable()
        pipe = train(records, tmp_path, recipe="quick", nested="rows")
        generated = DiffLMPipeline.from_pretrained(tmp_path)(60, generator=seeded()).records
        longest = max(map(len, names))
        assert all(len(r["name"] or "") <= longest for r in generated)
        assert any(isinstance(friend["nick"], str) for r in generated for friend in r["friends"])
        with pytest.raises(ValueError, match="no field 'name'"):
            pipe(2, conditions={"name": "Zoë"})

    def test_several_types(self):
        with pytest.raises(ValueError, match='several types.*nested="json"'):
            DiffLMProcessor.from_records([{"v": [1]}, {"v": "a"}] * 9, **ROWS)

    def test_unknown_way(self, orders):
        with pytest.raises(ValueError, match="nested='tables' is not one of 'auto', 'rows', 'json'"):
            DiffLMProcessor.from_records(orders, nested="tables")

    def test_versions_are_names(self):
        records = [{"v": [{"since": version}]} for version in ["1.0", "12", "9.1"] * 20]
        codec = DiffLMProcessor.from_records(records, **ROWS).codec
        assert codec.codecs[1].schema["v[*].since"].categories == ["1.0", "12", "9.1"]


class TestKeys:
    def test_uniform(self):
        keys = derive_keys(keys_of(torch.rand(1, generator=seeded(), dtype=torch.float64)), torch.arange(200_000))
        numbers = uniforms_of(keys)
        assert 0 <= numbers.min() and numbers.max() < 1
        counts = torch.histc(numbers, 100, 0, 1)
        assert ((counts - 2000).square() / 2000).sum() < 150  # χ² of 99 degrees of freedom
        assert abs(float(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1])) < 0.01

    def test_like_splitmix64(self):
        # The first outputs of SplitMix64 with state 0, as published with it.
        expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
        found = derive_keys(torch.zeros(1, dtype=torch.long), torch.arange(3)).tolist()
        assert [key % 2**64 for key in found] == expected


class TestModel:
    @pytest.fixture(scope="class")
    def model(self, processor):
        torch.manual_seed(0)
        return build_row_model(processor, RECIPES["tiny"]).eval()

    def test_valid_whatever_the_weights(self, processor, model, orders):
        schema = RecordSchema.infer(orders)
        for scale in (1, 30):
            latents = scale * torch.randn(400, model.config.latent_size, generator=seeded())
            uniforms = torch.rand(400, model.config.num_uniforms, generator=seeded(1))
            ids = model.decoder.sample_records(latents, uniforms)
            table, valid = processor.decode_records(ids, np.random.default_rng(0).random((400, 1)))
            assert valid.all()
            schema.conform(table)
            records = [json.loads(text) for text in processor.codec.to_texts(table)]
            assert {"address" in record for record in records} == {False, True}
            for record in records:
                assert all({"price", "tags"} <= order.keys() for order in record["orders"])
                assert all(len(order["tags"]) == 2 for order in record["orders"])
                if record.get("address"):
                    assert record["address"]["city"] in ("Bonn", "Ulm")

    def test_records_do_not_depend_on_the_batch(self, model):
        latents = torch.randn(64, model.config.latent_size, generator=seeded())
        uniforms = torch.rand(64, model.config.num_uniforms, generator=seeded(1))
        together = model.decoder.sample_records(latents, uniforms)
        for size in (1, 7, 64):
            parts = zip(latents.split(size), uniforms.split(size))
            rows = [row[row > 0].tolist() for z, u in parts for row in model.decoder.sample_records(z, u)]
            assert rows == [row[row > 0].tolist() for row in together]

    def test_learns_what_it_writes(self, processor, model, orders, monkeypatch):
        """−log p(x|z) is the sum of those that generation has, token by token."""
        layout, ids = processor.codec.layout, processor(orders[:20])["input_ids"]
        rows, tokens, written = layout.unpack(ids), [], []
        for number, (level, of_level) in enumerate(zip(layout.levels, rows)):
            rank = torch.arange(len(ids))  # of lists, those of most items first
            if number:
                rank = layout.num_items(number, rows[level.parent].ids).argsort(descending=True, stable=True).argsort()
            for place in of_level.places.unique():
                here = (of_level.places == place).nonzero()[:, 0]
                here = here[rank[of_level.parents[here]].argsort()] if number else here
                for position, (start, _) in enumerate(level.ranges):
                    tokens.append((of_level.ids[here, position] - start, of_level.records[here]))

        def forced(logits, uniforms, temperature, top_p):
            written.append(logits.log_softmax(-1))
            return next(choices)

        choices = iter([chosen for chosen, _ in tokens])
        monkeypatch.setattr(sampling, "inverse_transform_sample", forced)
        latents = torch.randn(20, model.config.latent_size, generator=seeded())
        uniforms, total = torch.rand(20, model.config.num_uniforms, generator=seeded(1)), torch.zeros(20)
        assert torch.equal(model.decoder.sample_records(latents, uniforms), ids)
        for log_probs, (chosen, records) in zip(written, tokens, strict=True):
            total.index_add_(0, records, -log_probs.gather(1, chosen[:, None])[:, 0])
        nll = model.decoder.negative_log_likelihood(ids, latents, (ids > 0).long())
        torch.testing.assert_close(nll, total, rtol=1e-4, atol=1e-3)

    def test_gradients_reach_all_weights(self, processor, orders):
        torch.manual_seed(0)
        model = build_row_model(processor, RECIPES["tiny"])
        inputs = processor(orders)
        model(inputs["input_ids"], inputs["attention_mask"]).loss.backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # Nothing comes after the last lists, and nothing is to be told where there is one choice.
        prices = ("encoder", "decoder.lm.model.lists.0", "decoder.lm.model.lists.1")
        assert not [name for name in without if name.startswith(prices)]


class TestPipeline:
    def test_records(self, pipe, orders):
        records = pipe(100, generator=seeded()).records
        assert len(records) == 100
        assert all(isinstance(record["orders"], list) for record in records)
        assert math.isfinite(sum(len(record["orders"]) for record in records))
        texts = pipe(3, generator=seeded(), output_type="text").records
        assert [json.loads(text) for text in texts][0]["level"] in ("basic", "gold")

    def test_stream_and_batches(self, pipe):
        table = pipe(50, generator=seeded(), output_type="pandas").records
        batch = next(iter(pipe.stream(50, generator=seeded(), batch_size=7)))
        assert [json.loads(o) for o in batch.column("orders").to_pylist()] == table["orders"].tolist()

    def test_saved(self, pipe, tmp_path):
        pipe.save_pretrained(tmp_path)
        loaded = DiffLMPipeline.from_pretrained(tmp_path, dtype=torch.float32)
        assert loaded(40, generator=seeded()).records == pipe(40, generator=seeded()).records

    def test_log_prob_and_variations(self, pipe, orders):
        assert np.isfinite(pipe.log_prob(orders[:10], num_latents=2)).all()
        assert len(pipe.vary(orders[:10], strength=0.3)) == 10

    @pytest.mark.slow
    def test_resumed_training_is_the_same(self, orders, pipe, tmp_path):
        again = train(orders, tmp_path / "again", recipe="quick", nested="rows")
        assert weights(tmp_path / "again")
        assert again(10, generator=seeded()).records == pipe(10, generator=seeded()).records


class TestPrivacy:
    RECORDS = [{"kind": "a", "visits": [{"shop": str(i % 3)}] * (1 + i % 2)} for i in range(60)]
    ALONE = [
        {"kind": "a", "visits": [{"shop": "rare"}] * 2},
        {"kind": "a", "visits": [{"shop": "0"}] * 40},  # as many items as are common, all of one record
    ]

    def test_rarest_is_of_records(self):
        processor = DiffLMProcessor.from_records([*self.RECORDS, *self.ALONE], **ROWS)
        rarest = processor.codec.rarest
        assert rarest["visits[*].shop"] == 1 and rarest["visits"] == 1
        with pytest.raises(ValueError, match="fewer than 10 records"):
            processor.check_publishable()
        DiffLMProcessor.from_records(self.RECORDS, **ROWS).check_publishable()

    def test_rare_ones_are_left_out(self, tmp_path):
        pipe = train([*self.RECORDS, *self.ALONE], tmp_path, recipe="quick", nested="rows", min_category_count=10)
        codec = pipe.processor.codec
        assert codec.codecs[1].schema["visits[*].shop"].categories == ["0", "1", "2"]
        assert codec.layout.levels[1].lengths == [1, 2]
        pipe.processor.check_publishable()

    def test_too_many_are_rare(self, tmp_path):
        records = [{"kind": "a", "v": [{"name": str(i // 2)}]} for i in range(60)]
        with pytest.raises(ValueError, match="60 of 60 records have strings or lengths"):
            train(records, tmp_path, recipe="quick", nested="rows", min_category_count=10)


class TestDamage:
    """Saved models whose files do not go together."""

    def damaged(self, pipe, folder, file, change):
        pipe.save_pretrained(folder)
        path = folder / file
        state = json.loads(path.read_text(encoding="utf-8"))
        change(state)
        path.write_text(json.dumps(state), encoding="utf-8")
        with pytest.raises((OSError, ValueError)) as error:
            DiffLMPipeline.from_pretrained(folder)
        return str(error.value)

    @pytest.mark.parametrize(
        "change",
        [
            lambda codec: codec["codecs"].pop(),
            lambda codec: codec["codecs"].reverse(),
            lambda codec: codec["places"].pop(),
            lambda codec: codec["places"][0].reverse(),
            lambda codec: codec["places"][0][1].update(kind="value"),
            lambda codec: codec["places"][0][1].update(items=None),
            lambda codec: codec.update(ordered={"orders[*].price": 3}),
            lambda codec: codec["codecs"][0]["tokens"][2][1].update(values=[1, 2, 3]),
        ],
    )
    def test_codec(self, pipe, tmp_path, change):
        message = self.damaged(pipe, tmp_path, "processor/processor_config.json", lambda state: change(state["codec"]))
        assert len(message) < 2000

    @pytest.mark.parametrize(
        "part, change",
        [
            ("encoder_config", lambda levels: levels.pop()),
            ("decoder_config", lambda levels: levels[1].update(parent=3)),
            ("encoder_config", lambda levels: levels[1].update(lengths=[0])),
            ("decoder_config", lambda levels: levels[1].update(ranges=[])),
            ("encoder_config", lambda levels: levels[1].update(length_position=99)),
            ("decoder_config", lambda levels: levels[0]["gates"][0].update(source=10**12)),
        ],
    )
    def test_levels(self, pipe, tmp_path, part, change):
        self.damaged(pipe, tmp_path, "vae/config.json", lambda state: change(state[part]["levels"]))


class TestOddRecords:
    def comes_back(self, records: list[dict]) -> DiffLMProcessor:
        processor = DiffLMProcessor.from_records(records, **ROWS)
        inputs = processor(records)
        table, _ = processor.decode_records(inputs["input_ids"], inputs["within_bin_offsets"])
        assert as_json(processor, table) == as_json(processor, records)
        return processor

    def test_objects_that_few_have(self):
        rare = {5: {"p": {"k": 1}}, 6: {"p": {"k": 1, "q": {"z": 1}}}}
        self.comes_back([{"a": [1, 2], **rare.get(i, {})} for i in range(60)])
        self.comes_back([{"a": [1, 2, 3], "b": {"k": 1}}, {"a": [1]}])

    @pytest.mark.parametrize("items", [[None], [{"x": None}]])
    def test_items_of_nulls(self, items):
        with pytest.raises(ValueError, match="items of 'a' have nothing but nulls"):
            DiffLMProcessor.from_records([{"a": items * (i % 3), "k": i % 2} for i in range(60)], **ROWS)

    @pytest.mark.parametrize(
        "records",
        [
            [{"a.b": i % 3, "a": {"b": i % 5}} for i in range(30)],
            [{"o": [{"a[*]": [{"k": 1}], "a": [[i % 3]]}]} for i in range(30)],
            [{"a?": i % 2} | ({"a": {"k": 1}} if i % 2 else {}) for i in range(30)],
        ],
    )
    def test_names_that_collide(self, records):
        with pytest.raises(ValueError, match="is called as a place inside|two places are called"):
            DiffLMProcessor.from_records(records, **ROWS)

    def test_numbers_of_one_record(self):
        """Many items of one record are still those of one."""
        records = [{"a": [{"n": i % 5} for _ in range(3)], "k": "ab"[i % 2]} for i in range(300)]
        records[7]["a"] = [{"n": 7777}] * 3
        schema = RecordSchema.infer(records)
        processor = DiffLMProcessor.from_records(records, schema, min_token_count=3, **ROWS)
        assert 7777 not in processor.codec.codecs[1].tokens["a[*].n"].values
        processor.check_publishable(3)

    def test_bytes_that_are_no_character(self):
        processor = self.comes_back([{"s": f"ü€{i}xq", "v": [1]} for i in range(60)])
        speller = processor.codec.tables.speller
        euro = speller.to_pieces("€uro")
        assert speller.to_text(euro) == "€uro"
        assert speller.to_text([*speller.to_pieces("字")[:1], "a"]) == "a"


def test_value_that_may_be_null_and_absent(tmp_path):
    records = [{"t": [{}, {"s": None}, {"s": "a"}, {"s": "b"}][i % 4], "v": [i % 3]} for i in range(120)]
    pipe = train(records, tmp_path, recipe="quick", nested="rows")
    assert all(record["t"]["s"] == "a" for record in pipe(20, conditions={"t.s": "a"}, generator=seeded()).records)
