import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import SIZES
from safetensors.torch import load_file
from torch import nn
from torch.distributions import Normal, kl_divergence
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CompileConfig,
    DynamicCache,
    StaticCache,
    T5EncoderModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from difflm_hf import likelihood
from difflm_hf.configuration_difflm import DiffLMConfig, document_initializer_range
from difflm_hf.injection import layer_devices
from difflm_hf.likelihood import choice_nll
from difflm_hf.modeling_difflm import DiffLMModel
from difflm_hf.modeling_latent_lm import DiffLMForCausalLM
from difflm_hf.posterior import MovingStandardization
from difflm_hf.records.grammar import ChoiceSets


DECODERS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma", "gemma2", "gemma3_text", "running_sum"]
INJECTIONS = ["soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embed"]
ENCODERS = {
    "albert": "AlbertModel",
    "bert": "BertModel",
    "distilbert": "DistilBertModel",
    "roberta": "RobertaModel",
} | {
    "albert": "AlbertModel",
    "llama": "LlamaModel",
    "t5": "T5Stack",
}
PAD, BOS, EOS = 0, 1, 2
# Three fields, one of which has a single value, and two texts.
RANGES = [(20, 25), (25, 40), (40, 41), (2, 18)]
EXACT = {"rtol": 0, "atol": 1e-4}

every_injection = pytest.mark.parametrize("injection", INJECTIONS)


def covering_array(index: int):
    """Every decoder with one injection, another one in each of four tests by their index: every pair is in a test.

    The pairs that this leaves out of a test are slow.
    """
    return pytest.mark.parametrize(
        ("decoder", "injection"),
        [
            pytest.param(decoder, injection, marks=[] if (row + column + index) % 4 == 0 else pytest.mark.slow)
            for row, decoder in enumerate(DECODERS)
            for column, injection in enumerate(INJECTIONS)
        ],
    )


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def ids():
    return torch.cat([torch.full((3, 1), BOS), torch.randint(3, 50, (3, 8))], dim=1)


@pytest.fixture
def latents():
    return torch.randn(3, 3)


@pytest.fixture
def record_model(tiny_model):
    """A model of records with `RANGES`."""

    def make(**fields):
        fields = {"position_ranges": RANGES, "num_texts": 2, "max_record_length": 14, **fields}
        return tiny_model(**fields)

    return make


def pad_left(ids, lengths):
    """The rows of `ids`, cut to `lengths` and padded on the left, and their mask."""
    rows = [row[:length] for row, length in zip(ids, lengths)]
    padded = torch.stack([nn.functional.pad(row, (ids.shape[1] - len(row), 0), value=PAD) for row in rows])
    return padded, (padded != PAD).long()


def greedy(decoder, latents, num_tokens=8, **kwargs):
    return decoder.generate(
        latents=latents, do_sample=False, min_new_tokens=num_tokens, max_new_tokens=num_tokens, **kwargs
    )


def assert_same_weights(model, other):
    weights, others = model.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert weight.dtype == others[name].dtype and torch.equal(weight, others[name]), name


class TestArchitectures:
    """Every causal LM, with every injection."""

    @covering_array(0)
    def test_training(self, tiny_model, ids, decoder, injection):
        model = tiny_model(decoder, injection=injection, posterior="standardized").train()
        model.to_posterior.standardization.eval()  # whose moments would move

        def loss():
            torch.manual_seed(1)
            return model(ids).loss

        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        before = loss()
        before.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name
        optimizer.step()
        assert loss() < before

    @covering_array(1)
    def test_logits(self, tiny_model, ids, latents, decoder, injection):
        model = tiny_model(decoder, injection=injection).decoder
        logits = model(ids, latents=latents).logits
        assert logits.shape == (3, 9, 50)
        assert (logits - model(ids, latents=-latents).logits).abs().max() > 0.01

        # one row at a time
        rows = [model(ids[i : i + 1], latents=latents[i : i + 1]).logits for i in range(3)]
        torch.testing.assert_close(torch.cat(rows), logits, **EXACT)

        # one token at a time, after the first three
        outputs = model(ids[:, :3], latents=latents, use_cache=True)
        steps = [outputs.logits]
        for i in range(3, 9):
            outputs = model(
                ids[:, i : i + 1],
                latents=latents if injection == "input_embed" else None,
                past_key_values=outputs.past_key_values,
                use_cache=True,
            )
            steps.append(outputs.logits)
        torch.testing.assert_close(torch.cat(steps, dim=1), logits, **EXACT)

    @covering_array(2)
    def test_left_padding(self, tiny_model, ids, latents, decoder, injection):
        model = tiny_model(decoder, injection=injection).decoder
        lengths = [5, 9, 2]
        padded, mask = pad_left(ids, lengths)
        logits = model(padded, attention_mask=mask, latents=latents).logits
        generated = greedy(model, latents, inputs=padded, attention_mask=mask)
        static = greedy(model, latents, inputs=padded, attention_mask=mask, cache_implementation="static")
        for i, length in enumerate(lengths):
            row, z = ids[i : i + 1, :length], latents[i : i + 1]
            torch.testing.assert_close(logits[i : i + 1, -length:], model(row, latents=z).logits, **EXACT)
            assert torch.equal(generated[i, 9 - length :], greedy(model, z, inputs=row)[0])
        assert torch.equal(generated, static)

    @covering_array(3)
    def test_generate(self, tiny_model, latents, decoder, injection):
        model = tiny_model(decoder, injection=injection).decoder
        generated = greedy(model, latents)
        assert generated.shape == (3, 9)
        assert (generated[:, 0] == BOS).all()
        assert torch.equal(generated, greedy(model, latents, use_cache=False))
        assert torch.equal(generated, greedy(model, latents, cache_implementation="static"))
        steps = {"output_logits": True, "return_dict_in_generate": True}
        mine, other = (torch.stack(greedy(model, z, **steps).logits) for z in (latents, latents.flip(0)))
        assert not torch.allclose(mine, other)

        # what is most likely under the model's own logits
        logits = model(generated, latents=latents).logits[:, :-1]
        logits[..., EOS] = -math.inf
        assert torch.equal(logits.argmax(-1), generated[:, 1:])

    @covering_array(4)
    def test_sampling_and_beam_search(self, tiny_model, latents, decoder, injection):
        model = tiny_model(decoder, injection=injection).decoder
        lengths = {"min_new_tokens": 5, "max_new_tokens": 5}
        sampled = model.generate(latents=latents, do_sample=True, num_return_sequences=4, **lengths)
        assert sampled.shape == (12, 6) and len(sampled.unique(dim=0)) > 6
        beams = model.generate(latents=latents, num_beams=3, num_return_sequences=2, **lengths)
        assert beams.shape == (6, 6)
        alone = model.generate(latents=latents[1:2], num_beams=3, num_return_sequences=2, **lengths)
        assert torch.equal(beams[2:4], alone)
        assert torch.equal(beams, model.generate(latents=latents, num_beams=3, num_return_sequences=2, **lengths))

    @covering_array(5)
    def test_negative_log_likelihood(self, tiny_model, ids, latents, decoder, injection):
        model = tiny_model(decoder, injection=injection).decoder
        nll = model.negative_log_likelihood(ids, latents)
        log_probs = model(ids, latents=latents).logits[:, :-1].log_softmax(-1)
        expected = -log_probs.gather(-1, ids[:, 1:, None]).sum((1, 2))
        torch.testing.assert_close(nll, expected, **EXACT)

        padded = nn.functional.pad(ids, (0, 4), value=PAD)
        mask = (padded != PAD).long()
        torch.testing.assert_close(model.negative_log_likelihood(padded, latents, mask), nll, **EXACT)

    @covering_array(6)
    def test_save_and_load(self, tiny_model, tmp_path, ids, latents, decoder, injection):
        model = tiny_model(decoder, injection=injection, position_ranges=[(3, 50)], num_texts=1)
        model.save_pretrained(tmp_path / "model")
        model.decoder.save_pretrained(tmp_path / "decoder")
        assert (tmp_path / "model" / "model.safetensors").is_file()

        config = AutoConfig.from_pretrained(tmp_path / "model")
        assert isinstance(config, DiffLMConfig)
        assert (config.injection, config.position_ranges) == (injection, [(3, 50)])
        assert config.decoder_config.model_type == model.config.decoder_config.model_type
        for loaded in DiffLMModel.from_pretrained(tmp_path / "model"), AutoModel.from_pretrained(tmp_path / "model"):
            assert type(loaded) is DiffLMModel
            assert_same_weights(loaded, model)
            assert torch.equal(loaded.encode(ids)[0], model.encode(ids)[0])

        logits = model.decoder(ids, latents=latents).logits
        is_tied = model.decoder.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight
        assert is_tied == (decoder in ("gpt2", "gemma", "gemma2", "gemma3_text"))
        for cls in DiffLMForCausalLM, AutoModelForCausalLM:
            loaded = cls.from_pretrained(tmp_path / "decoder")
            assert type(loaded) is DiffLMForCausalLM
            assert_same_weights(loaded, model.decoder)
            assert torch.equal(loaded(ids, latents=latents).logits, logits)
            assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == is_tied


