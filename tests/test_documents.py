"""Records that are no rows of tables, from training to generation: texts, code and nested values."""

import csv
import dataclasses
import importlib.util
import json
import math
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import call
from datasets import Dataset, Json, Value
from test_base_model import save_byte_level_lm, tensor_names
from test_training import assert_same_run, interrupt
from tiny import make_table, seeded, train, weights
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

import difflm_hf.blocks
from difflm_hf import (
    DiffLMPipeline,
    DiffLMProcessor,
    DiffLMTrainer,
    DiffLMTrainingArguments,
    JSONCodec,
    RecordSchema,
)
from difflm_hf.batches import NUM_LENGTHS, trim_padding
from difflm_hf.blocks import write_shards
from difflm_hf.evaluation.latents import evaluate_latents
from difflm_hf.latents import encode_latents, to_dataset
from difflm_hf.records import TextCodec, read_table, write_table
from difflm_hf.training import DOCUMENT_RECIPES, RECIPES
from difflm_hf.training.samplers import LengthGroupedSampler


BLOCK = 8
WORDS = "the cat dog sat ran on under mat tree and was größe 猫 'so' \"no\" 🙂".split()
JSON_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["x", "y"]},
        "inner": {
            "type": "object",
            "properties": {
                "on": {"type": "boolean"},
                "level": {"type": "integer", "minimum": 0, "maximum": 9},
                "note": {"type": ["string", "null"], "maxLength": 3},
            },
            "required": ["on"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
    },
    "required": ["name", "kind", "inner"],
    "additionalProperties": False,
    "$defs": {"tag": {"enum": ["a", "b", "c"]}},
}
SCHEMA = RecordSchema.from_json_schema(JSON_SCHEMA)
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
TUNINGS = ["frozen", "lora", "full"]
# In any vocabulary, a word is a token at least.
LONG_TEXT = "the cat " * 50_000
OVER_1024 = "the cat " * 600


def make_texts(num_records: int = 60, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 12))) for _ in range(num_records)]
    return [{"text": text} for text in texts]


def make_code(num_records: int = 60) -> list[dict]:
    return [{"code": f"def f{i}(x):\n\treturn x + {i * i}\n"} for i in range(num_records)]


def make_nested(num_records: int = 60) -> list[dict]:
    records = []
    for i in range(num_records):
        record = {"name": f"n{i}", "kind": "xy"[i % 2], "inner": {"on": bool(i % 3)}}
        if i % 2:
            record["inner"]["level"] = i % 10
        if i % 5 == 0:
            record["inner"]["note"] = None if i % 10 else "ab"
        if i % 3:
            record["tags"] = ["a", "b", "c"][: i % 4]
        records.append(record)
    return records


@pytest.fixture(scope="module", autouse=True)
def brief() -> str:
    """Recipes of two steps a phase, for documents and for tables."""
    for recipes in (DOCUMENT_RECIPES, RECIPES):
        tiny = recipes["tiny"]
        recipes["brief"] = dataclasses.replace(
            tiny,
            vae={**tiny.vae, "num_train_epochs": 0.01},
            denoiser={**tiny.denoiser, "max_steps": 2},
            min_steps=2,
        )
    return "brief"


@pytest.fixture(scope="module")
def text_run(tmp_path_factory) -> Path:
    """The folder of a run on texts, of nearly three epochs, that nothing interrupted."""
    folder = tmp_path_factory.mktemp("texts") / "model"
    train(make_texts(90), folder, recipe="tiny")
    return folder


