"""Checkpoints of a model with a frozen base LM: what they hold, what they load, and which bases they refuse."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import seeded, train
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from difflm_hf import DiffLMModel, DiffLMPipeline, JSONCodec, LatentEDMScheduler, RecordSchema
from difflm_hf.base_model import load_causal_lm
from difflm_hf.callbacks import LossProgressCallback
from difflm_hf.latents import encode_latents, pool_states, to_dataset
from difflm_hf.modeling_latent_lm import DiffLMForCausalLM
from difflm_hf.training import DOCUMENT_RECIPES, RECIPES, ModelArguments, Recipe


# GPT-2 and Gemma have one matrix for embeddings and head.
TIED = {"llama": False, "gpt2": True, "qwen2": False, "gemma2": True}
HEADER = 20_000  # bytes: names and shapes take as much as weights here
# One text of ids from EOS on
RECORDS = {"position_ranges": [(2, 50)], "num_texts": 1, "max_record_length": 12}

every_decoder = pytest.mark.parametrize("decoder", TIED)


@pytest.fixture
def save_lm(tiny_config, tmp_path):
    """Saves a new causal LM of that type; returns its folder."""

    def make(decoder="llama", name="base", dtype=torch.float32, seed=0, **fields) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            lm = AutoModelForCausalLM.from_config(tiny_config(decoder, **fields)).to(dtype)
        lm.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def make_model(tiny_config, save_lm, tmp_path):
    """A model of a new encoder and a new causal LM in the folder `base`."""

    def make(decoder="llama", dtype=torch.float32, **fields) -> DiffLMModel:
        base = save_lm(decoder, dtype=dtype)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            AutoModel.from_config(tiny_config("bert")).save_pretrained(tmp_path / "encoder")
            return DiffLMModel.from_encoder_decoder_pretrained(
                tmp_path / "encoder", base, latent_size=3, **RECORDS, **fields
            )

    return make


@pytest.fixture
def model(make_model):
    return make_model()


def tensor_names(folder: Path) -> set[str]:
    """The names of all tensors in all files of a checkpoint."""
    names = set()
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@torch.no_grad()
def outputs(model: DiffLMModel | DiffLMForCausalLM) -> list[torch.Tensor]:
    """Posterior means, logits and sampled records, for fixed inputs."""
    decoder = getattr(model, "decoder", model)
    ids = torch.randint(3, 50, (2, 7), generator=seeded())
    latents, uniforms = torch.randn(5, 3, generator=seeded(1)), torch.rand(5, 11, generator=seeded(2))
    means = [model.encode(ids)[0]] if model is not decoder else []
    latents = latents.to(decoder.injection.projection.weight.dtype)
    return [*means, decoder(ids, latents=latents[:2]).logits, decoder.sample_records(latents, uniforms)]


def assert_same(loaded, expected) -> None:
    """Weights, what is frozen, ties, mode and outputs are equal, and everything is in memory."""
    assert type(loaded) is type(expected)
    weights, others = loaded.state_dict(), expected.state_dict()
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert weight.dtype == others[name].dtype and torch.equal(weight, others[name]), name
    for (name, parameter), (_, other) in zip(loaded.named_parameters(), expected.named_parameters(), strict=True):
        assert parameter.requires_grad == other.requires_grad, name
    decoders = [getattr(m, "decoder", m) for m in (loaded, expected)]
    ties = [d.get_output_embeddings().weight is d.get_input_embeddings().weight for d in decoders]
    assert ties[0] == ties[1]
    assert not any(module.training for module in loaded.modules())
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    for output, other in zip(outputs(loaded), outputs(expected), strict=True):
        assert torch.equal(output, other)


class TestCheckpoints:
    @every_decoder
    def test_files(self, make_model, tmp_path, decoder):
        model = make_model(decoder)
        model.save_pretrained(tmp_path / "model")
        own = {name: weight for name, weight in model.state_dict().items() if not name.startswith("decoder.lm.")}
        assert tensor_names(tmp_path / "model") == set(own)
        assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}
        num_bytes = sum(weight.nbytes for weight in own.values())
        assert num_bytes < (tmp_path / "model" / "model.safetensors").stat().st_size < num_bytes + HEADER

        config = config_of(tmp_path / "model")
        assert config.pop("base_model") == str(tmp_path / "base")
        assert config["base_revision"] is None
        assert str(tmp_path) not in json.dumps(config)

    @every_decoder
    def test_loading(self, make_model, tmp_path, decoder):
        model = make_model(decoder)
        model.save_pretrained(tmp_path / "model")
        loaded = DiffLMModel.from_pretrained(tmp_path / "model")
        assert_same(loaded, model)
        assert loaded.decoder.config is loaded.config
        assert loaded.decoder.lm.config is loaded.config.decoder_config
        head, embeddings = (getattr(loaded.decoder, f"get_{which}_embeddings")() for which in ("output", "input"))
        assert (head.weight is embeddings.weight) == TIED[decoder]
        frozen = {name.startswith("decoder.lm."): p.requires_grad for name, p in loaded.named_parameters()}
        assert frozen == {True: False, False: True}
        assert_same(AutoModel.from_pretrained(tmp_path / "model"), model)

    @every_decoder
    def test_decoder_alone(self, make_model, tmp_path, decoder):
        model = make_model(decoder)
        model.save_pretrained(tmp_path / "model")
        model.decoder.save_pretrained(tmp_path / "decoder")
        assert all(name.startswith("injection.") for name in tensor_names(tmp_path / "decoder"))
        assert str(tmp_path) not in json.dumps({**config_of(tmp_path / "decoder"), "base_model": None})
        for folder in "model", "decoder":
            for cls in DiffLMForCausalLM, AutoModelForCausalLM:
                loaded, info = cls.from_pretrained(tmp_path / folder, output_loading_info=True)
                assert_same(loaded, model.decoder)
                assert not any(info.values())
        loaded.save_pretrained(tmp_path / "merged", include_base_weights=True)
        shutil.rmtree(tmp_path / "base")
        assert_same(DiffLMForCausalLM.from_pretrained(tmp_path / "merged"), model.decoder)

    @every_decoder
    def test_saving_what_was_loaded(self, make_model, tmp_path, decoder):
        make_model(decoder).save_pretrained(tmp_path / "a")
        DiffLMModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
        for name in "config.json", "model.safetensors":
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_a_moved_base(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        moved = (tmp_path / "base").rename(tmp_path / "moved")
        for cls, expected in {DiffLMModel: model, DiffLMForCausalLM: model.decoder}.items():
            for copy in moved, str(moved):
                loaded = cls.from_pretrained(tmp_path / "model", base_model=copy)
                assert_same(loaded, expected)
        # It is still known by its name.
        loaded.save_pretrained(tmp_path / "again")
        assert config_of(tmp_path / "again")["base_model"] == str(tmp_path / "base")

    def test_a_moved_base_for_auto_classes(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        model.save_pretrained(tmp_path / "merged", include_base_weights=True)
        moved = (tmp_path / "base").rename(tmp_path / "moved")
        for auto_class in AutoModel, AutoModelForCausalLM:
            loaded = auto_class.from_pretrained(tmp_path / "model", base_model=str(moved))
            assert loaded.config.base_model == str(tmp_path / "base")
            with pytest.raises(ValueError, match="holds its own LM"):
                auto_class.from_pretrained(tmp_path / "merged", base_model=str(moved))

    def test_a_configuration_in_place_of_that_of_the_checkpoint(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        config = AutoConfig.from_pretrained(tmp_path / "model")
        before = config.to_dict()
        assert_same(DiffLMModel.from_pretrained(tmp_path / "model", config=config), model)
        assert config.to_dict() == before
        assert_same(DiffLMModel.from_pretrained(tmp_path / "model", config=str(tmp_path / "model")), model)

    def test_loading_info(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        loaded, info = DiffLMModel.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert_same(loaded, model)
        assert info.keys() >= {"missing_keys", "unexpected_keys", "mismatched_keys"} and not any(info.values())

    def test_shards(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
        index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
        shards = set(index["weight_map"].values())
        assert len(shards) > 2
        assert {path.name for path in (tmp_path / "model").glob("*.safetensors")} == shards
        own = {name for name in model.state_dict() if not name.startswith("decoder.lm.")}
        assert set(index["weight_map"]) == tensor_names(tmp_path / "model") == own
        assert_same(DiffLMModel.from_pretrained(tmp_path / "model"), model)
        model.save_pretrained(tmp_path / "merged", max_shard_size="20KB", include_base_weights=True)
        assert tensor_names(tmp_path / "merged") == set(model.state_dict())
        assert_same(DiffLMModel.from_pretrained(tmp_path / "merged"), model)

    def test_decoder_that_is_trained_is_saved_whole(self, make_model, tmp_path):
        model = make_model(freeze_decoder=False)
        model.save_pretrained(tmp_path / "model")
        config = config_of(tmp_path / "model")
        assert (config["base_model"], config["freeze_decoder"]) == (None, False)
        shutil.rmtree(tmp_path / "base")
        loaded = DiffLMModel.from_pretrained(tmp_path / "model")
        assert_same(loaded, model)
        assert all(parameter.requires_grad for parameter in loaded.parameters())

    def test_decoder_that_is_trained_after_all(self, model, tmp_path):
        model.save_pretrained(tmp_path / "frozen")
        model = DiffLMModel.from_pretrained(tmp_path / "frozen", freeze_decoder=False)
        with torch.no_grad():
            model.decoder.get_output_embeddings().weight.mul_(2)
        model.save_pretrained(tmp_path / "model")
        assert_same(DiffLMModel.from_pretrained(tmp_path / "model"), model)

    def test_generation_config(self, model, tmp_path):
        """A chat model's habits neither come with the base nor change when the model is loaded."""
        GenerationConfig(temperature=0.1, do_sample=True, repetition_penalty=5.0).save_pretrained(tmp_path / "base")
        model.save_pretrained(tmp_path / "model")
        model.decoder.save_pretrained(tmp_path / "decoder")
        decoders = (
            DiffLMModel.from_pretrained(tmp_path / "model").decoder,
            DiffLMForCausalLM.from_pretrained(tmp_path / "decoder"),
        )
        for decoder in decoders:
            config = decoder.generation_config
            assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)
            assert config.temperature in (None, 1.0) and config.repetition_penalty in (None, 1.0)
            assert not config.do_sample

    @pytest.mark.parametrize("include_base_weights", [False, True])
    def test_generating_with_the_decoder_of_a_whole_checkpoint(self, model, tmp_path, include_base_weights):
        model.save_pretrained(tmp_path / "model", include_base_weights=include_base_weights)
        loaded = DiffLMForCausalLM.from_pretrained(tmp_path / "model")
        latents, arguments = torch.randn(2, 3), {"do_sample": False, "max_new_tokens": 5}
        expected = model.decoder.generate(latents=latents, **arguments)
        assert torch.equal(loaded.generate(latents=latents, **arguments), expected)