class TestForCausalLM:
    @every_injection
    @pytest.mark.parametrize("decoder", ["mistral", "gemma2", "gemma3_text"])
    def test_sliding_window_shorter_than_a_record(self, tiny_difflm_config, ids, latents, decoder, injection):
        config = tiny_difflm_config(decoder, injection=injection)
        config.decoder_config.sliding_window = 6
        model = DiffLMForCausalLM(config).eval()
        logits = model(ids, latents=latents).logits
        start = model(ids[:, :4], latents=latents, use_cache=True)
        rest = model(
            ids[:, 4:],
            latents=latents if injection == "input_embed" else None,
            past_key_values=start.past_key_values,
        )
        torch.testing.assert_close(torch.cat([start.logits, rest.logits], dim=1), logits, **EXACT)
        generated = greedy(model, latents, inputs=ids)
        assert torch.equal(generated, greedy(model, latents, inputs=ids, use_cache=False))
        assert torch.equal(generated, greedy(model, latents, inputs=ids, cache_implementation="static"))

    @every_injection
    def test_chunked_prefill_and_prompt_lookup(self, tiny_model, ids, latents, injection):
        model = tiny_model(injection=injection).decoder
        generated = greedy(model, latents, inputs=ids)
        for cache in None, "static":
            chunked = greedy(model, latents, inputs=ids, prefill_chunk_size=4, cache_implementation=cache)
            assert torch.equal(chunked, generated)
        looked_up = greedy(model, latents[:1], inputs=ids[:1], prompt_lookup_num_tokens=2)
        assert torch.equal(looked_up, generated[:1])

    @every_injection
    def test_going_on_from_a_cache(self, tiny_model, ids, latents, injection):
        model = tiny_model(injection=injection).decoder
        for cache in DynamicCache(config=model.lm.config), StaticCache(config=model.lm.config, max_cache_len=32):
            begun = greedy(model, latents, 3, inputs=ids[:, :4], past_key_values=cache)
            prompt = torch.cat([begun, ids[:, 4:]], dim=1)
            # What it has begun may have the padding's id, which `generate` would leave out.
            inputs = {"inputs": prompt, "attention_mask": torch.ones_like(prompt)}
            continued = greedy(model, latents, **inputs, past_key_values=cache)
            assert torch.equal(continued, greedy(model, latents, **inputs))

    @every_injection
    def test_logits_to_keep(self, tiny_model, ids, latents, injection):
        model = tiny_model(injection=injection).decoder
        logits = model(ids, latents=latents).logits
        for keep, kept in (1, slice(-1, None)), (9, slice(None)), (20, slice(None)), (torch.tensor([0, 4]), [0, 4]):
            part = model(ids, latents=latents, logits_to_keep=keep).logits
            torch.testing.assert_close(part, logits[:, kept], **EXACT)

    @every_injection
    def test_embeddings_in_place_of_ids(self, tiny_model, ids, latents, injection):
        model = tiny_model(injection=injection).decoder
        embeddings = model.get_input_embeddings()(ids)
        logits = model(inputs_embeds=embeddings, latents=latents).logits
        assert torch.equal(logits, model(ids, latents=latents).logits)
        generated = greedy(model, latents, inputs_embeds=embeddings)
        assert torch.equal(generated, greedy(model, latents, inputs=ids)[:, 9:])

    @every_injection
    def test_attention_implementations_agree(self, tiny_model, ids, latents, injection):
        model = tiny_model(injection=injection).decoder
        padded, mask = pad_left(ids, [5, 9, 2])
        logits = model(padded, attention_mask=mask, latents=latents).logits[mask == 1]
        model.set_attn_implementation("eager")
        assert model.lm.config._attn_implementation == "eager"
        eager = model(padded, attention_mask=mask, latents=latents).logits[mask == 1]
        torch.testing.assert_close(eager, logits, **EXACT)

    def test_outputs(self, tiny_model, ids, latents):
        model = tiny_model().decoder
        labels = ids.masked_fill(ids == ids[0, 3], -100)
        outputs = model(ids, latents=latents, labels=labels, output_hidden_states=True)
        expected = nn.functional.cross_entropy(outputs.logits[:, :-1].transpose(1, 2), labels[:, 1:])
        torch.testing.assert_close(outputs.loss, expected)
        torch.testing.assert_close(
            model(ids, latents=latents, labels=labels, num_items_in_batch=4).loss,
            expected * (labels[:, 1:] >= 0).sum() / 4,
        )
        assert outputs.hidden_states[-1].shape == (3, 2 + 9, 32)
        assert outputs.past_key_values.get_seq_length() == 2 + 9
        loss, logits = model(ids, latents=latents, labels=labels, use_cache=False, return_dict=False)
        assert torch.equal(loss, outputs.loss) and torch.equal(logits, outputs.logits)
        assert list(outputs)[0] == "loss"

    @every_injection
    def test_compile(self, tiny_model, ids, latents, injection):
        model = tiny_model(injection=injection).decoder
        # Without a C++ compiler, but traced as ever: one graph, or an error.
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        outputs = compiled(ids, latents=latents, use_cache=False)
        torch.testing.assert_close(outputs.logits, model(ids, latents=latents).logits, **EXACT)

    @pytest.mark.slow
    @every_injection
    def test_compile_in_generate(self, tiny_model, ids, latents, injection):
        model = tiny_model(injection=injection).decoder
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph

        compile_config = CompileConfig(backend=backend, fullgraph=True, mode=None)
        compile_config._compile_all_devices = True
        padded, mask = pad_left(ids, [5, 9, 2])
        inputs = {"inputs": padded, "attention_mask": mask}
        static = greedy(model, latents, **inputs, cache_implementation="static", compile_config=compile_config)
        assert torch.equal(static, greedy(model, latents, **inputs))
        assert len(graphs) == 1  # for all steps

    def test_resized_vocabulary(self, tiny_model, tmp_path, ids, latents):
        model = tiny_model("gpt2").decoder
        model.resize_token_embeddings(60)
        model.save_pretrained(tmp_path)
        loaded = DiffLMForCausalLM.from_pretrained(tmp_path)
        assert loaded.config.decoder_config.vocab_size == 60
        assert loaded(ids, latents=latents).logits.shape == (3, 9, 60)
        assert_same_weights(loaded, model)

    def test_bfloat16(self, tiny_model, tmp_path, ids, latents):
        tiny_model().decoder.to(torch.bfloat16).save_pretrained(tmp_path)
        model = DiffLMForCausalLM.from_pretrained(tmp_path)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert latents.dtype == torch.float32
        assert model(ids, latents=latents).logits.dtype == torch.bfloat16
        assert model.sample_records(latents, torch.rand(3, 5)).shape[0] == 3

    @every_injection
    def test_missing_latents(self, tiny_model, ids, injection):
        model = tiny_model(injection=injection).decoder
        for call in (
            lambda: model(ids),
            lambda: model(ids, past_key_values=DynamicCache(config=model.lm.config)),
            lambda: model.generate(ids, max_new_tokens=3),
            lambda: model.generate(ids, max_new_tokens=3, cache_implementation="static"),
            lambda: model.generate(ids, max_new_tokens=3, use_cache=False),
        ):
            with pytest.raises(ValueError, match="`latents` are missing"):
                call()

    @pytest.mark.parametrize("shape", [(3, 4), (2, 3), (1, 3), (3,), (3, 1, 3)])
    def test_latents_of_another_shape(self, tiny_model, ids, shape):
        with pytest.raises(ValueError, match="do not fit 3 sequences and latent_size=3"):
            tiny_model().decoder(ids, latents=torch.zeros(shape))

    def test_unknown_injection(self, tiny_model):
        with pytest.raises(ValueError, match="injection='telepathy' is not one of 'soft_prompt', 'prefix"):
            tiny_model(injection="telepathy")