@pytest.fixture(scope="module")
def nested_run(brief, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nested") / "model"
    train(make_nested(), folder, schema=SCHEMA, recipe=brief)
    return folder


@pytest.fixture(scope="module")
def table_run(brief, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("table") / "model"
    train(make_table(60), folder, recipe=brief)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A causal LM that has learnt nothing, and reads single bytes."""
    folder = tmp_path_factory.mktemp("base") / "base"
    save_byte_level_lm(folder)
    return folder


@pytest.fixture(scope="module", params=TUNINGS)
def tuned(request, brief, base, tmp_path_factory) -> tuple[str, Path]:
    """A way of tuning a base LM, and the folder of a run by it."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    train(make_nested(), folder, schema=SCHEMA, recipe=brief, base_model=str(base), tuning=request.param)
    return request.param, folder


def load(folder: Path, block_size: int = BLOCK) -> DiffLMPipeline:
    """A saved pipeline, with small blocks."""
    pipe = DiffLMPipeline(**DiffLMPipeline.from_pretrained(folder).components, block_size=block_size)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def table_of(pipe: DiffLMPipeline, num_records: int, seed: int = 0, **kwargs) -> pd.DataFrame:
    return pipe(num_records, generator=seeded(seed), output_type="pandas", **kwargs).records


def assert_valid(records: list[dict]) -> None:
    validator = jsonschema.Draft202012Validator(JSON_SCHEMA)
    for record in records:
        validator.validate(record)
        # As the schema has them.
        assert list(record) == [key for key in JSON_SCHEMA["properties"] if key in record]
        keys = JSON_SCHEMA["properties"]["inner"]["properties"]
        assert list(record["inner"]) == [key for key in keys if key in record["inner"]]


def lines_of(path: Path) -> list[dict]:
    """The records of a file with one object in each line, and nothing else."""
    content = path.read_bytes().decode()
    assert content.endswith("\n")
    return [json.loads(line) for line in content[:-1].split("\n")]


# Texts, from scratch


def test_texts(text_run):
    assert set(weights(text_run)) == {"vae/model.safetensors", "denoiser/diffusion_pytorch_model.safetensors"}
    pipe = DiffLMPipeline.from_pretrained(text_run)
    assert isinstance(pipe.processor.codec, TextCodec)
    assert pipe.processor.schema.names == ["text"]
    data = pipe.config.training["data"]
    assert (data["num_records"], data["num_validation_records"], data["num_dropped_records"]) == (81, 9, 0)
    # Nothing but the latents tells records apart, and each is written until its end.
    longest = max(len(record["text"]) for record in make_texts(90))
    texts = [record["text"] for record in pipe(40).records]
    assert len(texts) == 40 and len(set(texts)) > 5 and max(map(len, texts)) <= longest


@pytest.mark.parametrize("run", ["text_run", "nested_run"])
def test_number_of_records(run, request):
    pipe = load(request.getfixturevalue(run))
    for num_records in (1, BLOCK, BLOCK + 1):
        assert len(pipe(num_records, num_inference_steps=2).records) == num_records


def test_output_types_of_texts(text_run):
    pipe = load(text_run)
    records, table, dataset, texts = (
        pipe(BLOCK, generator=seeded(), output_type=output_type).records
        for output_type in ("dict", "pandas", "dataset", "text")
    )
    assert records == [{"text": text} for text in texts]
    assert table["text"].tolist() == texts and list(table) == ["text"]
    assert isinstance(dataset, Dataset) and dataset.features == {"text": Value("string")}
    assert dataset["text"][:] == texts


def test_code(tmp_path):
    pipe = train(make_code(), tmp_path / "model", recipe="tiny")
    assert isinstance(pipe.processor.codec, TextCodec)
    assert len(pipe(3, output_type="text").records) == 3
    # Not a blank nor an end of a line is lost on the way to ids and back.
    ids = pipe.processor(make_code())["decoder_input_ids"].numpy()
    table, valid = pipe.processor.decode_records(ids)
    assert valid.all() and table.to_dict("records") == make_code()


@pytest.mark.parametrize("injection", ["prefix_soft_prompt", "kv_memory", "input_embed"])
def test_injections(injection, brief, tmp_path):
    pipe = train(make_nested(), tmp_path / "model", schema=SCHEMA, recipe=brief, injection=injection)
    assert pipe.vae.config.injection == injection
    assert_valid(pipe(4).records)


def test_several_columns_of_texts_are_json(brief, tmp_path):
    records = [{**text, **code} for text, code in zip(make_texts(), make_code())]
    schema = RecordSchema.infer(records)
    schema["text"], schema["code"] = (dataclasses.replace(schema[name], max_length=3) for name in ("text", "code"))
    records = [{name: value[:3] for name, value in record.items()} for record in records]
    pipe = train(records, tmp_path / "model", schema=schema, recipe=brief)
    assert isinstance(pipe.processor.codec, JSONCodec)
    assert all(list(record) == ["text", "code"] for record in pipe(4).records)


# Nested values, from scratch


def test_generated_records_are_valid(nested_run):
    """Whatever the weights, which have learnt nothing in two steps."""
    pipe = DiffLMPipeline.from_pretrained(nested_run)
    assert isinstance(pipe.processor.codec, JSONCodec)
    records = pipe(100, generator=seeded(), temperature=1.5).records
    assert_valid(records)
    assert {"level", "note"} <= {key for record in records for key in record["inner"]}
    assert {"tags" in record for record in records} == {True, False}


def test_output_types_of_nested_values(nested_run):
    pipe = load(nested_run)
    records, table, dataset, texts = (
        pipe(2 * BLOCK, generator=seeded(), output_type=output_type).records
        for output_type in ("dict", "pandas", "dataset", "text")
    )
    assert records == [json.loads(text) for text in texts]
    assert table["inner"].tolist() == [record["inner"] for record in records]
    # In tables, what a record lacks is null.
    tags = [record.get("tags") for record in records]
    assert table["tags"].astype(object).where(table["tags"].notna(), None).tolist() == tags
    string, nested = Value("string"), Json()
    assert dataset.features == {"name": string, "kind": string, "inner": nested, "tags": nested}
    assert dataset["inner"][:] == table["inner"].tolist() and dataset["tags"][:] == tags


def test_inferred_schema(brief, tmp_path):
    records = [{"kind": "xy"[i % 2], "inner": {"level": i % 7, "on": i % 3 == 0}} for i in range(60)]
    pipe = train(records, tmp_path / "model", recipe=brief)
    inner = pipe.processor.schema["inner"].json_schema["properties"]
    assert inner == {"level": {"type": "integer", "minimum": 0, "maximum": 6}, "on": {"type": "boolean"}}
    for record in pipe(30).records:
        assert record["kind"] in ("x", "y") and record["inner"].keys() == {"level", "on"}
        assert 0 <= record["inner"]["level"] <= 6


def test_shuffled_keys(brief, tmp_path):
    folder = tmp_path / "model"
    train(make_nested(), folder, schema=SCHEMA, recipe=brief, key_order="shuffled")
    pipe = DiffLMPipeline.from_pretrained(folder)
    assert pipe.processor.key_order == "shuffled"
    ids = pipe.processor(make_nested())["decoder_input_ids"]
    texts = pipe.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    orders = {tuple(json.loads(text)) for text in texts}
    assert len({order for order in orders if len(order) == 4}) > 6
    assert [json.loads(text) for text in texts] == make_nested()
    assert_valid(pipe(20).records)


@pytest.mark.parametrize("which", ["data", "validation"])
def test_an_optional_key_that_no_record_has(which, brief, tmp_path):
    without = [{key: value for key, value in record.items() if key != "tags"} for record in make_nested()]
    data, validation = (without, None) if which == "data" else (make_nested(), without[:10])
    pipe = train(data, tmp_path / "model", validation=validation, schema=SCHEMA, recipe=brief)
    assert_valid(pipe(3).records)


# Seeds, streams and shards


@pytest.mark.parametrize("run", ["text_run", "nested_run"])
def test_records_depend_on_the_seed_alone(run, request):
    pipe = load(request.getfixturevalue(run))
    expected = table_of(pipe, 2 * BLOCK + 1)
    for num_records, batch_size in ((3, 1), (BLOCK + 1, 5), (2 * BLOCK + 1, 1000), (5, None)):
        table = table_of(pipe, num_records, batch_size=batch_size)
        pd.testing.assert_frame_equal(table, expected.head(num_records))
    assert not table_of(pipe, 2 * BLOCK + 1, seed=1).equals(expected)


@pytest.mark.parametrize("run", ["text_run", "nested_run"])
def test_stream(run, request):
    pipe = load(request.getfixturevalue(run))
    batches = list(pipe.stream(2 * BLOCK + 3, generator=seeded(5)))
    assert [len(batch) for batch in batches] == [BLOCK, BLOCK, 3]
    assert all(batch.schema.equals(pipe.processor.schema.to_arrow()) for batch in batches)
    records = Dataset(pa.Table.from_batches(batches)).to_list()
    called = pipe(2 * BLOCK + 3, generator=seeded(5), output_type="dataset").records
    assert records == called.to_list()
    [last] = pipe.stream(3, generator=seeded(5), first_block=2)
    assert last.equals(batches[2])


@pytest.mark.slow
@pytest.mark.parametrize("run", ["text_run", "nested_run"])
def test_shards(run, request, tmp_path, monkeypatch):
    monkeypatch.setattr(difflm_hf.blocks, "RECORDS_PER_SHARD", BLOCK)
    pipe = load(request.getfixturevalue(run))
    files = write_shards(pipe, tmp_path / "a", 2 * BLOCK + 3, seed=5)
    assert [len(read_table(file)) for file in files] == [BLOCK, BLOCK, 3]
    written = pd.concat([read_table(file) for file in files], ignore_index=True)
    pd.testing.assert_frame_equal(written, table_of(pipe, 2 * BLOCK + 3, seed=5))
    # A run that was cut off goes on.
    again = write_shards(pipe, tmp_path / "b", 2 * BLOCK + 3, seed=5)
    again[1].unlink()
    write_shards(pipe, tmp_path / "b", 2 * BLOCK + 3, seed=5)
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


# Runs


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_texts, make_nested])
def test_same_seed_same_weights(make, brief, tmp_path):
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        train(make(), tmp_path / name, recipe=brief, seed=seed)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert all(a != c for a, c in zip(weights(tmp_path / "a").values(), weights(tmp_path / "c").values()))