class TestMerging:
    @every_decoder
    def test_nothing_else_is_needed(self, make_model, tmp_path, decoder):
        model = make_model(decoder)
        model.save_pretrained(tmp_path / "model")
        model.save_pretrained(tmp_path / "a", include_base_weights=True)
        DiffLMModel.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "b", include_base_weights=True)
        shutil.rmtree(tmp_path / "base")
        for folder in tmp_path / "a", tmp_path / "b":
            text = (folder / "config.json").read_text()
            assert str(tmp_path) not in text and json.loads(text)["base_model"] is None
            loaded = DiffLMModel.from_pretrained(folder)
            assert_same(loaded, model)
            assert_same(DiffLMForCausalLM.from_pretrained(folder), model.decoder)
        # Of tied weights, one copy.
        assert ("decoder.lm.lm_head.weight" in tensor_names(folder)) != TIED[decoder]
        # It is a checkpoint like any other from here on.
        loaded.save_pretrained(tmp_path / "c")
        assert_same(DiffLMModel.from_pretrained(tmp_path / "c"), model)

    def test_the_model_is_as_before(self, model, tmp_path):
        model.save_pretrained(tmp_path / "before")
        model.save_pretrained(tmp_path / "merged", include_base_weights=True)
        model.save_pretrained(tmp_path / "after")
        for name in "config.json", "model.safetensors":
            assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()

    def test_the_model_is_as_before_when_saving_fails(self, model, tmp_path):
        model.save_pretrained(tmp_path / "before")
        with pytest.raises(RuntimeError, match="disk full"), model.with_base_weights():
            assert model.config.base_model is None
            raise RuntimeError("disk full")
        with pytest.raises((TypeError, ValueError)):
            model.save_pretrained(tmp_path / "failed", include_base_weights=True, max_shard_size="plenty")
        model.save_pretrained(tmp_path / "after")
        for name in "config.json", "model.safetensors":
            assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()

    def test_a_model_without_a_base(self, tiny_model, tmp_path):
        model = tiny_model(**RECORDS)
        for name, include_base_weights in {"a": False, "b": True}.items():
            model.save_pretrained(tmp_path / name, include_base_weights=include_base_weights)
        assert (tmp_path / "a" / "config.json").read_text() == (tmp_path / "b" / "config.json").read_text()
        assert_same(DiffLMModel.from_pretrained(tmp_path / "b"), model)


