"""What a pretrained causal LM is trained with and loaded as: LoRA, checkpointed layers, fewer bits; encoders."""

import importlib.util
import json
import shutil

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from test_base_model import RECORDS, assert_same, config_of, tensor_names
from tiny import seeded
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BitsAndBytesConfig

from difflm_hf import DiffLMConfig, DiffLMForCausalLM, DiffLMModel
from difflm_hf.lora import add_lora, lora_parameters


LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0}
INJECTIONS = ["soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embed"]
IDS = torch.randint(3, 50, (3, 9), generator=seeded())
LATENTS = torch.randn(3, 3, generator=seeded(1))

every_injection = pytest.mark.parametrize("injection", INJECTIONS)
every_decoder = pytest.mark.parametrize("decoder", ["llama", "gpt2", "gemma2"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def save(tmp_path):
    """Saves a new model of that configuration; returns its folder."""

    def make(config, name, auto_class=AutoModelForCausalLM, dtype=torch.float32):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            auto_class.from_config(config).to(dtype).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def make_model(tiny_config, save):
    """A model of a new encoder and a causal LM in the folder `base`, whose LoRA layers matter."""

    def make(decoder="llama", dtype=torch.float32, **fields):
        base = save(tiny_config(decoder), "base", dtype=dtype)
        encoder = save(tiny_config("bert"), "encoder", AutoModel)
        torch.manual_seed(0)
        model = DiffLMModel.from_encoder_decoder_pretrained(
            encoder, base, **{"latent_size": 3, "num_latent_tokens": 2, **fields}
        )
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter, std=0.2, generator=seeded(2))
        return model

    return make


def is_lora(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def gradients(model, **arguments) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model.train()(IDS, **arguments).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class TestLora:
    @every_injection
    @every_decoder
    def test_training(self, make_model, decoder, injection):
        model = make_model(decoder, injection=injection, lora=LORA)
        base = AutoModelForCausalLM.from_pretrained(model.config.base_model)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        grads = gradients(model)
        optimizer.step()
        for name, parameter in model.named_parameters():
            is_trained = is_lora(name) or not name.startswith("decoder.lm.")
            assert parameter.requires_grad == is_trained, name
            assert (name in grads and bool(grads[name].any())) == is_trained, name
            assert torch.equal(parameter, before[name]) != is_trained, name
        after = {name.replace("base_layer.", ""): w for name, w in model.decoder.lm.state_dict().items()}
        assert all(torch.equal(after[name], weight) for name, weight in base.state_dict().items())

    def test_all_linear_layers_by_default(self, make_model):
        names = {name.rsplit(".lora_A")[0] for name in make_model(lora=LORA).state_dict() if ".lora_A." in name}
        layer = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
        layer += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        assert names == {f"decoder.lm.model.layers.{i}.{module}" for i in range(2) for module in layer}

    @every_decoder
    def test_new_layers_change_nothing(self, make_model, tiny_config, decoder):
        plain = make_model(decoder, **RECORDS)
        lora = DiffLMModel.from_encoder_decoder_pretrained(
            plain.config.base_model.replace("base", "encoder"), plain.config.base_model, latent_size=3, lora=LORA
        )
        lora.decoder.injection = plain.decoder.injection
        for model in plain, lora:
            model.config.position_ranges = None
        assert torch.equal(lora.decoder(IDS, latents=LATENTS).logits, plain.decoder(IDS, latents=LATENTS).logits)
        # Nor does a model that is made of parts of another.
        again = DiffLMModel(lora.config, lora.encoder, lora.decoder.lm)
        assert again.decoder.lm is lora.decoder.lm

    def test_biases_and_adapters_of_other_layers(self, make_model):
        model = make_model(lora={**LORA, "lora_bias": True})
        layer = model.decoder.lm.model.layers[0].mlp.down_proj
        nn.init.ones_(layer.lora_B["default"].bias)
        x = torch.randn(2, 5, layer.in_features, generator=seeded())
        assert torch.equal(layer(x), type(layer).forward(layer, x))
        model = make_model(lora=LORA)
        lm = model.decoder.lm
        lm.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]), "other")
        lm.set_adapter("other")
        layer = lm.model.layers[0].mlp.down_proj
        assert torch.equal(layer(x), layer.base_layer(x))

    @pytest.mark.parametrize("is_mixed", [False, True])
    def test_layers_compute_what_those_of_peft_do(self, make_model, is_mixed):
        model = make_model(lora=LORA)
        layer = model.decoder.lm.model.layers[0].mlp.down_proj
        found = []
        for forward in (layer.forward, lambda x: type(layer).forward(layer, x)):
            x = torch.randn(2, 5, layer.in_features, generator=seeded(), requires_grad=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
                output = forward(x)
            output.float().square().sum().backward()
            found.append((output, x.grad, *(layer.get_parameter(f"lora_{part}.default.weight").grad for part in "AB")))
            layer.zero_grad()
        tolerance = {"rtol": 0.05, "atol": 0.05} if is_mixed else {}
        for ours, theirs in zip(*found):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, **tolerance)

    @every_decoder
    def test_they_write_and_do_not_read(self, save, tiny_config, decoder):
        base = save(tiny_config(decoder), "base")
        model = DiffLMModel.from_encoder_decoder_pretrained(None, base, latent_size=3, lora=LORA)
        mean, logvar = model.encode(IDS)
        nll = model.decoder.negative_log_likelihood(IDS, LATENTS)
        lora = [parameter for name, parameter in model.named_parameters() if is_lora(name)]
        for index, parameter in enumerate(lora):
            nn.init.normal_(parameter, std=0.2, generator=seeded(2))
            parameter.requires_grad_(index % 3 == 0)
        before = [parameter.requires_grad for parameter in lora]
        for state, expected in zip(model.encode(IDS), (mean, logvar)):
            assert torch.equal(state, expected)
        assert not torch.allclose(model.decoder.negative_log_likelihood(IDS, LATENTS), nll)
        assert [parameter.requires_grad for parameter in lora] == before

    @every_injection
    def test_losses_and_records(self, make_model, injection):
        model = make_model(injection=injection, lora=LORA).decoder
        log_probs = model(IDS, latents=LATENTS).logits[:, :-1].log_softmax(-1)
        expected = -log_probs.gather(-1, IDS[:, 1:, None]).sum((1, 2))
        torch.testing.assert_close(model.negative_log_likelihood(IDS, LATENTS), expected)
        uniforms = torch.rand(3, 8)
        records = model.sample_records(LATENTS, uniforms, temperature=0)
        greedy = {"latents": LATENTS, "do_sample": False, "max_new_tokens": 8}
        assert torch.equal(records, model.generate(**greedy))
        assert torch.equal(records, model.generate(**greedy, use_cache=False))
        # The body of the LM alone, then some of the head's rows: all of them
        model.config.position_ranges, model.config.num_texts, model.config.max_record_length = [(0, 50)], 1, 9
        torch.testing.assert_close(model.negative_log_likelihood(IDS, LATENTS), expected)
        assert torch.equal(model.sample_records(LATENTS, uniforms, temperature=0), records)
        model.lm.disable_adapters()
        assert not torch.allclose(model.negative_log_likelihood(IDS, LATENTS), expected, atol=0.1)

    @every_decoder
    def test_checkpoints(self, make_model, tmp_path, decoder):
        model = make_model(decoder, lora={**LORA, "lora_dropout": 0.5}, **RECORDS)
        model.save_pretrained(tmp_path / "model")
        own = {name for name in model.state_dict() if is_lora(name) or not name.startswith("decoder.lm.")}
        assert tensor_names(tmp_path / "model") == own and any(map(is_lora, own))
        config = config_of(tmp_path / "model")
        assert config["base_model"] == str(tmp_path / "base")
        assert config["lora"] == {"r": 2, "lora_alpha": 4, "lora_dropout": 0.5, "target_modules": "all-linear"}

        for cls in DiffLMModel, AutoModel:
            loaded, info = cls.from_pretrained(tmp_path / "model", output_loading_info=True)
            assert not any(info.values())
            assert_same(loaded, model)
        loaded.save_pretrained(tmp_path / "again")
        for name in "config.json", "model.safetensors":
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()

        model.decoder.save_pretrained(tmp_path / "decoder")
        for folder in "model", "decoder":
            assert_same(DiffLMForCausalLM.from_pretrained(tmp_path / folder), model.decoder)
        moved = (tmp_path / "base").rename(tmp_path / "moved")
        assert_same(DiffLMModel.from_pretrained(tmp_path / "model", base_model=moved), model)

    @pytest.mark.slow
    @every_decoder
    def test_merging(self, make_model, tmp_path, decoder):
        model = make_model(decoder, lora=LORA, **RECORDS)
        model.save_pretrained(tmp_path / "model")
        DiffLMModel.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "merged", include_base_weights=True)
        shutil.rmtree(tmp_path / "base")
        assert config_of(tmp_path / "merged")["base_model"] is None
        loaded, info = DiffLMModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
        assert not any(info.values())
        assert_same(loaded, model)
        assert_same(DiffLMForCausalLM.from_pretrained(tmp_path / "merged"), model.decoder)

    def test_beside_a_bfloat16_base(self, make_model, tmp_path):
        model = make_model(dtype=torch.bfloat16, lora=LORA, **RECORDS)
        for name, parameter in model.named_parameters():
            is_base = name.startswith("decoder.lm.") and not is_lora(name)
            assert parameter.dtype == (torch.bfloat16 if is_base else torch.float32), name
        assert all(grad.dtype == torch.float32 for grad in gradients(model).values())
        model.save_pretrained(tmp_path / "model")
        assert_same(DiffLMModel.from_pretrained(tmp_path / "model"), model.eval())
        in_float32 = DiffLMModel.from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert {parameter.dtype for parameter in in_float32.parameters()} == {torch.float32}
        in_bfloat16 = DiffLMModel.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in in_bfloat16.parameters()} == {torch.bfloat16}

    @pytest.mark.parametrize(
        "device_map",
        [
            "cpu",
            {"": "cpu"},
            {"encoder": "cpu", "to_posterior": "cpu", "decoder.injection": "cpu", "decoder.lm": "cpu"},
            {
                **{"encoder": "cpu", "to_posterior": "cpu", "decoder.injection": "cpu"},
                **{"decoder.lm.model": "cpu", "decoder.lm.lm_head": "cpu"},
            },
        ],
        ids=str,
    )
    def test_device_map(self, make_model, tmp_path, device_map):
        model = make_model(lora=LORA, **RECORDS)
        model.save_pretrained(tmp_path / "model")
        assert_same(DiffLMModel.from_pretrained(tmp_path / "model", device_map=device_map), model)

    def test_offloaded_base(self, make_model, tmp_path):
        make_model(lora=LORA).save_pretrained(tmp_path / "model")
        device_map = {"": "cpu", "decoder.lm": "disk"}
        with pytest.raises(
            ValueError, match="device_map={.*'disk'} offloads parts of .*base, .*put all of it on devices"
        ):
            DiffLMModel.from_pretrained(
                tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offloaded"
            )

    @pytest.mark.parametrize("use_dora", [False, True])
    @every_decoder
    def test_parameters_are_those_of_peft(self, tiny_config, decoder, use_dora):
        lm = AutoModelForCausalLM.from_config(tiny_config(decoder))
        # Of the LM's own, one with a name such as peft gives
        lm.base_model.lora_own = nn.ModuleDict({"default": nn.Linear(2, 2)})
        own = {id(parameter) for parameter in lm.parameters()}
        assert lora_parameters(lm) == {}
        add_lora(lm, {**LORA, "use_dora": use_dora})
        added = {name: parameter for name, parameter in lm.named_parameters() if id(parameter) not in own}
        assert lora_parameters(lm) == added
        kinds = {".".join(name.split(".")[-3:]) for name in added}
        magnitudes = {"lora_magnitude_vector.default.weight"} if use_dora else set()
        assert kinds == {"lora_A.default.weight", "lora_B.default.weight"} | magnitudes
        model = DiffLMForCausalLM(DiffLMConfig(decoder_config=lm.config, freeze_decoder=True, lora=LORA), lm)
        trained = {name for name, parameter in model.lm.named_parameters() if parameter.requires_grad}
        assert trained == added.keys()

    def test_config(self, make_model):
        lora = LoraConfig(r=3, target_modules=["v_proj", "q_proj"], use_rslora=True, base_model_name_or_path="/here")
        model = make_model(lora=lora)
        fields = {"r": 3, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
        assert model.config.lora == {**fields, "use_rslora": True}
        assert {name.split(".")[-4] for name in model.state_dict() if is_lora(name)} == {"q_proj", "v_proj"}
        assert json.loads(model.config.to_json_string())["lora"] == model.config.lora
        assert DiffLMConfig().lora is None

    def test_without_a_base(self, tiny_model, tmp_path):
        model = tiny_model(freeze_decoder=True, lora={"r": 2}, **RECORDS)
        model.save_pretrained(tmp_path)
        assert any(map(is_lora, tensor_names(tmp_path)))
        assert_same(DiffLMModel.from_pretrained(tmp_path), model)

    @pytest.mark.parametrize(
        "fields, error, message",
        [
            ({"rank": 2}, TypeError, "rank"),
            ({"init_lora_weights": "pissa"}, ValueError, "init_lora_weights='pissa' changes the base model"),
            (
                {"modules_to_save": ["norm"]},
                ValueError,
                "would train .*norm.modules_to_save.default.weight as well",
            ),
            ({"target_modules": ["q_proj", "lm_head"]}, ValueError, "is for the embeddings or the head as well"),
            ({"target_modules": ["embed_tokens"]}, ValueError, "is for the embeddings or the head as well"),
        ],
    )
    def test_refused(self, make_model, fields, error, message):
        with pytest.raises(error, match=message):
            make_model(lora=fields)

    def test_bias_is_refused(self, make_model):
        with pytest.raises(ValueError, match="would train transformer.h.0.*bias as well, .* LoRA layers alone"):
            make_model("gpt2", lora={"bias": "all"})

    def test_decoder_that_is_not_frozen(self, make_model, tmp_path):
        with pytest.raises(ValueError, match="lora is for a frozen causal LM; leave it out, or set freeze_decoder"):
            make_model(lora=LORA, freeze_decoder=False)
        make_model(lora=LORA).save_pretrained(tmp_path / "model")
        with pytest.raises(ValueError, match="is for a frozen causal LM; set freeze_decoder=True, or lora=None"):
            DiffLMModel.from_pretrained(tmp_path / "model", freeze_decoder=False)

    @pytest.mark.parametrize("include_base_weights", [False, True])
    def test_missing_weights(self, make_model, tmp_path, include_base_weights):
        make_model(lora=LORA).save_pretrained(tmp_path / "model", include_base_weights=include_base_weights)
        weights = load_file(tmp_path / "model" / "model.safetensors")
        lacking = {name: weight for name, weight in weights.items() if ".1.mlp.up_proj.lora_B" not in name}
        save_file(lacking, tmp_path / "model" / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="has no weights of decoder.lm.model.layers.1.mlp.up_proj.lora_B"):
            DiffLMModel.from_pretrained(tmp_path / "model")


class TestGradientCheckpointing:
    @pytest.mark.parametrize("injection", ["soft_prompt", "prefix_soft_prompt", "input_embed"])
    @pytest.mark.parametrize(
        "fields",
        [{}, {"lora": {**LORA, "lora_dropout": 0.3}}, {"freeze_decoder": False}],
        ids=["frozen", "lora", "full"],
    )
    def test_gradients(self, make_model, injection, fields):
        plain, checkpointed = (make_model(injection=injection, **fields) for _ in range(2))
        checkpointed.activation_checkpointing_enable({"use_reentrant": False})
        for model in plain, checkpointed:
            gradients(model)  # looks at the head once, and never again
            model.zero_grad()
        calls = []
        for layer in checkpointed.encoder.encoder.layer[0].attention, checkpointed.decoder.lm.model.layers[0].mlp:
            layer.register_forward_pre_hook(lambda module, _: calls.append(type(module).__name__))
        expected = gradients(plain)
        assert any(name.startswith("encoder.") for name in expected)
        torch.testing.assert_close(gradients(checkpointed), expected, rtol=0, atol=0)
        # Once in the forward pass, once more in the backward pass
        assert sorted(calls) == ["BertAttention"] * 2 + ["LlamaMLP"] * 2

    def test_kv_memory(self, make_model):
        model = make_model(injection="kv_memory", lora=LORA)
        for enable in model.gradient_checkpointing_enable, model.decoder.activation_checkpointing_enable:
            with pytest.raises(ValueError, match="injection='kv_memory' does not .* take another injection"):
                enable()

    def test_a_full_decoder_is_saved_whole(self, make_model, tmp_path):
        model = make_model(freeze_decoder=False, **RECORDS)
        model.activation_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        gradients(model)
        optimizer.step()
        model.save_pretrained(tmp_path / "model")
        shutil.rmtree(tmp_path / "base")
        loaded = DiffLMModel.from_pretrained(tmp_path / "model")
        assert_same(loaded, model.eval())
        assert all(p.requires_grad for p in loaded.parameters())
        assert not any(torch.equal(p, before[n]) for n, p in loaded.named_parameters() if n.startswith("decoder.lm."))


class TestLoading:
    @pytest.mark.parametrize("freeze_decoder", [True, False])
    def test_dtype(self, make_model, freeze_decoder):
        model = make_model(freeze_decoder=freeze_decoder).decoder.lm
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        for dtype in torch.bfloat16, "bfloat16":
            model = make_model(freeze_decoder=freeze_decoder).from_encoder_decoder_pretrained(
                None, model.name_or_path, freeze_decoder, dtype=dtype
            )
            assert {p.dtype for p in model.decoder.lm.parameters()} == {torch.bfloat16}
            assert {p.dtype for p in model.to_posterior.parameters()} == {torch.float32}
            model = model.decoder.lm

    def test_attn_implementation(self, make_model, save, tiny_config):
        model = make_model()
        folder = model.config.base_model
        eager = DiffLMModel.from_encoder_decoder_pretrained(
            folder.replace("base", "encoder"), folder, attn_implementation="eager", latent_size=3
        )
        assert eager.decoder.lm.config._attn_implementation == "eager"
        assert (eager.encoder.config._attn_implementation, model.decoder.lm.config._attn_implementation) == (
            ("sdpa",) * 2
        )
        logits = [m.decoder.lm(IDS, output_attentions=m is eager) for m in (model, eager)]
        torch.testing.assert_close(logits[0].logits, logits[1].logits, rtol=0, atol=1e-4)
        assert logits[1].attentions[0].shape == (3, 4, 9, 9)


BITS = {"8 bits": {"load_in_8bit": True}, "4 bits": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantization_without_bitsandbytes(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ImportError, match="pip install -U bitsandbytes"):
        make_model(quantization_config=config)
    with pytest.raises(ImportError, match="pip install -U bitsandbytes"):
        DiffLMModel.from_pretrained(tmp_path / "model", quantization_config=config)


def test_quantization_of_what_has_no_base(make_model, tmp_path):
    config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ValueError, match="quantization_config is for a frozen causal LM"):
        make_model(freeze_decoder=False, quantization_config=config)
    make_model().save_pretrained(tmp_path / "merged", include_base_weights=True)
    with pytest.raises(ValueError, match="merged holds its own LM.*; leave quantization_config out"):
        DiffLMModel.from_pretrained(tmp_path / "merged", quantization_config=config)


@pytest.mark.parametrize("lora", [None, LORA], ids=["frozen", "lora"])
@pytest.mark.parametrize("bits", BITS)
def test_quantization(make_model, tmp_path, bits, lora):
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(**BITS[bits])
    model = make_model(lora=lora, quantization_config=config, **RECORDS)
    for _ in range(2):  # Training and sampling take turns.
        model.zero_grad()
        grads = gradients(model)
        assert any(map(is_lora, grads)) == (lora is not None) and "to_posterior.to_mean.weight" in grads
        assert all(g.isfinite().all() and g.any() for g in grads.values())
        records = model.eval().decoder.sample_records(LATENTS, torch.rand(3, 11))
        assert ((records >= 0) & (records < 50)).all()
    model.save_pretrained(tmp_path / "model")
    own = {name for name in model.state_dict() if is_lora(name) or not name.startswith("decoder.lm.")}
    assert tensor_names(tmp_path / "model") == own
    assert "quantization_config" not in (tmp_path / "model" / "config.json").read_text()

    plain = DiffLMModel.from_pretrained(tmp_path / "model")
    quantized = DiffLMModel.from_pretrained(tmp_path / "model", quantization_config=config)
    with torch.no_grad():
        logits, again, exact = (m.decoder(IDS, latents=LATENTS).logits for m in (model, quantized, plain))
    torch.testing.assert_close(again, logits)
    assert 0 < (logits - exact).abs().mean() < exact.std()
    with pytest.raises(ValueError, match="the base model is quantized.*; load this model without quantization_config"):
        model.save_pretrained(tmp_path / "merged", include_base_weights=True)


class TestEncoders:
    @pytest.fixture
    def make_encoder(self, tiny_config, save):
        """Saves a new encoder; returns its folder."""

        def make(model_type):
            if model_type in ("mpnet", "electra"):
                bert = tiny_config("bert").to_dict()
                del bert["model_type"]
                return save(AutoConfig.for_model(model_type, **bert), model_type, AutoModel)
            return save(tiny_config(model_type), model_type, AutoModel)

        return make

    @pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra", "mpnet", "llama", "t5"])
    def test_training(self, make_encoder, make_model, model_type):
        folder = make_encoder(model_type)
        if model_type == "mpnet":  # as sentence-transformers saves it
            pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
            (folder / "1_Pooling").mkdir()
            (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
            modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
            (folder / "modules.json").write_text(
                json.dumps(
                    [
                        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                        for i, (path, kind) in enumerate(modules)
                    ]
                )
            )
        model = DiffLMModel.from_encoder_decoder_pretrained(folder, make_model().config.base_model, latent_size=3)
        saved = AutoModel.from_pretrained(folder).state_dict()
        loaded = {name: weight.clone() for name, weight in model.encoder.state_dict().items()}
        assert all(torch.equal(weight, saved.get(n, saved.get(f"encoder.{n}"))) for n, weight in loaded.items())

        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        grads = gradients(model)
        optimizer.step()
        for name, parameter in model.encoder.named_parameters():
            assert grads[f"encoder.{name}"].any() and not torch.equal(parameter, loaded[name]), name

        # What is in the padding does not matter.
        model.eval()
        posterior = torch.cat(model.encode(IDS))
        mask = nn.functional.pad(torch.ones_like(IDS), (0, 4))
        for padding in 0, 7:
            padded = nn.functional.pad(IDS, (0, 4), value=padding)
            torch.testing.assert_close(torch.cat(model.encode(padded, mask)), posterior, rtol=0, atol=1e-4)