# Of 6 steps an epoch, with a checkpoint after every 4: in the first epoch, in the second, and at the end of that.
@pytest.mark.parametrize(
    ("phase", "at_step"), [("autoencoder", 3), ("autoencoder", 11), ("autoencoder", 15), ("latent diffusion", 18)]
)
def test_resumed_run_is_the_same(phase, at_step, text_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, phase, at_step)
        train(make_texts(90), tmp_path / "model", recipe="tiny")
    train(make_texts(90), tmp_path / "model", recipe="tiny", resume=True)
    assert_same_run(text_run, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_resumed_tuning_is_the_same(tuning, dropout, tmp_path, monkeypatch):
    base = tmp_path / "base"
    save_byte_level_lm(base)
    ids = {name: getattr(AutoConfig.from_pretrained(base), name) for name in ("vocab_size", *TOKEN_IDS)}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, **ids, **dropouts)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    arguments = {"schema": SCHEMA, "recipe": "tiny", "base_model": str(base), "tuning": tuning}
    train(make_nested(), tmp_path / "whole", **arguments)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, "autoencoder", 11)
        train(make_nested(), tmp_path / "resumed", **arguments)
    train(make_nested(), tmp_path / "resumed", resume=True, **arguments)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.parametrize(
    "change", [{"overlong": "drop"}, {"key_order": "shuffled"}, {"activation_checkpointing": True}, {"max_length": 99}]
)
def test_resuming_another_run(change, text_run):
    before = weights(text_run)
    [name] = change
    with pytest.raises(ValueError, match=f"holds a run with {name}=.* train into another folder"):
        train(make_texts(90), text_run, recipe="tiny", resume=True, **change)
    assert weights(text_run) == before


def test_resuming_beside_other_weights(brief, tmp_path):
    """The base that is in the folder by now is another one than that of the run."""
    save_byte_level_lm(tmp_path / "base")
    train(make_texts(40), tmp_path / "model", recipe=brief, base_model=str(tmp_path / "base"))
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lm.get_input_embeddings().weight.data *= 2
    lm.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="holds a run with base='sha256:.* train into another folder"):
        train(make_texts(40), tmp_path / "model", recipe=brief, base_model=str(tmp_path / "base"), resume=True)


# Pretrained language models