class TestArguments:
    """What `from_pretrained` is told goes for the base as well."""

    @pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, "bfloat16"])
    def test_dtype(self, model, tmp_path, argument, dtype):
        model.save_pretrained(tmp_path / "model")
        loaded = DiffLMModel.from_pretrained(tmp_path / "model", **{argument: dtype})
        expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        assert loaded.state_dict().keys() == model.state_dict().keys()
        for name, weight in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight.to(expected)), name
        assert {parameter.dtype for parameter in loaded.parameters()} == {expected}

    @pytest.mark.parametrize("arguments", [{}, {"dtype": "auto"}])
    def test_dtypes_as_saved(self, make_model, tmp_path, arguments):
        model = make_model(dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / "model")
        loaded = DiffLMModel.from_pretrained(tmp_path / "model", **arguments)
        dtypes = {(name.startswith("decoder.lm."), p.dtype) for name, p in loaded.named_parameters()}
        assert dtypes == {(True, torch.bfloat16), (False, torch.float32)}
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, loaded.state_dict()[name])

    @pytest.mark.parametrize(
        "device_map",
        [
            "cpu",
            torch.device("cpu"),
            "auto",
            {"": "cpu"},
            {"encoder": "cpu", "to_posterior": "cpu", "decoder": "cpu"},
            {"encoder": "cpu", "to_posterior": "cpu", "decoder.injection": "cpu", "decoder.lm": "cpu"},
            {
                **{"encoder": "cpu", "to_posterior": "cpu", "decoder.injection": "cpu"},
                **{"decoder.lm.model": "cpu", "decoder.lm.lm_head": "cpu"},
            },
            {"": "cpu", "decoder.lm.lm_head": "cpu"},
        ],
        ids=str,
    )
    def test_device_map(self, model, tmp_path, device_map):
        model.save_pretrained(tmp_path / "model")
        assert_same(DiffLMModel.from_pretrained(tmp_path / "model", device_map=device_map), model)

    def test_device_map_of_the_decoder_alone(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        for device_map in {"injection": "cpu", "lm.model": "cpu", "lm.lm_head": "cpu"}, {"lm": "cpu", "": "cpu"}:
            loaded = DiffLMForCausalLM.from_pretrained(tmp_path / "model", device_map=device_map)
            assert_same(loaded, model.decoder)

    def test_base_on_a_device_of_its_own(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        device_map = {"encoder": "cpu", "to_posterior": "cpu", "decoder.injection": "cpu", "decoder.lm": "disk"}
        loaded = DiffLMModel.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offloaded"
        )
        assert {p.is_meta for name, p in loaded.named_parameters() if name.startswith("decoder.lm.")} == {True}
        assert not any(p.is_meta for name, p in loaded.named_parameters() if not name.startswith("decoder.lm."))
        ids, latents = torch.randint(3, 50, (2, 7)), torch.randn(2, 3)
        logits = model.decoder(ids, latents=latents).logits
        assert torch.equal(loaded.decoder(ids, latents=latents).logits, logits)

    def test_incomplete_device_map(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        device_map = {"encoder": "cpu", "to_posterior": "cpu", "decoder.injection": "cpu"}
        with pytest.raises(ValueError, match="does not say where 'decoder.lm' is to be; add it, or the key ''"):
            DiffLMModel.from_pretrained(tmp_path / "model", device_map=device_map)

    @pytest.mark.parametrize(
        "attention, expected",
        [
            (None, ("sdpa", "sdpa")),
            ("eager", ("eager", "eager")),
            ({"decoder_config": "eager"}, ("sdpa", "eager")),
            ({"encoder_config": "eager"}, ("eager", "sdpa")),
        ],
    )
    @pytest.mark.parametrize("include_base_weights", [False, True])
    def test_attn_implementation(self, model, tmp_path, attention, expected, include_base_weights):
        model.save_pretrained(tmp_path / "model", include_base_weights=include_base_weights)
        loaded = DiffLMModel.from_pretrained(tmp_path / "model", attn_implementation=attention)
        assert (loaded.encoder.config._attn_implementation, loaded.decoder.lm.config._attn_implementation) == expected


class TestOtherBases:
    @pytest.mark.parametrize(
        "fields, differences",
        [
            ({"hidden_size": 64}, ["head_dim is 16, not 8", "hidden_size is 64, not 32"]),
            ({"vocab_size": 51}, ["vocab_size is 51, not 50"]),
            ({"num_hidden_layers": 3}, ["num_hidden_layers is 3, not 2"]),
            ({"hidden_act": "gelu"}, ["hidden_act is 'gelu', not 'silu'"]),
            ({"rms_norm_eps": 1e-5, "tie_word_embeddings": True}, ["rms_norm_eps is 1e-05, not 1e-06", "tie_word"]),
        ],
    )
    def test_refused(self, model, save_lm, tmp_path, fields, differences):
        model.save_pretrained(tmp_path / "model")
        other = save_lm(name="other", **fields)
        for cls in DiffLMModel, DiffLMForCausalLM:
            with pytest.raises(ValueError) as error:
                cls.from_pretrained(tmp_path / "model", base_model=other)
            message = str(error.value)
            assert message.startswith(f"{other} is not the base model that this checkpoint was trained with, ")
            assert str(tmp_path / "base") in message
            assert all(difference in message for difference in differences)
            assert message.count(", not ") == len(differences)  # and nothing else

    def test_another_architecture(self, model, save_lm, tmp_path):
        model.save_pretrained(tmp_path / "model")
        with pytest.raises(ValueError, match="model_type is 'gpt2', not 'llama'"):
            DiffLMModel.from_pretrained(tmp_path / "model", base_model=save_lm("gpt2", name="other"))

    def test_the_named_base_has_changed(self, model, save_lm, tmp_path):
        model.save_pretrained(tmp_path / "model")
        save_lm(intermediate_size=64)
        with pytest.raises(ValueError, match="intermediate_size is 64, not 48"):
            DiffLMModel.from_pretrained(tmp_path / "model")

    def test_incidental_differences(self, save_lm, make_model, tmp_path):
        model = make_model(bos_token_id=7, eos_token_id=9)
        model.save_pretrained(tmp_path / "model")
        fields = {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 5, "use_cache": False}
        copy = save_lm(name="copy", dtype=torch.bfloat16, **fields)
        loaded = DiffLMModel.from_pretrained(tmp_path / "model", base_model=copy, dtype=torch.float32)
        for m in model, loaded:
            for ids in m.decoder.lm.config, m.config.decoder_config, m.decoder.generation_config:
                assert (ids.bos_token_id, ids.eos_token_id, ids.pad_token_id) == (7, 9, 0)
        assert (loaded.decoder.sample_records(torch.randn(4, 3), torch.rand(4, 11))[:, 0] == 7).all()

    def test_a_base_for_a_model_that_has_one(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model", include_base_weights=True)
        for cls in DiffLMModel, DiffLMForCausalLM:
            with pytest.raises(ValueError, match="model holds its own LM; leave base_model=.*base.* out"):
                cls.from_pretrained(tmp_path / "model", base_model=tmp_path / "base")

    def test_missing(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        with pytest.raises(OSError, match=f"{tmp_path / 'nowhere'}.* pass a copy of that one as base_model"):
            DiffLMModel.from_pretrained(tmp_path / "model", base_model=tmp_path / "nowhere")
        (tmp_path / "base").rename(tmp_path / "moved")
        for auto_class in DiffLMModel, AutoModel, AutoModelForCausalLM:
            with pytest.raises(OSError, match=f"{tmp_path / 'base'}.* pass a copy of that one as base_model"):
                auto_class.from_pretrained(tmp_path / "model")


# Training


@pytest.fixture(scope="module")
def brief() -> str:
    """A recipe of a few steps, with checkpoints."""
    fields = {"learning_rate": 1e-3, "per_device_train_batch_size": 16, "warmup_steps": 1}
    DOCUMENT_RECIPES["brief, frozen"] = Recipe(
        encoder_config={},
        decoder_config={},
        vae={**fields, "num_train_epochs": 1, "save_total_limit": None},
        denoiser_config={"width": 16, "num_layers": 1},
        denoiser={**fields, "max_steps": 8},
        latent_size=4,
        min_steps=8,
    )
    return "brief, frozen"


def test_what_is_no_causal_lm(tiny_config, tmp_path):
    """transformers would give missing weights random values, others each time, and warns of them alone."""
    AutoModel.from_config(tiny_config("llama", tie_word_embeddings=False)).save_pretrained(tmp_path / "headless")
    with pytest.raises(OSError, match=r"headless is no causal LM: it lacks weights, .* lm_head.weight \(1 in all\)"):
        load_causal_lm(tmp_path / "headless")
    AutoModelForCausalLM.from_config(tiny_config("roberta")).save_pretrained(tmp_path / "masked")
    with pytest.raises(OSError, match="masked is no causal LM: RobertaForCausalLM sees the tokens"):
        load_causal_lm(tmp_path / "masked")


def save_byte_level_lm(folder: Path, swapped: tuple[str, str] | None = None) -> None:
    """A causal LM, not trained, that reads and writes single bytes. Two of its tokens may change places."""
    tokens = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    if swapped is not None:
        i, j = map(tokens.index, swapped)
        tokens[i], tokens[j] = tokens[j], tokens[i]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ids = {"vocab_size": len(tokens), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes, **ids))
    lm.save_pretrained(folder)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"color": rng.choice(["red", "green"], 40), "big": rng.random(40) < 0.5})


@pytest.fixture(scope="module")
def run(table, brief, tmp_path_factory) -> Path:
    """The folder of a run that was cut off between two checkpoints of its first phase, and then resumed."""
    folder = tmp_path_factory.mktemp("run")
    save_byte_level_lm(folder / "base")
    on_step_end = LossProgressCallback.on_step_end

    def stop(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        if self.description == "autoencoder" and state.global_step == 5:
            raise KeyboardInterrupt

    arguments = {"recipe": brief, "base_model": str(folder / "base")}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LossProgressCallback, "on_step_end", stop)
        train(table, folder / "resumed", **arguments)
    assert list((folder / "resumed" / "checkpoints" / "vae").glob("checkpoint-*"))
    train(table, folder / "resumed", resume=True, **arguments)
    train(table, folder / "whole", **arguments)
    return folder


def test_training_saves_no_base(run):
    folders = [p.parent for p in (run / "resumed").rglob("model*.safetensors") if "denoiser" not in p.parts]
    assert {folder.name.split("-")[0] for folder in folders} == {"checkpoint", "best", "vae"}
    for folder in folders:
        names = tensor_names(folder)
        assert names and not any(name.startswith("decoder.lm.") for name in names)
        assert config_of(folder)["base_model"] == str(run / "base")
    for path in (run / "resumed").rglob("*"):
        whole = 3 * sum(p.stat().st_size for p in path.parent.glob("*.safetensors"))
        if path.name == "optimizer.pt":  # of many small tensors, pickled: what they hold counts
            states = torch.load(path, weights_only=True)["state"].values()
            assert 0 < sum(tensor.nbytes for state in states for tensor in state.values()) < whole
        elif path.suffix in (".pt", ".bin"):
            assert path.stat().st_size < whole


def test_resumed_training(run):
    resumed, whole = (DiffLMModel.from_pretrained(run / name / "vae") for name in ("resumed", "whole"))
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name
    base = AutoModelForCausalLM.from_pretrained(run / "base").state_dict()
    assert all(torch.equal(weight, base[name]) for name, weight in whole.decoder.lm.state_dict().items())


def test_a_frozen_base_reads_each_record_once(run, table, brief, tmp_path, monkeypatch):
    """Not in every epoch, nor for the latents after the last one."""
    read, pooled_states = [], DiffLMModel.pooled_states

    def counted(model, input_ids, attention_mask=None):
        read.append(len(input_ids))
        return pooled_states(model, input_ids, attention_mask)

    monkeypatch.setattr(DiffLMModel, "pooled_states", counted)
    pipe = train(table, tmp_path / "model", recipe=brief, base_model=str(run / "base"))
    assert sum(read) == len(table) and pipe.config.training["phases"][0]["num_steps"] > 3


@pytest.mark.parametrize(("tuning", "rates"), [("lora", [2e-3, 3e-4]), ("full", [1e-4, 1e-4])])
def test_the_posterior_learns_at_a_rate_of_its_own(run, table, tuning, rates, tmp_path):
    arguments = {"recipe": "quick", "base_model": str(run / "base"), "tuning": tuning}
    pipe = train(table, tmp_path / "model", **arguments)
    [path] = (tmp_path / "model" / "checkpoints" / "vae").glob("checkpoint-*/optimizer.pt")
    groups = torch.load(path, weights_only=True)["param_groups"]
    assert [group["initial_lr"] for group in groups] == [rate for rate in rates for _ in range(2)]
    trained = sum(weight.requires_grad for weight in pipe.vae.parameters())
    assert sum(len(group["params"]) for group in groups) == trained
    assert len(groups[2]["params"] + groups[3]["params"]) == len(list(pipe.vae.to_posterior.parameters()))


def test_a_recipe_keeps_its_rate_of_the_posterior(run, table, tmp_path):
    quick = DOCUMENT_RECIPES["quick"]
    recipe = replace(quick, vae={**quick.vae, "posterior_learning_rate": 0.0})
    arguments = {"recipe": recipe, "base_model": str(run / "base")}
    before = train(table, tmp_path / "before", **arguments | {"recipe": replace(recipe, min_steps=1)}).vae
    after = train(table, tmp_path / "after", **arguments).vae
    for name, weight in before.to_posterior.named_parameters():
        assert torch.equal(weight, after.to_posterior.get_parameter(name))
    assert not torch.equal(*(model.decoder.injection.state_dict().popitem()[1] for model in (before, after)))


def test_a_base_with_fewer_ids_than_its_tokenizer(run, table, brief, tmp_path):
    shutil.copytree(run / "base", tmp_path / "base")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model("llama", **sizes, vocab_size=200)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="base has 259 tokens, and the model embeddings of 200"):
        train(table, tmp_path / "model", recipe=brief, base_model=str(tmp_path / "base"))