class TestDevices:
    """Of an LM that is spread over devices; those of this machine are the CPU, and `meta`."""

    @pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "running_sum"])  # one, without weights
    def test_layers_are_found(self, tiny_model, decoder):
        lm = tiny_model(decoder).decoder.lm
        assert layer_devices(lm) == [torch.device("cpu")] * 2
        for layer in lm.base_model.get_submodule("h" if decoder == "gpt2" else "layers"):
            layer.to("meta")  # as offloading leaves it
        assert layer_devices(lm) == [None] * 2

    def test_memory_is_where_its_layer_is(self, tiny_model, ids, latents, monkeypatch):
        class Elsewhere(nn.Module):
            def parameters(self):
                yield SimpleNamespace(device=torch.device("meta"), is_meta=False)

        model = tiny_model(injection="kv_memory").decoder
        monkeypatch.setattr(
            model.lm, "forward", lambda past_key_values, **_: CausalLMOutputWithPast(None, ids, past_key_values)
        )
        model.lm.model.layers[1] = Elsewhere()
        for cache in None, DynamicCache(config=model.lm.config), StaticCache(model.lm.config, max_cache_len=16):
            layers = model(ids, latents=latents, past_key_values=cache).past_key_values.layers
            assert [layer.keys.device.type for layer in layers] == ["cpu", "meta"]
            assert [layer.values.device.type for layer in layers] == ["cpu", "meta"]