def test_what_is_tuned(tuned, base):
    tuning, folder = tuned
    pipe = DiffLMPipeline.from_pretrained(folder)
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = {name.replace("base_layer.", ""): weight for name, weight in pipe.vae.decoder.lm.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    added = set(after) - set(before)
    # Norms and biases may not move in two steps; matrices do.
    assert bool(changed) == (tuning == "full")
    assert bool(added) == (tuning == "lora") and all(".lora_" in name for name in added)
    if tuning == "full":
        assert changed >= {name for name in before if name.endswith("_proj.weight")}
    assert all(after[name].any() for name in added)
    assert pipe.config.training["arguments"]["tuning"] == tuning
    assert pipe.config.training["arguments"]["base_model"] == "base"
    assert_valid(pipe(3).records)


def test_tuned_checkpoints_hold_what_was_trained(tuned, base):
    tuning, folder = tuned
    [best] = folder.glob("checkpoints/vae/best")
    for place in (folder / "vae", best):
        names = {name for name in tensor_names(place) if name.startswith("decoder.lm.")}
        if tuning == "full":
            assert {name.removeprefix("decoder.lm.") for name in names} == tensor_names(base)
        else:
            assert all(".lora_" in name for name in names) and bool(names) == (tuning == "lora")
        own, whole = ((at / "model.safetensors").stat().st_size for at in (place, base))
        # Encoder and injection are the rest.
        rest = DiffLMPipeline.from_pretrained(folder).vae
        num_rest = sum(p.numel() for name, p in rest.named_parameters() if not name.startswith("decoder.lm."))
        num_lora = sum(p.numel() for name, p in rest.named_parameters() if ".lora_" in name)
        num_bytes = 4 * (num_rest + num_lora) + (whole if tuning == "full" else 0)
        assert num_bytes - 5000 < own < num_bytes + 10_000  # names and shapes


def test_tuned_models_are_saved_and_loaded(tuned, base, tmp_path):
    tuning, folder = tuned
    pipe = load(folder)
    pipe.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    batch = pipe.processor(make_nested(5))
    latents = torch.randn(5, pipe.vae.config.latent_size, generator=seeded())
    for one, other in (
        (pipe.vae.encode(batch["input_ids"])[0], again.vae.encode(batch["input_ids"])[0]),
        *(
            [model.vae.decoder(batch["decoder_input_ids"], latents=latents).logits for model in models]
            for models in [(pipe, again)]
        ),
    ):
        assert torch.equal(one, other)
    pd.testing.assert_frame_equal(table_of(again, 3), table_of(pipe, 3))
    copy = shutil.copytree(base, tmp_path / "copy")
    if tuning == "full":
        with pytest.raises(ValueError, match="holds its own LM"):
            DiffLMPipeline.from_pretrained(tmp_path / "model", base_model=copy)
    else:
        moved = DiffLMPipeline.from_pretrained(tmp_path / "model", base_model=copy)
        assert torch.equal(
            moved.vae.decoder(batch["decoder_input_ids"], latents=latents).logits,
            pipe.vae.decoder(batch["decoder_input_ids"], latents=latents).logits,
        )


@pytest.mark.slow
def test_texts_of_a_base_model(base, brief, tmp_path):
    pipe = train(make_texts(), tmp_path / "model", recipe=brief, base_model=str(base))
    assert isinstance(pipe.processor.codec, TextCodec)
    assert len(pipe.processor.tokenizer) == 259
    # Of random bytes, one in 259 is an end: not many texts are short enough, but all that are asked for.
    longest = max(len(record["text"]) for record in make_texts())
    texts = pipe(3, output_type="text").records
    assert len(texts) == 3 and max(map(len, texts)) <= longest


@pytest.mark.slow
@pytest.mark.parametrize("with_base", [False, True])
def test_activation_checkpointing(with_base, base, brief, tmp_path, monkeypatch):
    """It computes layers a second time, and gives the same weights."""
    counts, forward = [], LlamaMLP.forward

    def counted(self, *args, **kwargs):
        counts[-1] += self.training and torch.is_grad_enabled()
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    for name, flag in {"plain": False, "checkpointed": True}.items():
        counts.append(0)
        train(
            make_nested(),
            tmp_path / name,
            schema=SCHEMA,
            recipe=brief,
            base_model=str(base) if with_base else None,
            activation_checkpointing=flag,
        )
    assert counts == [2, 4]
    assert weights(tmp_path / "plain") == weights(tmp_path / "checkpointed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tuning": "lora"}, "tuning and quantization are of a base_model; give one, or leave them out"),
        ({"tuning": "full"}, "tuning and quantization are of a base_model"),
        ({"quantization": "4bit"}, "tuning and quantization are of a base_model"),
        (
            {"base_model": "base", "tuning": "full", "quantization": "8bit"},
            "a quantized LM cannot be trained; choose tuning='lora', or leave quantization out",
        ),
        (
            {"push_to_hub": True, "base_model": "base", "quantization": "4bit", "include_base_weights": True},
            "include_base_weights is for the base's own weights, and a quantized base has lost them",
        ),
        ({"base_model": "base", "tuning": "some"}, "tuning='some' is not one of 'frozen', 'lora', 'full'"),
        ({"base_model": "base", "tuning": None}, "tuning=None is not one of 'frozen', 'lora', 'full'"),
        ({"overlong": "cut"}, "overlong='cut' is not one of 'raise', 'drop'"),
        ({"key_order": "random"}, "key_order='random' is not one of 'schema', 'shuffled'"),
        ({"base_model": "base", "quantization": 4}, "quantization=4 is not one of None, '8bit', '4bit'"),
        ({"recipe": "huge"}, "recipe='huge' is not one of 'small', 'base'"),
        (
            {"injection": "kv_memory", "activation_checkpointing": True},
            "injection='kv_memory' does not support activation checkpointing",
        ),
        (
            {"base_model": "base", "injection": "kv_memory", "activation_checkpointing": True},
            "injection='kv_memory' does not support activation checkpointing",
        ),
        ({"injection": "telepathy"}, "injection='telepathy' is not one of 'soft_prompt'"),
        ({"schema": RecordSchema.infer(make_code())}, "column 'code' is missing; the schema has"),
    ],
)
def test_bad_arguments(arguments, message, base, tmp_path):
    if "base_model" in arguments:
        arguments = {**arguments, "base_model": str(base)}
    with pytest.raises(ValueError, match=message):
        train(make_texts(), tmp_path / "model", **{"recipe": "tiny", **arguments})
    assert not (tmp_path / "model").exists()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantization_without_its_package(quantization, base, brief, tmp_path):
    with pytest.raises(ImportError, match="pip install -U bitsandbytes"):
        train(make_texts(), tmp_path / "model", recipe=brief, base_model=str(base), quantization=quantization)
    assert not (tmp_path / "model").exists()