@pytest.mark.parametrize("lacks", ["bos_token", "pad_token"])
def test_a_chat_model_without_bos_or_padding(run, table, brief, tmp_path, lacks):
    """EOS stands in for what a tokenizer lacks, as those of Qwen do."""
    shutil.copytree(run / "base", tmp_path / "base")
    path = tmp_path / "base/tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != lacks}))
    train(table, tmp_path / "model", recipe=brief, base_model=str(tmp_path / "base"))
    assert len(DiffLMPipeline.from_pretrained(tmp_path / "model")(3).records) == 3


def test_recipe_of_the_paper(run, table, tmp_path):
    paper = DOCUMENT_RECIPES["paper"]
    brief = replace(
        paper,
        vae={**paper.vae, "max_steps": 4},
        denoiser={**paper.denoiser, "max_steps": 4},
        denoiser_config={"width": 16, "num_layers": 1},
    )
    train(table, tmp_path / "model", recipe=brief, base_model=str(run / "base"))
    pipe = DiffLMPipeline.from_pretrained(tmp_path / "model")
    assert (pipe.vae.config.latent_size, pipe.vae.config.num_latent_tokens) == (1024, 32)
    scheduler = pipe.scheduler
    assert isinstance(scheduler, LatentEDMScheduler) and scheduler.config.s_churn == 1
    assert (scheduler.config.sigma_min, scheduler.config.sigma_max) == (0.002, 80)
    drawn = [pipe(3, num_inference_steps=50, temperature=0.5, generator=seeded()).records for _ in range(2)]
    assert len(drawn[0]) == 3 and drawn[0] == drawn[1]
    state = json.loads(next(tmp_path.glob("model/checkpoints/vae/checkpoint-4/trainer_state.json")).read_text())
    schedule = state["stateful_callbacks"]["BetaSchedule"]["args"]
    assert (schedule["schedule"], schedule["beta_max"], schedule["beta_min"], schedule["decay"]) == (
        "decreasing",
        0.1,
        0.001,
        0.7,
    )
    assert state["log_history"][0]["learning_rate"] <= 1e-5