class TestModel:
    @pytest.mark.parametrize("encoder", ENCODERS)
    def test_encoders(self, tiny_model, tmp_path, ids, encoder):
        model = tiny_model(encoder=encoder)
        assert type(model.encoder).__name__ == ENCODERS[encoder]
        mean, logvar = model.encode(ids)
        assert mean.shape == logvar.shape == (3, 3)
        assert mean.dtype == torch.float32
        assert (mean[0] - mean[1]).abs().max() > 0.01

        outputs = model(ids)
        outputs.loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name

        model.save_pretrained(tmp_path)
        loaded, info = DiffLMModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert_same_weights(loaded, model)
        assert torch.equal(loaded.encode(ids)[0], mean)

    @pytest.mark.parametrize("encoder", ["albert", "bert", "roberta"])
    def test_poolers_are_left_out(self, tiny_model, tmp_path, ids, encoder):
        model = tiny_model(encoder=encoder)
        pooler = AutoModel.from_config(model.config.encoder_config).pooler
        assert not any("pooler" in name for name in model.state_dict())
        model.encoder.pooler = pooler
        model.save_pretrained(tmp_path)
        assert "encoder.pooler" in " ".join(load_file(tmp_path / "model.safetensors"))
        loaded, info = DiffLMModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert loaded.encoder.pooler is None
        assert torch.equal(loaded.encode(ids)[0], model.encode(ids)[0])

    def test_poolers_stay_that_an_encoder_needs(self, tiny_config, ids):
        encoder = AutoConfig.for_model("squeezebert", **SIZES, embedding_size=32)
        model = DiffLMModel(DiffLMConfig(encoder, tiny_config()))
        assert model.encode(ids)[0].shape == (3, 8)

    @pytest.mark.parametrize("encoder", ENCODERS)
    def test_padding_does_not_change_the_posterior(self, tiny_model, ids, encoder):
        model = tiny_model(encoder=encoder)
        without = torch.cat(model.encode(ids))
        padded = nn.functional.pad(ids, (0, 4), value=PAD)
        torch.testing.assert_close(torch.cat(model.encode(padded, (padded != PAD).long())), without, **EXACT)
        torch.testing.assert_close(torch.cat(model.encode(ids, torch.ones_like(ids))), without, **EXACT)

    def test_no_padding_needs_no_mask(self, tiny_model, ids):
        model, masks = tiny_model(), []
        model.encoder.register_forward_pre_hook(
            lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
        model.encode(ids)
        model.encode(ids, torch.ones_like(ids))
        assert masks[0] is None and masks[1] is not None

    def test_other_ids_for_the_decoder(self, tiny_model, ids):
        model = tiny_model()
        decoder_ids = nn.functional.pad(ids.flip(1), (0, 2), value=PAD)
        mask = (decoder_ids != PAD).long()
        outputs = model(ids, decoder_input_ids=decoder_ids, decoder_attention_mask=mask)
        nll = model.decoder.negative_log_likelihood(decoder_ids, outputs.latents, mask)
        torch.testing.assert_close(outputs.reconstruction_loss, nll.mean())
        torch.testing.assert_close(outputs.posterior_mean, model.encode(ids)[0])

    def test_loss(self, tiny_model, ids):
        model = tiny_model()
        torch.manual_seed(3)
        outputs = model(ids, beta=0.3)
        torch.manual_seed(3)
        mean, std = outputs.posterior_mean, (outputs.posterior_logvar / 2).exp()
        torch.testing.assert_close(outputs.latents, mean + std * torch.randn(3, 3))

        kl = kl_divergence(Normal(mean, std), Normal(0, 1))
        torch.testing.assert_close(outputs.kl_loss, kl.sum(1).mean())
        nll = model.decoder.negative_log_likelihood(ids, outputs.latents)
        torch.testing.assert_close(outputs.reconstruction_loss, nll.mean())
        torch.testing.assert_close(outputs.loss, nll.mean() + 0.3 * outputs.kl_loss)

        # half of the dimensions are above the threshold
        free_bits = kl.mean(0).median().item()
        torch.manual_seed(3)
        freed = model(ids, beta=0.3, free_bits=free_bits)
        expected = nll.mean() + 0.3 * sum(max(value, free_bits) for value in kl.mean(0).tolist())
        torch.testing.assert_close(freed.loss, expected)
        torch.testing.assert_close(freed.kl_loss, outputs.kl_loss)

    def test_free_bits_cost_and_teach_nothing(self, tiny_model, ids):
        model = tiny_model(posterior="standardized")
        loss = model(ids, beta=7.0, free_bits=100.0).loss
        torch.manual_seed(0)
        model.zero_grad()
        outputs = model(ids, beta=7.0, free_bits=100.0)
        (with_kl,) = torch.autograd.grad(outputs.loss, model.to_posterior.to_mean.weight, retain_graph=True)
        (without,) = torch.autograd.grad(outputs.reconstruction_loss, model.to_posterior.to_mean.weight)
        assert loss > 7 * 3 * 100
        torch.testing.assert_close(with_kl, without)

    @every_injection
    def test_autocast(self, tiny_model, ids, injection):
        model = tiny_model(injection=injection)
        torch.manual_seed(0)
        exact = model(ids)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(ids)
        outputs.loss.backward()
        assert outputs.loss.dtype == outputs.latents.dtype == torch.float32
        torch.testing.assert_close(outputs.loss, exact.loss, rtol=0.02, atol=0.0)
        assert model.decoder.injection.projection.weight.grad.any()

    @every_injection
    def test_bfloat16(self, tiny_model, ids, injection):
        outputs = tiny_model(injection=injection).to(torch.bfloat16)(ids)
        outputs.loss.backward()
        assert outputs.loss.dtype == torch.float32

    @pytest.mark.parametrize("injection", [name for name in INJECTIONS if name != "kv_memory"])
    def test_gradient_checkpointing(self, tiny_model, ids, injection):
        def gradients(model):
            torch.manual_seed(0)
            model.train()(ids).loss.backward()
            return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

        plain, checkpointed = tiny_model(injection=injection), tiny_model(injection=injection)
        checkpointed.activation_checkpointing_enable()
        torch.testing.assert_close(gradients(checkpointed), gradients(plain))

    def test_gradient_checkpointing_would_drop_a_memory(self, tiny_model):
        with pytest.raises(ValueError, match="does not support activation checkpointing"):
            tiny_model(injection="kv_memory").activation_checkpointing_enable()

    def test_copies(self, tiny_model, ids):
        model = tiny_model()
        assert torch.equal(copy.deepcopy(model).encode(ids)[0], model.encode(ids)[0])

    def test_default_config(self):
        config = DiffLMConfig()
        assert (config.encoder_config.model_type, config.decoder_config.model_type) == ("bert", "llama")
        assert config.get_text_config() is config.decoder_config
        again = DiffLMConfig.from_dict(config.to_dict())
        assert again.to_dict() == config.to_dict()

    def test_config_leaves_the_model_that_it_is_made_from_alone(self, tiny_config):
        lm = AutoModelForCausalLM.from_config(tiny_config())
        config = DiffLMConfig(decoder_config=lm.config)
        config.decoder_config.bos_token_id = 7
        assert (lm.config._attn_implementation, lm.config.bos_token_id) == ("sdpa", BOS)


class TestPretrained:
    @pytest.fixture
    def save(self, tiny_config, tmp_path):
        """Saves a new model of that type; returns it and its folder."""

        def make(model_type, auto_class=AutoModel, dtype=torch.float32, **fields):
            model = auto_class.from_config(tiny_config(model_type, **fields)).to(dtype).eval()
            model.save_pretrained(tmp_path / f"{model_type}-{auto_class.__name__}")
            return model, tmp_path / f"{model_type}-{auto_class.__name__}"

        return make

    @pytest.mark.parametrize("decoder_type", ["llama", "gpt2"])
    @pytest.mark.parametrize("encoder_type", ["bert", "t5", "llama"])
    def test_weights(self, save, encoder_type, decoder_type):
        encoder, encoder_folder = save(encoder_type)
        decoder, decoder_folder = save(decoder_type, AutoModelForCausalLM)
        model = DiffLMModel.from_encoder_decoder_pretrained(encoder_folder, decoder_folder, latent_size=5)
        encoder.pooler = None  # which nothing would read
        assert_same_weights(model.encoder, encoder.encoder if encoder_type == "t5" else encoder)
        assert_same_weights(model.decoder.lm, decoder)
        assert not model.training

        # attention is as causal as ever
        ids, latents = torch.randint(3, 50, (2, 6)), torch.randn(2, 5)
        begun = model.decoder(ids[:, :4], latents=latents).logits
        torch.testing.assert_close(model.decoder(ids, latents=latents).logits[:, :4], begun, **EXACT)
        assert model.decoder.lm.config._attn_implementation == "sdpa"

        assert (model.config.latent_size, model.config.freeze_decoder) == (5, True)
        assert model.config.decoder_config.model_type == decoder_type

    def test_weights_of_an_encoder_without_its_decoder(self, tiny_config, save, tmp_path):
        encoder = T5EncoderModel(tiny_config("t5"))
        encoder.save_pretrained(tmp_path / "encoder")
        model = DiffLMModel.from_encoder_decoder_pretrained(
            tmp_path / "encoder", save("llama", AutoModelForCausalLM)[1]
        )
        assert_same_weights(model.encoder, encoder.encoder)

    @pytest.mark.parametrize("decoder_type", ["llama", "gemma3_text", "gpt2"])
    def test_lm_that_encodes_too(self, save, tmp_path, ids, decoder_type):
        lm, folder = save(decoder_type, AutoModelForCausalLM)
        model = DiffLMModel.from_encoder_decoder_pretrained(None, folder)
        assert model.encoder is None and model.config.encoder_config is None
        model.save_pretrained(tmp_path / "model")
        mask = torch.ones_like(ids)
        mask[0, 3:] = 0
        for m in model, DiffLMModel.from_pretrained(tmp_path / "model"):
            m.train()(ids).loss.backward()
            assert m.to_posterior.to_mean.weight.grad.any()
            assert not any(parameter.grad is not None for parameter in m.decoder.lm.parameters())
            states = lm.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled = torch.stack([row[: m.sum()].mean(0) for row, m in zip(states, mask)])
            mean, logvar = m.eval().encode(ids, mask)
            torch.testing.assert_close(torch.cat([mean, logvar], 1), m.to_posterior(pooled), rtol=1e-4, atol=1e-4)

    def test_lm_from_scratch_learns_from_writing_alone(self, tiny_config, ids):
        config = DiffLMConfig(decoder_config=tiny_config("llama"), encode_with_decoder=True)
        model = DiffLMModel(config)
        sum(tensor.sum() for tensor in model.encode(ids)).backward()
        assert not any(parameter.grad is not None for parameter in model.decoder.parameters())
        model(ids).loss.backward()
        assert all(parameter.grad is not None for parameter in model.decoder.lm.parameters())

    def test_frozen_decoder(self, save, tmp_path, ids):
        model = DiffLMModel.from_encoder_decoder_pretrained(save("bert")[1], save("llama", AutoModelForCausalLM)[1])
        model.save_pretrained(tmp_path / "model")
        for trained in model, DiffLMModel.from_pretrained(tmp_path / "model"):
            before = copy.deepcopy(trained.state_dict())
            optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01, weight_decay=0.1)
            for _ in range(2):
                trained.train()(ids).loss.backward()
                optimizer.step()
            for name, parameter in trained.named_parameters():
                if name.startswith("decoder.lm."):
                    assert not parameter.requires_grad and parameter.grad is None, name
                    assert torch.equal(parameter, before[name]), name
                else:
                    assert not torch.equal(parameter, before[name]), name

    def test_decoder_that_is_trained(self, save, ids):
        model = DiffLMModel.from_encoder_decoder_pretrained(
            save("bert")[1], save("gpt2", AutoModelForCausalLM)[1], freeze_decoder=False
        )
        model(ids).loss.backward()
        assert all(parameter.grad.any() for parameter in model.decoder.lm.parameters())

    @pytest.mark.parametrize("freeze_decoder", [True, False])
    def test_dtypes(self, save, tmp_path, ids, freeze_decoder):
        model = DiffLMModel.from_encoder_decoder_pretrained(
            save("bert", dtype=torch.bfloat16)[1],
            save("llama", AutoModelForCausalLM, dtype=torch.bfloat16)[1],
            freeze_decoder=freeze_decoder,
        )
        lm_dtype = torch.bfloat16 if freeze_decoder else torch.float32
        for name, parameter in model.named_parameters():
            assert parameter.dtype == (lm_dtype if name.startswith("decoder.lm.") else torch.float32), name
        model(ids).loss.backward()
        model.save_pretrained(tmp_path / "model")
        assert_same_weights(DiffLMModel.from_pretrained(tmp_path / "model"), model)
        loaded = DiffLMModel.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
        assert_same_weights(loaded, model.to(torch.bfloat16))

    def test_paths_are_kept_and_not_saved(self, save, tmp_path):
        folders = save("bert")[1], save("llama", AutoModelForCausalLM)[1]
        model = DiffLMModel.from_encoder_decoder_pretrained(*folders, freeze_decoder=False)
        model.save_pretrained(tmp_path / "one")
        assert (model.encoder.name_or_path, model.decoder.lm.name_or_path) == tuple(map(str, folders))
        assert model.config.decoder_config.name_or_path == str(folders[1])
        loaded = DiffLMModel.from_pretrained(tmp_path / "one")
        loaded.save_pretrained(tmp_path / "two")
        assert loaded.name_or_path == loaded.config.name_or_path == str(tmp_path / "one")
        for file in (*tmp_path.glob("one/*.json"), *tmp_path.glob("two/*.json")):
            assert str(tmp_path) not in file.read_text()
        assert (tmp_path / "one" / "config.json").read_text() == (tmp_path / "two" / "config.json").read_text()

    def test_special_ids(self, save, tmp_path):
        encoder, decoder = save("bert")[1], save("llama", AutoModelForCausalLM)[1]
        model = DiffLMModel.from_encoder_decoder_pretrained(encoder, decoder, bos_token_id=7, eos_token_id=9)
        model.save_pretrained(tmp_path / "model")
        for m in model, DiffLMModel.from_pretrained(tmp_path / "model"):
            generated = m.decoder.sample_records(torch.randn(64, 8), torch.rand(64, 20))
            assert (generated[:, 0] == 7).all()
            after_eos = ((generated == 9).cumsum(1) - (generated == 9).long()) > 0
            assert after_eos.any() and (generated[after_eos] == PAD).all()

    def test_sampling_habits_of_a_chat_model_are_left_behind(self, save):
        lm, folder = save("llama", AutoModelForCausalLM)
        lm.generation_config.update(do_sample=True, temperature=0.1, top_k=1, repetition_penalty=5.0)
        lm.save_pretrained(folder)
        model = DiffLMModel.from_encoder_decoder_pretrained(save("bert")[1], folder).decoder
        latents, uniforms = torch.randn(32, 8), torch.rand(32, 6)
        records = model.sample_records(latents, uniforms)
        plain = DiffLMForCausalLM(model.config)
        plain.load_state_dict(model.state_dict())
        assert torch.equal(records, plain.eval().sample_records(latents, uniforms))