def test_texts_longer_than_a_base_model_reads(base, brief, tmp_path):
    records = [*make_texts(), {"text": "x" * 2500}]
    with pytest.raises(ValueError, match=r"the longest record takes 2504 tokens and .* reads at most 2048; shorten"):
        train(records, tmp_path / "model", recipe=brief, base_model=str(base), max_length=3000)
    assert not (tmp_path / "model").exists()


# Records that are too long


@pytest.fixture(params=["texts", "texts of a base", "table"])
def overlong(request, base) -> tuple[dict, str]:
    """Arguments of `train` with 61 records, one of which takes more than 100,000 tokens; and how to know it."""
    if request.param == "table":
        table = make_table(61)
        table.loc[20, "note"] = LONG_TEXT
        return {"data": table}, rf"column 'note' has a text of {len(LONG_TEXT)} characters"
    records = make_texts()
    records.insert(20, {"text": LONG_TEXT})
    arguments = {"base_model": str(base)} if request.param == "texts of a base" else {}
    return {"data": records, **arguments}, rf"max_length is 1024.*: '{LONG_TEXT[:40]}"


def test_raise(overlong, brief, tmp_path):
    arguments, known_by = overlong
    with pytest.raises(ValueError, match=known_by) as error:
        train(**arguments, output_dir=tmp_path / "model", recipe=brief)
    assert any(number > 100_000 for number in map(int, pd.Series([str(error.value)]).str.findall(r"\d{6,8}")[0]))
    assert "tokens" in str(error.value) and "shorten or drop" in str(error.value)
    assert not (tmp_path / "model").exists()


def test_drop(overlong, brief, tmp_path, caplog):
    arguments, _ = overlong
    pipe = train(**arguments, output_dir=tmp_path / "model", recipe=brief, overlong="drop")
    assert [m for m in caplog.messages if "left out" in m] == [
        "1 records take more than 1024 tokens, and are left out"
    ]
    pipe = DiffLMPipeline.from_pretrained(tmp_path / "model")
    data = pipe.config.training["data"]
    assert (data["num_dropped_records"], data["num_records"] + data["num_validation_records"]) == (1, 60)
    # Nothing has the length of what is left out.
    assert pipe.vae.config.max_record_length < 500
    assert len(pipe(3).records) == 3


def test_nothing_to_drop(brief, tmp_path, caplog):
    pipe = train(make_texts(), tmp_path / "model", recipe=brief, overlong="drop")
    assert not [message for message in caplog.messages if "left out" in message]
    assert pipe.config.training["data"]["num_dropped_records"] == 0


def test_the_processor_names_the_record():
    records = make_texts()
    processor = DiffLMProcessor.from_records(records, max_length=64)
    records[20] = records[40] = {"text": "the cat " * 200}
    with pytest.raises(ValueError, match="column 'text': .* in row 20 is not a UTF-8 text of at most"):
        processor(records)
    processor = DiffLMProcessor.from_records(records, max_length=64)
    with pytest.raises(ValueError, match=r"record 20 takes \d+ tokens and max_length is 64, which 2 of 60 records"):
        processor(records)
    assert np.flatnonzero(processor.too_long(records)).tolist() == [20, 40]


@pytest.mark.slow
def test_the_error_names_the_record_of_the_data(overlong, brief, tmp_path):
    arguments, _ = overlong
    with pytest.raises(ValueError, match=r"record 20 takes \d+ tokens .* 1 of 61 records|in row 20 \(\d+ tokens\)"):
        train(**arguments, output_dir=tmp_path / "model", recipe=brief)


@pytest.mark.parametrize("data", [make_texts(), make_nested(), make_table(60)], ids=["texts", "nested", "table"])
def test_all_are_too_long(data, brief, tmp_path):
    with pytest.raises(ValueError, match="no record takes at most max_length=1 tokens; raise it"):
        train(data, tmp_path / "model", recipe=brief, overlong="drop", max_length=1, nested="json")
    assert not (tmp_path / "model").exists()


def test_one_record_is_left(brief, tmp_path):
    records = [{"text": "the cat"}, {"text": "the dog " * 100}]
    pipe = train(records, tmp_path / "model", recipe=brief, overlong="drop", max_length=32)
    assert pipe.config.training["data"]["num_dropped_records"] == 1


def test_categories_that_are_rare_without_what_is_too_long(brief, tmp_path):
    records = [{"city": "Ulm", "note": [f"note {i}"]} for i in range(40)]
    records += [{"city": "Bonn", "note": [OVER_1024 if i < 4 else "short"]} for i in range(12)]
    limits = {"overlong": "drop", "min_category_count": 10}
    pipe = train(records, tmp_path / "model", recipe=brief, **limits)
    assert pipe.processor.schema["city"].categories == ["Ulm"]
    data = pipe.config.training["data"]
    assert (data["num_dropped_records"], data["num_records"] + data["num_validation_records"]) == (4, 40)


def test_only_validation_is_left(brief, tmp_path):
    long, short = ([{"text": f"{text}{i}"} for i in range(4)] for text in (OVER_1024, "the cat "))
    with pytest.raises(ValueError, match="all records but those for validation are left out; raise max_length"):
        train(long, tmp_path / "model", validation=short, recipe=brief, overlong="drop", max_length=32)
    assert not (tmp_path / "model").exists()


