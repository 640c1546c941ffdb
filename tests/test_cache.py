"""The buffered cache, against the one that models make themselves."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from difflm_hf.cache import BufferedLayer, buffered_cache


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_bigcode", "mistral", "gemma3_text", "qwen2"])
@torch.no_grad()
def test_same_states_as_without_room(model_type):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
    if model_type not in ("gpt2", "gpt_bigcode"):
        sizes |= {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8}
    if model_type == "gemma3_text":
        sizes |= {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes, bos_token_id=1, eos_token_id=2))
    model.eval()
    caches = [buffered_cache(model.config, 6), DynamicCache(config=model.config)]
    assert any(isinstance(layer, BufferedLayer) for layer in caches[0].layers) == (model_type != "mistral")
    ids = torch.randint(50, (3, 12))
    for start, end in [(0, 5), (5, 6), (6, 9), (9, 12)]:
        logits = [model(ids[:, start:end], past_key_values=cache, use_cache=True).logits.clone() for cache in caches]
        torch.testing.assert_close(*logits)
        assert caches[0].get_seq_length() == end


def test_sequences_are_selected_repeated_and_cropped():
    torch.manual_seed(0)
    layers = BufferedLayer(4), DynamicLayer()
    steps = [
        lambda layer: layer.batch_select_indices(torch.tensor([2, 0])),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.crop(-2),
        lambda layer: layer.reset(),
    ]
    for batch_size, step in zip((3, 2, 4, 4), steps):
        for length in (1, 4, 1, 2):
            states = torch.randn(2, batch_size, 1, length, 4)
            for ours, theirs in zip(*(layer.update(*states) for layer in layers)):
                assert torch.equal(ours, theirs)
        for layer in layers:
            step(layer)
        assert layers[0].get_seq_length() == layers[1].get_seq_length()


def test_keys_are_not_copied():
    layer = BufferedLayer(8)
    first, _ = layer.update(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4))
    second, _ = layer.update(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4))
    assert first.shape == (2, 1, 3, 4)
    assert second.shape == (2, 1, 4, 4)
    assert first.data_ptr() == second.data_ptr()