class TestRecords:
    """`position_ranges`, and sampling from given random numbers."""

    @staticmethod
    def restricted_log_probs(model, ids, latents, ranges):
        """Of every position, over the full vocabulary, with the ids outside its range masked."""
        logits = model(ids, latents=latents, use_cache=False).logits[:, :-1].double()
        for position in range(logits.shape[1]):
            start, end = ranges[min(position, len(ranges) - 1)]
            logits[:, position, :start] = logits[:, position, end:] = -math.inf
        return logits.log_softmax(-1)

    def sample_without_cache(self, model, latents, uniforms):
        """One record at a time, one full forward pass a token."""
        config = model.config
        num_fixed = len(config.position_ranges) - (config.num_texts > 0)
        records = []
        for z, row in zip(latents, uniforms):
            ids, num_open = [BOS], config.num_texts
            for position, uniform in enumerate(row.double()):
                if position >= num_fixed and not num_open:
                    break
                # the last id only makes room for one more position
                inputs = torch.tensor([[*ids, PAD]])
                log_probs = self.restricted_log_probs(model, inputs, z[None], config.position_ranges)[0, position]
                ids.append(int((log_probs.exp().cumsum(0) <= uniform).sum()))
                num_open -= position >= num_fixed and ids[-1] == EOS
            records.append(ids)
        length = max(map(len, records))
        return torch.tensor([ids + [PAD] * (length - len(ids)) for ids in records])

    @every_injection
    def test_loss(self, record_model, latents, injection):
        model = record_model(injection=injection).decoder
        # texts of 2 and 0, 1 and 3, 0 and 0 tokens
        ids = torch.tensor(
            [
                [BOS, 20, 39, 40, 5, 6, EOS, EOS, PAD, PAD],
                [BOS, 24, 25, 40, 7, EOS, 3, 17, 4, EOS],
                [BOS, 22, 30, 40, EOS, EOS, PAD, PAD, PAD, PAD],
            ]
        )
        mask = (ids != PAD).long()
        log_probs = self.restricted_log_probs(model, ids, latents, RANGES)
        nll = -log_probs.gather(-1, ids[:, 1:, None])[..., 0].masked_fill(mask[:, 1:] == 0, 0.0).sum(1)
        torch.testing.assert_close(model.negative_log_likelihood(ids, latents, mask), nll.float(), **EXACT)
        assert nll.isfinite().all()
        # a record on its own, without padding
        alone = model.negative_log_likelihood(ids[2:, :6], latents[2:])
        torch.testing.assert_close(alone, nll[2:].float(), **EXACT)

    def test_loss_without_texts(self, record_model, latents):
        model = record_model(position_ranges=RANGES[:3], num_texts=0, max_record_length=4).decoder
        ids = torch.tensor([[BOS, 20, 39, 40], [BOS, 24, 25, 40], [BOS, 22, 30, 40]])
        log_probs = self.restricted_log_probs(model, ids, latents, RANGES[:3])
        nll = -log_probs.gather(-1, ids[:, 1:, None]).sum((1, 2)).float()
        torch.testing.assert_close(model.negative_log_likelihood(ids, latents), nll, **EXACT)

    def test_loss_of_texts_alone(self, record_model, latents):
        model = record_model(position_ranges=RANGES[3:], num_texts=1).decoder
        ids = torch.tensor([[BOS, 5, 6, EOS], [BOS, 7, EOS, PAD], [BOS, EOS, PAD, PAD]])
        mask = (ids != PAD).long()
        log_probs = self.restricted_log_probs(model, ids, latents, RANGES[3:])
        nll = -log_probs.gather(-1, ids[:, 1:, None])[..., 0].masked_fill(mask[:, 1:] == 0, 0.0).sum(1).float()
        torch.testing.assert_close(model.negative_log_likelihood(ids, latents, mask), nll, **EXACT)
        assert torch.equal(model.sample_records(latents, torch.full((3, 13), 0.0)), ids.new_tensor([[BOS, EOS]] * 3))

    def test_head_with_bias(self, record_model, latents):
        model = record_model().decoder
        head = model.get_output_embeddings()
        head.bias = nn.Parameter(3 * torch.randn(50))
        ids = torch.tensor([[BOS, 20, 39, 40, 5, 6, EOS, EOS]] * 3)
        log_probs = self.restricted_log_probs(model, ids, latents, RANGES)
        nll = -log_probs.gather(-1, ids[:, 1:, None]).sum((1, 2)).float()
        torch.testing.assert_close(model.negative_log_likelihood(ids, latents), nll, **EXACT)
        uniforms = torch.rand(3, 13)
        assert torch.equal(
            model.sample_records(latents, uniforms), self.sample_without_cache(model, latents, uniforms)
        )

    @every_injection
    @pytest.mark.parametrize("num_texts", [0, 1, 2])
    def test_sampling_is_that_of_an_independent_implementation(self, record_model, injection, num_texts):
        ranges = RANGES if num_texts else RANGES[:3]
        length = 14 if num_texts else 4
        model = record_model(
            injection=injection, position_ranges=ranges, num_texts=num_texts, max_record_length=length
        ).decoder
        latents, uniforms = torch.randn(12, 3), torch.rand(12, length - 1)
        records = model.sample_records(latents, uniforms)
        assert torch.equal(records, self.sample_without_cache(model, latents, uniforms))
        assert torch.equal(records, model.sample_records(latents, uniforms))

    @every_injection
    def test_sampling(self, record_model, injection):
        model = record_model(injection=injection).decoder
        latents, uniforms = torch.randn(100, 3), torch.rand(100, 13)
        records = model.sample_records(latents, uniforms)
        assert (records[:, 0] == BOS).all()
        for position, (start, end) in enumerate(RANGES[:3], start=1):
            assert ((records[:, position] >= start) & (records[:, position] < end)).all()
        num_ended = (records[:, 4:] == EOS).cumsum(1)
        is_open = nn.functional.pad(num_ended, (1, 0))[:, :-1] < 2
        texts = records[:, 4:]
        assert ((texts[is_open] >= 2) & (texts[is_open] < 18)).all()
        assert (texts[~is_open] == PAD).all()
        assert (num_ended[:, -1] == 2).any()
        assert len(records.unique(dim=0)) > 75

        # the same in any batch
        for size, num_records in (1, 10), (7, 35), (80, 100):
            for batch in zip(*(part[:num_records].split(size) for part in (records, latents, uniforms))):
                expected, *arguments = (part[:10] for part in batch)
                part = model.sample_records(*arguments)
                assert torch.equal(nn.functional.pad(part, (0, records.shape[1] - part.shape[1])), expected)

    def test_temperature(self, record_model):
        model = record_model().decoder
        latents, uniforms = torch.randn(20, 3), torch.rand(20, 13)
        greedy_records = model.sample_records(latents, uniforms, temperature=0)
        assert torch.equal(greedy_records, model.sample_records(latents, 1 - uniforms, temperature=0))
        assert torch.equal(greedy_records, model.sample_records(latents, uniforms, temperature=1e-6))
        assert torch.equal(greedy_records, model.sample_records(latents, uniforms, top_p=1e-6))
        log_probs = self.restricted_log_probs(model, greedy_records, latents, RANGES)
        open_ids = greedy_records[:, 1:] != PAD
        assert torch.equal(log_probs.argmax(-1)[open_ids], greedy_records[:, 1:][open_ids])
        assert not torch.equal(greedy_records[:, :5], model.sample_records(latents, uniforms, temperature=3.0)[:, :5])

    @pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (2.0, 0.8)])
    @pytest.mark.parametrize("position_ranges", [None, [(3, 50)]])
    def test_distribution(self, tiny_model, temperature, top_p, position_ranges):
        model = tiny_model(position_ranges=position_ranges, max_record_length=2).decoder
        z = torch.randn(1, 3)
        logits = model(torch.tensor([[BOS]]), latents=z).logits[0, -1].double()
        if position_ranges:
            logits[:3] = -math.inf
        probs = (logits / temperature).softmax(-1)
        ordered = probs.sort(descending=True)
        num_kept = int((ordered.values.cumsum(0) < top_p).sum()) + 1
        nucleus = torch.zeros_like(probs)
        nucleus[ordered.indices[:num_kept]] = ordered.values[:num_kept]
        nucleus /= nucleus.sum()

        # Uniforms on a grid: every share is then within a step of its probability.
        num_records = 2000
        uniforms = ((torch.randperm(num_records) + 0.5) / num_records)[:, None]
        records = model.sample_records(z.expand(num_records, -1), uniforms, temperature, top_p)
        shares = records[:, 1].bincount(minlength=50) / num_records
        assert (shares - nucleus).abs().max() <= 1.01 / num_records

    @every_injection
    def test_distribution_of_a_continuation(self, tiny_model, injection):
        model = tiny_model(injection=injection).decoder
        z, num_records = torch.randn(1, 3), 4000
        first = torch.cat([torch.full((50, 1), BOS), torch.arange(50)[:, None]], dim=1)
        probs = model(first, latents=z.expand(50, -1)).logits.softmax(-1)
        # EOS is followed by padding only
        probs[EOS, 1] = nn.functional.one_hot(torch.tensor(PAD), 50)
        joint = probs[0, 0][:, None] * probs[:, 1]
        records = model.sample_records(z.expand(num_records, -1), torch.rand(num_records, 2))
        shares = (50 * records[:, 1] + records[:, 2]).bincount(minlength=2500) / num_records
        # χ² of the cells that are expected often enough, whose mean is their number
        often = joint.flatten() * num_records > 5
        chi2 = (num_records * (shares - joint.flatten()).square() / joint.flatten())[often].sum()
        assert often.sum() > 50
        assert chi2 < often.sum() + 4 * (2 * often.sum()).sqrt()

    @pytest.mark.slow
    def test_sampling_without_ranges_stops_at_eos(self, tiny_model):
        model = tiny_model().decoder
        latents, uniforms = torch.randn(40, 3), torch.rand(40, 30)
        records = model.sample_records(latents, uniforms)
        assert (records[:, 0] == BOS).all() and records.shape[1] <= 31
        is_eos = (records == EOS).long()
        after_eos = is_eos.cumsum(1) - is_eos > 0
        assert after_eos.any() and (records[after_eos] == PAD).all()
        for size, num_records in (1, 10), (15, 40):
            for batch in zip(*(part[:num_records].split(size) for part in (records, latents, uniforms))):
                expected, *arguments = (part[:10] for part in batch)
                part = model.sample_records(*arguments)
                assert torch.equal(nn.functional.pad(part, (0, records.shape[1] - part.shape[1])), expected)
        greedy_records = model.sample_records(latents[:5], uniforms[:5], temperature=0)
        expected = model.generate(latents=latents[:5], do_sample=False, max_new_tokens=30)
        assert torch.equal(greedy_records, expected)

    def test_uniforms_at_the_edges(self, tiny_model):
        model = tiny_model(position_ranges=[(3, 50)], max_record_length=2).decoder
        almost_one = 1 - 2**-24
        uniforms = torch.tensor([[0.0], [almost_one]])
        assert model.sample_records(torch.zeros(2, 3), uniforms)[:, 1].tolist() == [3, 49]
        # ids of no probability before and after the only one that is left
        likeliest = model.sample_records(torch.zeros(2, 3), uniforms, temperature=0)
        assert 3 < likeliest[0, 1] < 49
        assert torch.equal(model.sample_records(torch.zeros(2, 3), uniforms, top_p=1e-6), likeliest)