@pytest.mark.parametrize(
    ("data", "fields", "message"),
    [
        (
            [{"text": f"ab {k} cd {k * k}"} for k in range(99)],
            {},
            "has no decoder_config, .*; give a base_model as well",
        ),
        ([{"n": 1}, {"n": 2}] * 9, {}, "recipe='paper' is not one of .*, or is for a base_model"),
        ([{"text": "ab"}] * 9, {"solver": "euler"}, "solver='euler'"),
        ([{"n": 1}, {"n": 2}] * 9, {"scheduler": {"sigma": 3}}, "scheduler of the recipe: .*'sigma'"),
        (
            [{"n": 1}, {"n": 2}] * 9,
            {"scheduler": {"num_train_timesteps": "x"}},
            "timesteps='x' is no finite",
        ),
        ([{"n": 1}, {"n": 2}] * 9, {"scheduler": {"num_train_timesteps": 2.5}}, "timesteps=2.5 is not a positive int"),
        ([{"n": 1}, {"n": 2}] * 9, {"scheduler": {"num_train_timesteps": 0}}, "timesteps=0 is not a positive int"),
        *(
            (
                [{"n": 1}, {"n": 2}] * 9,
                {"vae": {"posterior_learning_rate": rate}},
                f"posterior_learning_rate={rate!r} is",
            )
            for rate in (-3e-4, math.nan, "3e-4")
        ),
        ([{"n": 1}, {"n": 2}] * 9, {"vae": None}, "vae=None of the recipe is no dict"),
        ([{"n": 1}, {"n": 2}] * 9, {"denoiser": {1: 2}}, "denoiser={1: 2} of the recipe is no dict"),
        ([{"n": 1}, {"n": 2}] * 9, {"lora": [2]}, "lora=.* of the recipe is no dict"),
        ([{"n": 1}, {"n": 2}] * 9, {"scheduler": {"sigma_max": math.inf}}, "sigma_max=inf is no finite number"),
    ],
)
def test_recipes_that_do_not_fit(data, fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        recipe = replace(RECIPES["tiny"], **fields) if fields else "paper"
        train(data, tmp_path / "model", recipe=recipe)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 2}, "'rank'"),
        ({"r": 2.5}, "r=2.5 is not a positive integer"),
        ({"lora_alpha": math.nan}, "lora_alpha=nan is no finite number"),
        ({"lora_dropout": -1}, "lora_dropout=-1 is no number from 0 on and below 1"),
    ],
)
def test_lora_of_a_recipe_that_does_not_fit(lora, message, brief, table, tmp_path):
    save_byte_level_lm(tmp_path / "lm")
    recipe = replace(DOCUMENT_RECIPES[brief], lora=lora)
    with pytest.raises(ValueError, match=f"lora of the recipe: .*{message}"):
        train(table, tmp_path / "model", recipe=recipe, base_model=str(tmp_path / "lm"), tuning="lora")