def test_nothing_is_learnt_from_what_is_left_out(brief, tmp_path):
    left_out = {"text": "Zacharias Quellmalz " * 300}
    pipe = train([*make_texts(), left_out], tmp_path / "model", recipe=brief, overlong="drop", max_length=128)
    assert pipe.config.training["data"]["num_dropped_records"] == 1
    assert pipe.processor.schema["text"].max_length == max(len(record["text"]) for record in make_texts())
    assert not [piece for piece in pipe.processor.tokenizer.get_vocab() if "Quellm" in piece]


def test_card_of_a_model_whose_lm_encodes(text_run):
    assert "| encoder | the causal language model |" in (text_run / "README.md").read_text(encoding="utf-8")


# Batches of like lengths


def test_length_grouped_sampler():
    lengths = torch.from_numpy(np.random.default_rng(0).integers(5, 500, 403))
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=3)
    assert len(sampler) == 403
    orders = {}
    for epoch in (0, 1, 2, 1):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(403))
        assert orders.setdefault(epoch, order) == order
        spreads = [np.ptp(lengths.numpy()[order[start : start + 8]]) for start in range(0, 403, 8)]
        assert np.mean(spreads) < 100  # of some 400 in batches at random
    assert len({tuple(order) for order in orders.values()}) == 3
    assert list(LengthGroupedSampler(lengths, 8, seed=4)) != orders[0]