class TestMovingStandardization:
    def test_records_have_mean_0_and_deviation_1(self):
        standardization = MovingStandardization(4).train()
        records = 3 + 0.01 * torch.randn(4000, 4) * torch.tensor([1, 2, 5, 50])
        for batch in records.split(40):
            standardization(batch)
        assert standardization.num_batches == 100
        standardized = standardization.eval()(records)
        torch.testing.assert_close(standardized.mean(0), torch.zeros(4), rtol=0, atol=0.2)
        torch.testing.assert_close(standardized.std(0), torch.ones(4), rtol=0.2, atol=0)

    def test_a_mean_that_moves_is_no_difference_between_records(self):
        standardization = MovingStandardization(1).train()
        for step in range(200):
            standardization(0.1 * step + torch.randn(40, 1))
        assert standardization.variance.item() == pytest.approx(1, abs=0.2)

    def test_what_differs_between_batches_is(self):
        standardization = MovingStandardization(1).train()
        for length in torch.randn(1000):
            standardization(length + 0.1 * torch.randn(40, 1))
        assert standardization.variance.item() == pytest.approx(1, abs=0.2)

    def test_evaluation_changes_nothing(self):
        standardization = MovingStandardization(2).eval()
        states = torch.randn(5, 2)
        torch.testing.assert_close(standardization(states), states)
        assert standardization.num_batches == 0

    def test_a_batch_may_be_of_one_record(self):
        standardization = MovingStandardization(2).train()
        assert all(standardization(torch.randn(1, 2)).isfinite().all() for _ in range(3))

    def test_moments_are_saved(self, tiny_model, ids, tmp_path):
        model = tiny_model(posterior="standardized").train()
        model(ids)
        model.eval().save_pretrained(tmp_path)
        again = DiffLMModel.from_pretrained(tmp_path)
        saved, loaded = (m.to_posterior.standardization for m in (model, again))
        assert torch.equal(loaded.mean, saved.mean) and loaded.mean.any()
        assert loaded.num_batches == 1
        torch.testing.assert_close(again.encode(ids)[0], model.encode(ids)[0])