def test_two_records(run, tmp_path):
    """One of them is to train on, from which the other differs in dimensions that one has no scale for."""
    table = pd.DataFrame({"color": ["red", "green"], "n": [1, 2]})
    pipe = train(table, tmp_path / "model", recipe="quick", base_model=str(run / "base"))
    phase = json.loads((tmp_path / "model/model_index.json").read_text())["training"]["phases"][0]
    assert phase["metrics"]["eval_kl_loss"] < 100 * pipe.vae.config.latent_size
    assert phase["arguments"]["posterior_learning_rate"] == 3e-4


def test_states_that_are_known_change_nothing(run, table):
    pipe = DiffLMPipeline.from_pretrained(run / "whole", dtype=torch.float32)
    records = to_dataset(pipe.processor, table)
    read = encode_latents(pipe.vae, records)
    records.tensors["pooled_states"] = pool_states(pipe.vae, records)
    known = encode_latents(pipe.vae, records)
    for name in ("mean", "std"):
        torch.testing.assert_close(known.tensors[name], read.tensors[name])


def test_checkpoints_of_the_trainer_load(run):
    for checkpoint in sorted((run / "whole" / "checkpoints" / "vae").glob("checkpoint-*")):
        loaded, info = DiffLMModel.from_pretrained(checkpoint, output_loading_info=True)
        assert not any(info.values())
        assert not any(parameter.requires_grad for parameter in loaded.decoder.lm.parameters())