def test_latents_are_in_the_order_of_the_records(text_run):
    pipe = DiffLMPipeline.from_pretrained(text_run)
    dataset = to_dataset(pipe.processor, make_texts(80))
    latents = encode_latents(pipe.vae, dataset, batch_tokens=7 * dataset.tensors["input_ids"].shape[1])
    with torch.no_grad():
        mean, logvar = pipe.vae.encode(dataset.tensors["input_ids"], dataset.tensors["attention_mask"])
    torch.testing.assert_close(latents.tensors["mean"], mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(latents.tensors["std"], (0.5 * logvar).exp(), rtol=1e-3, atol=1e-3)


def test_every_record_once_in_each_epoch(text_run, tmp_path):
    pipe = DiffLMPipeline.from_pretrained(text_run)
    dataset = to_dataset(pipe.processor, make_texts(80))
    seen = []

    class Watching(DiffLMTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            ids, mask = inputs["decoder_input_ids"], inputs["decoder_attention_mask"]
            # Few columns of padding alone: those that a length has in common with others.
            assert (~mask.any(0)).sum() < -(-dataset.tensors["decoder_input_ids"].shape[1] // NUM_LENGTHS)
            seen.append([tuple(row[kept].tolist()) for row, kept in zip(ids, mask.bool())])
            return super().compute_loss(model, inputs, *args, **kwargs)

    args = DiffLMTrainingArguments(
        output_dir=str(tmp_path),
        **{"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 0.0, "save_strategy": "no"},
        **{"use_cpu": True, "report_to": "none", "remove_unused_columns": False, "disable_tqdm": True},
    )
    Watching(pipe.vae, args, train_dataset=dataset).train()
    epochs = [seen[start : start + 10] for start in (0, 10, 20)]
    assert len(seen) == 30
    records = sorted(
        tuple(row[kept].tolist())
        for row, kept in zip(*(dataset.tensors[f"decoder_{n}"] for n in ("input_ids", "attention_mask")))
        for kept in [kept.bool()]
    )
    for epoch in epochs:
        assert sorted(record for batch in epoch for record in batch) == records
        spread = np.mean([np.ptp([len(record) for record in batch]) for batch in epoch])
        assert spread < np.ptp([len(record) for record in records]) / 2
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


@pytest.mark.parametrize("run", ["text_run", "nested_run", "table_run"])
def test_trimmed_batches_have_the_same_loss(run, request):
    pipe = DiffLMPipeline.from_pretrained(request.getfixturevalue(run))
    data = {"text_run": make_texts(90), "nested_run": make_nested(), "table_run": make_table(60)}[run]
    dataset = to_dataset(pipe.processor, data)
    name = "attention_mask" if run == "table_run" else "decoder_attention_mask"
    lengths = dataset.tensors[name].sum(1)
    shortest = lengths.argsort()[:4]
    batch = dataset[shortest]
    trimmed = trim_padding(batch)
    assert batch.keys() == trimmed.keys()
    assert lengths[shortest].max() <= trimmed[name].shape[1] < batch[name].shape[1]
    assert len({trim_padding(dataset[[row]])[name].shape for row in range(len(dataset))}) <= NUM_LENGTHS
    losses = []
    for inputs in (batch, trimmed):
        torch.manual_seed(0)
        losses.append(pipe.vae(**inputs).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_has_no_padding_is_not_trimmed():
    batch = {"mean": torch.zeros(3, 4), "input_ids": torch.ones(3, 5)}
    trimmed = trim_padding(batch)
    assert trimmed.keys() == batch.keys() and all(trimmed[name] is batch[name] for name in batch)


# What latents tell


def nats_of(pipe: DiffLMPipeline, batch: dict, latents: torch.Tensor) -> tuple[float, int]:
    """−log p(x|z) of a record by itself, and the tokens that it is of."""
    decoder = pipe.vae.decoder
    if "decoder_input_ids" not in batch:
        return decoder.negative_log_likelihood(batch["input_ids"], latents).item(), batch["input_ids"].shape[1] - 1
    ids = batch["decoder_input_ids"]
    counted = batch.get("labels", ids)[0, 1:] >= 0
    logits = decoder(ids[:, :-1], latents=latents).logits
    if "labels" in batch:
        allowed = pipe.processor.grammar.allowed(ids, batch["decoder_attention_mask"])
        logits[0, counted] = logits[0, counted].where(allowed.sets[allowed.numbers], -torch.inf)
    log_probs = logits.log_softmax(-1)
    return -log_probs.gather(-1, ids[:, 1:, None])[0, counted].sum().item(), int(counted.sum())


def one_by_one(data: list[dict] | pd.DataFrame) -> list[pd.DataFrame]:
    """Each record by itself, with all columns."""
    table = read_table(data)
    return [table.iloc[[i]] for i in range(len(table))]


@pytest.mark.parametrize("run", ["text_run", "nested_run", "table_run"])
def test_evaluate_latents(run, request):
    """Against one record at a time."""
    pipe = DiffLMPipeline.from_pretrained(request.getfixturevalue(run))
    data = {"text_run": make_texts(20), "nested_run": make_nested(20), "table_run": make_table(60)[:20]}[run]
    batches = [pipe.processor(record) for record in one_by_one(data)]
    with torch.no_grad():
        posteriors = [pipe.vae.encode(batch["input_ids"]) for batch in batches]
        mean, logvar = (torch.cat(parts) for parts in zip(*posteriors))
        latents = mean + torch.randn(mean.shape, generator=seeded(7)) * (logvar / 2).exp()
        own, other = (
            [nats_of(pipe, batch, z[None]) for batch, z in zip(batches, of)] for of in (latents, latents.roll(1, 0))
        )
    own, num_tokens, other = sum(n for n, _ in own), sum(n for _, n in own), sum(n for n, _ in other)
    normal = torch.distributions.Normal
    posterior = normal(mean, (logvar / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, normal(0.0, 1.0))
    learnt = posterior.entropy().sum() + pipe.latent_log_prob(latents).sum()
    expected = {
        "reconstruction": own / 20,
        "reconstruction_other": other / 20,
        "kl": float(kl.sum()) / 20,
        "kl_denoiser": -float(learnt) / 20,
        "active": int((kl.mean(0) > 0.1).sum()),
        "nats_per_document": (own + float(kl.sum())) / 20,
    }
    scores = evaluate_latents(pipe, data, seed=7)
    assert math.log(scores.pop("perplexity")) == pytest.approx((own + float(kl.sum())) / num_tokens, rel=1e-4)
    assert scores == pytest.approx(expected, rel=1e-4)
    assert evaluate_latents(pipe, data, seed=8)["reconstruction"] != scores["reconstruction"]


def test_posteriors_do_not_depend_on_the_batch_size(text_run):
    pipe = DiffLMPipeline.from_pretrained(text_run)
    scores = [evaluate_latents(pipe, make_texts(25), batch_size=size) for size in (1, 4, 7, 100)]
    for score in scores[1:]:
        assert (score["kl"], score["active"]) == pytest.approx((scores[0]["kl"], scores[0]["active"]), rel=1e-5)


def test_scores_do_not_depend_on_the_batch_size(text_run):
    pipe = DiffLMPipeline.from_pretrained(text_run)
    whole = evaluate_latents(pipe, make_texts(25))
    for batch_size in (1, 3, 7):
        assert evaluate_latents(pipe, make_texts(25), batch_size=batch_size) == pytest.approx(whole, rel=1e-5)


def test_another_record_is_another_one(text_run):
    pipe = DiffLMPipeline.from_pretrained(text_run)
    scores = evaluate_latents(pipe, make_texts(10), batch_size=1)
    assert scores["reconstruction_other"] != scores["reconstruction"]


# The command


@pytest.mark.slow
def test_command_for_texts(monkeypatch, capsys, tmp_path):
    write_table(pd.DataFrame([*make_texts(), {"text": "the cat " * 400}]), tmp_path / "texts.jsonl")
    model = tmp_path / "model"
    options = ["--recipe", "tiny", "--max-length", 100, "--overlong", "drop"]
    assert call(monkeypatch, "train", tmp_path / "texts.jsonl", "--output-dir", model, *options) == 0
    pipe = DiffLMPipeline.from_pretrained(model)
    assert isinstance(pipe.processor.codec, TextCodec)
    assert pipe.config.training["data"]["num_dropped_records"] == 1
    assert pipe.config.training["data"]["source"] == "texts.jsonl"

    files = {name: tmp_path / f"{name}.jsonl" for name in ("a", "b", "c")}
    for seed, file in zip((5, 5, 6), files.values()):
        arguments = ["--num-records", 5, "--seed", seed, "--dtype", "float32", "--output", file]
        assert call(monkeypatch, "generate", model, *arguments) == 0
        assert capsys.readouterr().err.splitlines()[-1] == f"5 records in {file}"
    assert files["a"].read_bytes() == files["b"].read_bytes() != files["c"].read_bytes()
    assert lines_of(files["a"]) == pipe(5, generator=seeded(5)).records
    # The fastest dtype of this machine
    assert call(monkeypatch, "generate", model, "--num-records", 3, "--output", tmp_path / "d.csv") == 0


def test_command_for_nested_values(base, monkeypatch, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(JSON_SCHEMA))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in make_nested()))
    model = tmp_path / "model"
    options = ["--recipe", "brief", "--schema", tmp_path / "schema.json", "--key-order", "shuffled"]
    options += ["--base-model", base, "--tuning", "lora", "--activation-checkpointing"]
    assert call(monkeypatch, "train", tmp_path / "data.jsonl", "--output-dir", model, *options) == 0
    pipe = DiffLMPipeline.from_pretrained(model)
    assert pipe.vae.config.lora["r"] == 2
    arguments = pipe.config.training["arguments"]
    assert (arguments["key_order"], arguments["tuning"]) == ("shuffled", "lora")
    assert arguments["activation_checkpointing"] is True
    assert pipe.processor.schema.to_json_schema().items() >= JSON_SCHEMA.items()

    files = [tmp_path / name for name in ("a.jsonl", "a.parquet", "a.csv", "shards")]
    for file in files:
        arguments = ["--num-records", 20, "--seed", 3, "--dtype", "float32", "--output", file]
        assert call(monkeypatch, "generate", model, *arguments) == 0
    records = lines_of(files[0])
    assert_valid(records)
    assert records == pipe(20, generator=seeded(3)).records
    for file in (files[1], files[3] / "part-00000.parquet"):
        table = read_table(file)
        assert list(table) == list(JSON_SCHEMA["properties"])
        assert table["name"].tolist() == [record["name"] for record in records]
        for name in ("inner", "tags"):
            values = table[name].astype(object).where(table[name].notna(), None)
            assert values.tolist() == [record.get(name) for record in records]
    with open(files[2], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [json.loads(row["inner"]) for row in rows] == [record["inner"] for record in records]
    assert [json.loads(row["tags"] or "null") for row in rows] == [record.get("tags") for record in records]


@pytest.mark.parametrize("dtype", ["object", "string", "category"])
def test_carriage_returns_in_csv(dtype, tmp_path):
    table = pd.DataFrame({"co\rde": ["a\rb", "c\r\nd", "e\nf"], "n": [1.5, 2, None]}).astype({"co\rde": dtype})
    write_table(table, tmp_path / "code.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "code.csv").astype(table.dtypes), table)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "a"}', '{"text": "b"'], "line 2: "),
        (['{"text": "a"}', "", "not JSON"], "line 3: "),
        (['{"text": "a"}', '["b"]'], "line 2: '[\"b\"]' is no object"),
        (["[" * 10_000], "line 1: "),
    ],
)
def test_malformed_lines(lines, message, error_of, tmp_path):
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    line = error_of("train", tmp_path / "texts.jsonl", "--output-dir", tmp_path / "model")
    assert f"{tmp_path / 'texts.jsonl'}: cannot be read as jsonl ({message}" in line
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "schema.json: no JSON ("),
        ('{"type": "array"}', "the JSON Schema is not of objects with `properties`"),
        ('{"type": "objekt"}', "`schema` is not a JSON Schema, at $.type: "),
        ('{"properties": {"text": {"type": "integer"}}}', "column 'text': "),
        ('{"properties": {"title": {}}}', "column 'title' is missing; the schema has"),
    ],
)
def test_bad_schemas(content, message, error_of, tmp_path):
    write_table(pd.DataFrame(make_texts()), tmp_path / "texts.jsonl")
    (tmp_path / "schema.json").write_text(content)
    arguments = ["--output-dir", tmp_path / "model", "--recipe", "tiny", "--schema", tmp_path / "schema.json"]
    assert message in error_of("train", tmp_path / "texts.jsonl", *arguments)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tuning", "lora"], "tuning and quantization are of a base_model"),
        (["--overlong", "cut"], "overlong='cut' is not one of 'raise', 'drop'"),
        (["--key-order", "none"], "key_order='none' is not one of 'schema', 'shuffled'"),
        (["--max-length", 3], "tokens and max_length is 3, which "),
        (["--schema", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_options(options, message, error_of, tmp_path):
    write_table(pd.DataFrame(make_texts()), tmp_path / "texts.jsonl")
    arguments = ["--output-dir", tmp_path / "model", "--recipe", "tiny", *options]
    assert message in error_of("train", tmp_path / "texts.jsonl", *arguments)
    assert not (tmp_path / "model").exists()


# Cards


# What is true of rows of numbers and categories alone
OF_TABLES = ("inside the bounds of the training data", "one token for each value", "quantiles", "numbers or dates")


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_card_of_texts(text_run):
    card = card_of(text_run)
    assert "- **Training records:** 81\n" in card
    assert "| `text` | text | at most " in card
    assert "`llama`, trained from scratch" in card
    assert "| records are written | as the texts that they are |" in card
    assert "Free texts may come back word for word." in card
    assert "**a vocabulary learnt from the free texts:**" in card
    assert "\n- text\n" in card and "tabular" not in card
    assert not [false for false in (*OF_TABLES, "JSON", "No rules across columns", "Left out") if false in card]


def test_card_of_nested_values(nested_run):
    card = card_of(nested_run)
    assert "| records are written | as JSON |" in card and "Each is valid JSON" in card
    assert "| `inner` | json | nested |" in card and "| `tags` | json, may be missing | nested |" in card
    assert "| `kind` | category | 2 categories: " in card
    assert "**the structure of nested values:**" in card
    assert "**a vocabulary learnt from the free texts:**" in card
    assert not [false for false in OF_TABLES if false in card]


def test_card_of_a_base_model(tuned):
    tuning, folder = tuned
    card = card_of(folder)
    [line] = [line for line in card.splitlines() if line.startswith("| language model |")]
    how = {"frozen": " and left as it is", "lora": ", with LoRA layers", "full": ""}[tuning]
    assert line.startswith(f"| language model | `llama`, pretrained{how}: ")
    assert "vocabulary learnt" not in card  # which is the LM's own


def test_card_tells_of_dropped_records(brief, tmp_path):
    records = [*make_texts(), *[{"text": f"{i} " + "the cat " * 100} for i in range(3)]]
    train(records, tmp_path / "model", recipe=brief, overlong="drop", max_length=64)
    assert "- **Left out,** as they were too long: 3\n" in card_of(tmp_path / "model")


@pytest.mark.parametrize("false", ["Ranges hold 90%", "--target COLUMN"])
def test_card_says_nothing_of_tables_where_there_is_none(false, text_run):
    assert false not in card_of(text_run)


def test_card_tells_of_the_rarest_category(nested_run):
    assert "records of the rarest: not recorded" not in card_of(nested_run)


def test_each_fact_has_a_line(text_run):
    assert "\n- **Training records:** " in card_of(text_run)