class TestFloat32Moments:
    """In bfloat16, a mean of 10 moves in steps of 0.06."""

    @pytest.fixture
    def states(self):
        return 10 + 0.01 * torch.randn(200, SIZES["hidden_size"])

    @pytest.fixture
    def model(self, tiny_model, states):
        """A model whose moments are those of the states."""
        model = tiny_model(posterior="standardized").train()
        for batch in states.split(10):
            model.to_posterior(batch)
        return model.eval()

    def assert_close(self, model, states, expected):
        moments = {name: m.dtype for name, m in model.to_posterior.standardization.named_buffers()}
        assert moments.pop("num_batches") == torch.long
        assert set(moments.values()) == {torch.float32}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        torch.testing.assert_close(model.to_posterior(states).float(), expected, rtol=0.05, atol=0.05)

    def test_casts(self, model, states, tmp_path):
        expected = model.to_posterior(states)
        model.save_pretrained(tmp_path / "float32")
        for cast in (
            copy.deepcopy(model).to(torch.bfloat16),
            copy.deepcopy(model).bfloat16(),
            nn.ModuleList([copy.deepcopy(model)]).to("cpu", torch.bfloat16)[0],
            DiffLMModel.from_pretrained(tmp_path / "float32", dtype=torch.bfloat16),
        ):
            self.assert_close(cast, states, expected)
        cast.save_pretrained(tmp_path / "bfloat16")
        self.assert_close(DiffLMModel.from_pretrained(tmp_path / "bfloat16"), states, expected)
        assert {buffer.device.type for buffer in cast.to("meta").to_posterior.buffers()} == {"meta"}

    def test_encoding(self, model, states):
        """Of states in bfloat16, the mean over positions is in float32."""
        model = model.to(torch.bfloat16)
        hidden = (10 + 0.5 * torch.randn(20, 400, SIZES["hidden_size"])).bfloat16()
        model.encoder.forward = lambda **inputs: SimpleNamespace(last_hidden_state=hidden)
        mean, logvar = model.encode(torch.ones(20, 400, dtype=torch.long))
        standardization = model.to_posterior.standardization
        expected = model.float().to_posterior(hidden.float().mean(1))
        assert standardization(hidden.float().mean(1)).std() > 1
        torch.testing.assert_close(torch.cat([mean, logvar], 1), expected, rtol=0.05, atol=0.1)

    def test_training(self, tiny_model, states):
        model = tiny_model(posterior="standardized").to(torch.bfloat16).train()
        for batch in states.split(10):
            model.to_posterior(batch)
        deviation = model.to_posterior.standardization.variance.sqrt()
        torch.testing.assert_close(deviation, torch.full_like(deviation, 0.01), rtol=0.6, atol=0)