def test_pipeline(run, table, tmp_path):
    pipe = DiffLMPipeline.from_pretrained(run / "whole")
    pipe.save_pretrained(tmp_path / "pipe")
    pipe.save_pretrained(tmp_path / "merged", include_base_weights=True)
    copy = shutil.copytree(run / "base", tmp_path / "copy")
    latents, uniforms = torch.randn(3, 4, generator=seeded()), torch.rand(3, 60, generator=seeded())
    records = pipe.decode_latents(latents, uniforms, torch.zeros(3, 0))[0]
    assert set(records.columns) == set(table.columns)
    for folder, arguments in {"pipe": {"base_model": copy}, "merged": {}}.items():
        loaded = DiffLMPipeline.from_pretrained(tmp_path / folder, **arguments)
        for name, weight in pipe.vae.state_dict().items():
            assert torch.equal(loaded.vae.state_dict()[name], weight)
        again = loaded.decode_latents(latents, uniforms, torch.zeros(3, 0))[0]
        pd.testing.assert_frame_equal(again, records)
    assert any(name.startswith("decoder.lm.") for name in tensor_names(tmp_path / "merged" / "vae"))
    assert not any(name.startswith("decoder.lm.") for name in tensor_names(tmp_path / "pipe" / "vae"))
    assert pipe.vae.config.base_model == str(run / "base")
    with pytest.raises(ValueError, match="holds its own LM"):
        DiffLMPipeline.from_pretrained(tmp_path / "merged", base_model=copy)


