import copy

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache

from difflm_hf import RunningSumConfig, RunningSumForCausalLM, RunningSumModel


SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 12}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return RunningSumForCausalLM(RunningSumConfig(**SIZES, bos_token_id=1, eos_token_id=2, pad_token_id=0)).eval()


@pytest.fixture
def ids():
    return torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(0))


def norm(states):
    return (states - states.mean()) / (states.var(correction=0) + 1e-5).sqrt()


def naive_logits(model, ids):
    """One record, token by token, by the definition."""
    weights = dict(model.named_parameters())

    def linear(name, position, states):
        return states @ weights[f"{name}.weight"][position] + weights[f"{name}.bias"][position, 0]

    rows = []
    for position in range(len(ids)):
        total = sum(weights["model.embed_tokens.weight"][token] for token in ids[: position + 1])
        states = linear("model.proj_in", position, total)
        for block in range(model.config.num_blocks):
            inner = linear(f"model.blocks.{block}.up", position, norm(states)).clamp(min=0)
            states = states + linear(f"model.blocks.{block}.down", position, inner)
        rows.append(weights["lm_head.weight"] @ norm(states))
    return torch.stack(rows)


def test_formula(model, ids):
    for row, logits in zip(ids, model(ids).logits):
        torch.testing.assert_close(logits, naive_logits(model, row), rtol=0, atol=1e-4)


def test_order_of_past_tokens_does_not_matter(model, ids):
    shuffled = ids.clone()
    shuffled[:, :8] = ids[:, :8].flip(1)
    torch.testing.assert_close(model(shuffled).logits[:, -1], model(ids).logits[:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [[9], [1] * 9, [4, 5], [2, 1, 6]])
def test_cache(model, ids, lengths):
    cache, parts = DynamicCache(config=model.config), []
    for part in ids.split(lengths, dim=1):
        parts.append(model(part, past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits, rtol=0, atol=1e-5)
    assert cache.get_seq_length() == 9
    layer = cache.layers[0]
    assert layer.values.shape == (3, 1, 1, 16) and layer.keys.numel() == 0  # whatever the length


def test_cache_is_kept_in_float32(model, ids):
    cache = DynamicCache(config=model.config)
    model.to(torch.bfloat16)(ids, past_key_values=cache, use_cache=True)
    assert cache.layers[0].values.dtype == torch.float32
    expected = model.model.embed_tokens(ids).float().sum(1)
    torch.testing.assert_close(cache.layers[0].values[:, 0, 0], expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_cache_of_other_records(model, ids):
    cache = DynamicCache(config=model.config)
    model(ids[:, :4], past_key_values=cache, use_cache=True)
    chosen = torch.tensor([2, 0])
    for change, expected in (
        (lambda c: c.reorder_cache(torch.tensor([2, 1, 0])), ids.flip(0)),
        (lambda c: c.batch_select_indices(chosen), ids[chosen]),
        (lambda c: c.batch_repeat_interleave(2), ids.repeat_interleave(2, 0)),
    ):
        other = copy.deepcopy(cache)
        change(other)
        logits = model(expected[:, 4:], past_key_values=other, use_cache=True).logits
        torch.testing.assert_close(logits, model(expected).logits[:, 4:], rtol=0, atol=1e-5)
    cache.reset()
    assert cache.get_seq_length() == 0
    logits = model(ids, past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(logits, model(ids).logits, rtol=0, atol=1e-5)


def test_cache_does_not_go_back(model, ids):
    cache = DynamicCache(config=model.config)
    model(ids, past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="cannot be cropped"):
        cache.crop(-2)


def test_padding_is_no_term(model, ids):
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, :8] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(logits[1, 4:], model(ids[1:2, 4:]).logits[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[2, 8:], model(ids[2:, 8:]).logits[0], rtol=0, atol=1e-5)


def test_too_many_tokens(model):
    with pytest.raises(ValueError, match="13 tokens are more than the 12 positions"):
        model(torch.full((1, 13), 5))


def test_loss(model, ids):
    outputs = model(ids, labels=ids)
    expected = -outputs.logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()
    torch.testing.assert_close(outputs.loss, expected)


def test_hidden_states(model, ids):
    outputs = model(ids, output_hidden_states=True, logits_to_keep=1)
    assert len(outputs.hidden_states) == 1 + model.config.num_blocks
    torch.testing.assert_close(model.lm_head(outputs.hidden_states[-1][:, -1:]), outputs.logits)


def test_token_dropout():
    torch.manual_seed(0)
    ids = torch.randint(3, 50, (1, 9)).expand(4000, 9)
    model = RunningSumModel(RunningSumConfig(**SIZES, token_dropout=0.5)).eval()
    whole = model(ids).last_hidden_state
    assert torch.equal(whole, model(ids).last_hidden_state)
    is_same = (model.train()(ids).last_hidden_state - whole).abs().amax(-1) < 1e-6
    assert is_same[:, 0].all()  # the first is never lost
    # Half of the records lose none; of the others a share 1 − U of the second, the mean of (1 − U)² of the first two.
    expected = [0.5 + 0.5 / (k + 1) for k in range(9)]
    torch.testing.assert_close(is_same.float().mean(0), torch.tensor(expected), rtol=0, atol=0.03)


def test_encoder(ids):
    torch.manual_seed(0)
    encoder = RunningSumModel(RunningSumConfig(**SIZES, is_decoder=False)).eval()
    states = encoder(ids).last_hidden_state
    assert states.shape == (3, 1, 16)
    torch.testing.assert_close(encoder(ids.flip(1)).last_hidden_state, states)  # the order does not matter
    mask = torch.ones_like(ids)
    mask[:, 5:] = 0
    torch.testing.assert_close(
        encoder(ids, attention_mask=mask).last_hidden_state, encoder(ids[:, :5]).last_hidden_state
    )
    # by hand: the sum, in place of a token whose embedding it is
    decoder = RunningSumModel(RunningSumConfig(**SIZES | {"max_position_embeddings": 1})).eval()
    decoder.load_state_dict(encoder.state_dict())
    total = encoder.embed_tokens(ids).sum(1, keepdim=True)
    torch.testing.assert_close(decoder(inputs_embeds=total).last_hidden_state, states)


def test_checkpointing_changes_nothing(model, ids):
    model.train()
    losses = []
    for is_on in (False, True):
        if is_on:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        losses.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in losses[0].items():
        torch.testing.assert_close(losses[1][name], gradient, msg=name)


def test_save_and_load(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)
    states = AutoModel.from_pretrained(tmp_path)(ids).last_hidden_state
    assert torch.equal(states, model.model(ids).last_hidden_state)