class TestConfig:
    """`posterior` and `injection_initializer_range`."""

    ROWS = {"position_ranges": RANGES, "num_texts": 2, "max_record_length": 14}

    @pytest.mark.parametrize("fields", [{}, ROWS], ids=["documents", "rows"])
    @pytest.mark.parametrize("injection", ["soft_prompt", "input_embed"])
    def test_checkpoints_that_do_not_state_them(self, tiny_model, ids, tmp_path, injection, fields):
        posterior, std = ("linear", None) if fields else ("standardized", 0.3 * 3**-0.5)
        std = None if injection == "input_embed" else std
        stated = {"posterior": posterior, "injection_initializer_range": std}
        model = tiny_model(injection=injection, **stated, **fields)
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert stated == {name: config.pop(name) for name in stated}
        (tmp_path / "config.json").write_text(json.dumps(config))
        loaded, info = DiffLMModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert stated == {name: getattr(loaded.config, name) for name in stated}
        assert_same_weights(loaded, model)
        assert torch.equal(loaded.encode(ids)[0], model.encode(ids)[0])

    @pytest.mark.parametrize("fields", [{}, ROWS], ids=["documents", "rows"])
    @pytest.mark.parametrize("posterior", ["linear", "standardized"])
    @pytest.mark.parametrize("std", [None, 0.5])
    @every_injection
    def test_whatever_the_records(self, tiny_model, tmp_path, injection, std, posterior, fields):
        tiny_model(
            injection=injection, posterior=posterior, injection_initializer_range=std, latent_size=64, **fields
        ).save_pretrained(tmp_path)
        model = DiffLMModel.from_pretrained(tmp_path)
        assert (model.config.posterior, model.config.injection_initializer_range) == (posterior, std)
        assert hasattr(model.to_posterior, "standardization") == (posterior == "standardized")
        deviation = model.decoder.injection.projection.weight.std().item()
        assert deviation == pytest.approx(std or SIZES["initializer_range"], rel=0.1)

    def test_unknown_posterior(self, tiny_model):
        with pytest.raises(ValueError, match="posterior='cubic' is not one of 'linear', 'standardized'"):
            tiny_model(posterior="cubic")


def test_latents_of_documents_differ_from_the_start(tiny_model, record_model):
    std = document_initializer_range(64, "soft_prompt")
    documents = tiny_model(latent_size=64, posterior="standardized", injection_initializer_range=std)
    rows = record_model(latent_size=64)
    states = 5 + 0.01 * torch.randn(400, documents.encoder.config.hidden_size)
    for batch in states.split(10):
        documents.to_posterior.train()(batch)
    mean, logvar = documents.to_posterior.eval()(states).chunk(2, 1)
    assert mean.std(0).mean().item() == pytest.approx(1, abs=0.3)
    assert logvar.mean().item() == pytest.approx(-4, abs=0.3)
    assert rows.to_posterior.bias.eq(0).all()
    deviations = [model.decoder.injection.projection.weight.std().item() for model in (documents, rows)]
    assert deviations[0] == pytest.approx(0.3 / 8, rel=0.1)
    assert deviations[1] == pytest.approx(SIZES["initializer_range"], rel=0.1)


@pytest.mark.parametrize("num_allowed", [3, 40, 45])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_choices_among_few_ids_take_no_others(num_allowed, has_bias, is_frozen, monkeypatch):
    """As likely as by logits of the whole vocabulary, with the same gradients."""
    monkeypatch.setattr(likelihood._FrozenHeadNLL, "CHUNK", 4)
    generator = torch.Generator().manual_seed(0)
    head, num = nn.Linear(8, 50, bias=has_bias).requires_grad_(not is_frozen), 6
    hidden = torch.randn(num, 8, generator=generator, requires_grad=True)
    some = torch.randperm(45, generator=generator)[:num_allowed]  # the vocabulary has ids beyond those of the grammar
    allowed = torch.zeros(num, 45, dtype=torch.bool)
    allowed[:, some] = torch.rand(num, num_allowed, generator=generator) < 0.6
    ids = some[torch.randint(num_allowed, (num,), generator=generator)]
    allowed[torch.arange(num), ids] = True
    weights, trained = torch.rand(num, generator=generator), [hidden, *(() if is_frozen else head.parameters())]
    for mask, sets in ((allowed, ChoiceSets(allowed.flip(0), torch.arange(num).flip(0))), (None, None)):
        nll = choice_nll(head, hidden, ids, sets)
        logits = head(hidden)
        if mask is not None:
            logits = logits[:, :45].masked_fill(~mask, -torch.inf)
        expected = -logits.log_softmax(-1).gather(1, ids[:, None]).squeeze(1)
        torch.testing.assert_close(nll, expected)
        for ours, theirs in zip(
            torch.autograd.grad((weights * nll).sum(), trained),
            torch.autograd.grad((weights * expected).sum(), trained),
        ):
            torch.testing.assert_close(ours, theirs)
        with torch.no_grad():
            torch.testing.assert_close(choice_nll(head, hidden, ids, sets), expected)


def test_fixed_moments_do_not_move():
    states = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1, 30]) + 5
    standardization = MovingStandardization(3).train()
    standardization.fix(states)
    for _ in range(3):
        standardization(states[:8])  # records that are much alike, say, and none of the others
    standardized = standardization(states)
    torch.testing.assert_close(standardized.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardized.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_a_frozen_head_of_another_dtype_than_autocast():
    head = nn.Linear(8, 20, bias=False).requires_grad_(False)
    hidden = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for is_cast in (False, True):
        given = hidden.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
            choice_nll(head, given, torch.arange(6)).sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=0.01)