def test_the_base_is_loaded_once(run, table, brief, tmp_path, monkeypatch):
    """For a second one there may be no room."""
    load, bases = AutoModelForCausalLM.from_pretrained, []

    def count(*args, **kwargs):
        bases.append(args)
        return load(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", count)
    arguments = {"recipe": brief, "base_model": str(run / "base"), "tuning": "lora"}
    pipe = train(table, tmp_path / "model", **arguments)
    assert len(bases) == 1
    (tmp_path / "model" / "model_index.json").unlink()
    resumed = train(table, tmp_path / "model", resume=True, **arguments)
    assert len(bases) == 2
    for name, weight in pipe.vae.state_dict().items():
        assert torch.equal(resumed.vae.state_dict()[name], weight), name
    loaded = DiffLMPipeline.from_pretrained(tmp_path / "model")
    first, second, third = (p(4, generator=seeded(), output_type="pandas").records for p in (pipe, resumed, loaded))
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, third)


def test_a_phase_whose_weights_are_not_complete(run, table, brief, tmp_path):
    folder = shutil.copytree(run / "whole", tmp_path / "model")
    (folder / "model_index.json").unlink()
    [path] = (folder / "checkpoints" / "vae" / "best").glob("*.safetensors")
    weights = load_file(path)
    name = next(name for name in weights if "injection" in name)
    save_file({key: weight for key, weight in weights.items() if key != name}, path, {"format": "pt"})
    with pytest.raises(OSError, match=f"lacks weights, such as {name}; delete that folder"):
        train(table, folder, recipe=brief, base_model=str(run / "base"), resume=True)


def test_arguments_reach_the_base(run):
    pipe = DiffLMPipeline.from_pretrained(run / "whole", torch_dtype=torch.bfloat16)
    assert {p.dtype for p in pipe.vae.decoder.lm.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="pass it as vae"):
        DiffLMPipeline.from_pretrained(run / "whole", quantization_config=object())


def test_base_of_another_vocabulary(run, tmp_path):
    """Of the same size, so that nothing but the tokenizer tells."""
    save_byte_level_lm(tmp_path / "other", swapped=("q", "}"))
    with pytest.raises(ValueError, match=r"'q', of id \d+, has the id \d+ there \(2 of 259 tokens differ\)"):
        DiffLMPipeline.from_pretrained(run / "whole", base_model=tmp_path / "other")


def test_base_without_a_tokenizer(run, tmp_path):
    ignore = shutil.ignore_patterns("tokenizer*")
    with pytest.raises(OSError, match=f"{tmp_path / 'copy'} has no tokenizer"):
        DiffLMPipeline.from_pretrained(
            run / "whole", base_model=shutil.copytree(run / "base", tmp_path / "copy", ignore=ignore)
        )


def test_records_are_valid_json(run, table):
    """Whatever the base, which has not learnt to write."""
    pipe = DiffLMPipeline.from_pretrained(run / "whole")
    codec = JSONCodec(RecordSchema.infer(table))
    assert codec.decode([json.dumps(record) for record in pipe(2, generator=seeded()).records])[1].all()


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own-llama"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_base_with_code_of_its_own(table, brief, tmp_path):
    """It runs where the caller says so, and nowhere else."""
    base = tmp_path / "own_base"
    save_byte_level_lm(base)
    (base / "modeling_own.py").write_text(CODE)
    config = json.loads((base / "config.json").read_text()) | {"model_type": "own-llama"}
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    (base / "config.json").write_text(json.dumps(config))
    arguments = {"recipe": brief, "base_model": str(base)}
    with pytest.raises((ValueError, OSError), match="trust_remote_code=True"):
        train(table, tmp_path / "untrusted", **arguments)
    pipe = train(table, tmp_path / "model", **arguments, trust_remote_code=True, attn_implementation="eager")
    assert type(pipe.vae.decoder.lm).__name__ == "OwnForCausalLM"
    assert pipe.vae.decoder.lm.config._attn_implementation == "eager"
    with pytest.raises((ValueError, OSError), match="trust_remote_code=True"):
        DiffLMPipeline.from_pretrained(tmp_path / "model")
    loaded = DiffLMPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True, attn_implementation="eager")
    assert type(loaded.vae.decoder.lm).__name__ == "OwnForCausalLM"
    assert loaded.vae.decoder.lm.config._attn_implementation == "eager"


def test_arguments_of_a_base_that_is_not_there(tiny_run):
    for fields in ({"trust_remote_code": True}, {"attn_implementation": "sdpa"}):
        with pytest.raises(ValueError, match="are of a base_model"):
            ModelArguments(**fields)
    with pytest.raises(ValueError, match="attn_implementation='sdpa' is of a base LM"):
        DiffLMPipeline.from_pretrained(tiny_run, attn_implementation="sdpa")
