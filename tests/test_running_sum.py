import copy

import jsonschema
import pandas as pd
import pytest
import torch
from tiny import make_table, seeded, train
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache

from difflm_hf import DiffLMPipeline, RunningSumConfig, RunningSumForCausalLM, RunningSumModel
from difflm_hf.injection import INJECTIONS


SIZES = {
    "vocab_size": 50,
    "embedding_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}


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

    rows = []
    for position in range(len(ids)):
        total = sum(weights["model.embed_tokens.weight"][token] for token in ids[: position + 1])
        states = total @ weights["model.proj_in.weight"][position] + weights["model.bias"][position, 0]
        for block in range(model.config.num_blocks):
            inner = states @ weights[f"model.blocks.{block}.up.weight"][position]
            states = states + inner.clamp(min=0) @ weights[f"model.blocks.{block}.down.weight"][position]
        rows.append(weights["lm_head.weight"] @ norm(states))
    return torch.stack(rows)


def test_formula(model, ids):
    torch.nn.init.normal_(model.model.bias)
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
    assert layer.values.shape == (3, 1, 1, 20) and layer.keys.numel() == 0  # whatever the length


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
    with pytest.raises(ValueError, match="13 tokens are more than 12 positions"):
        model(torch.full((1, 13), 5))


def test_silent_positions(model, ids):
    """They are terms, and nothing else."""
    config = copy.deepcopy(model.config)
    config.num_silent_positions, config.max_position_embeddings = 2, 14
    torch.manual_seed(0)
    silent = RunningSumForCausalLM(config).eval()
    loaded = silent.load_state_dict(model.state_dict())
    assert not loaded.missing_keys and not loaded.unexpected_keys  # no weights of their own
    embeddings = model.get_input_embeddings()(ids)
    first = torch.cat([torch.zeros(3, 1, 20), torch.ones(3, 1, 20)], 1)
    states = silent.model(inputs_embeds=torch.cat([first, embeddings], 1)).last_hidden_state
    assert not states[:, :2].any()
    embeddings[:, 0] += 1
    torch.testing.assert_close(states[:, 2:], model.model(inputs_embeds=embeddings).last_hidden_state)
    with pytest.raises(ValueError, match="15 tokens are more than 14 positions"):
        silent(torch.full((1, 15), 5))

    # from a cache, and at positions of one's own
    cache = DynamicCache(config=config)
    silent.model(inputs_embeds=first[:, :1], past_key_values=cache, use_cache=True)
    embeddings[:, 0] -= 1
    rest = silent.model(inputs_embeds=torch.cat([first[:, 1:], embeddings], 1), past_key_values=cache, use_cache=True)
    torch.testing.assert_close(rest.last_hidden_state, states[:, 1:])
    positions = torch.arange(11).expand(3, -1)
    placed = silent.model(inputs_embeds=torch.cat([first, embeddings], 1), position_ids=positions).last_hidden_state
    torch.testing.assert_close(placed, states)


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


class TestPipeline:
    """Rows without texts are what a running sum is trained on."""

    @pytest.fixture(scope="class")
    def table(self):
        return make_table().drop(columns="note")

    @pytest.fixture(scope="class")
    def folder(self, table, tmp_path_factory):
        folder = tmp_path_factory.mktemp("rows") / "model"
        train(table, folder, recipe="quick")
        return folder

    @pytest.fixture
    def pipe(self, folder):
        pipe = DiffLMPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        return DiffLMPipeline(**pipe.components, block_size=64)

    def table_of(self, pipe, num_records, **kwargs):
        return pipe(num_records, generator=seeded(), output_type="pandas", **kwargs).records

    def test_models(self, pipe):
        lm, encoder = pipe.vae.decoder.lm, pipe.vae.encoder
        assert isinstance(lm, RunningSumForCausalLM) and isinstance(encoder, RunningSumModel)
        # BOS and all but the last token are read, and nothing is there that no token of a record can reach.
        num_read = pipe.vae.config.max_record_length - 1
        assert lm.config.num_positions == num_read and encoder.config.num_positions == 1

    def test_records_are_valid(self, pipe, table):
        validator = jsonschema.Draft202012Validator(pipe.processor.schema.to_json_schema())
        for record in pipe(300, generator=seeded()).records:
            validator.validate(record)
        assert list(self.table_of(pipe, 5)) == list(table)

    @pytest.mark.parametrize("kwargs", [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 1000}])
    def test_batch_size(self, pipe, kwargs):
        pd.testing.assert_frame_equal(self.table_of(pipe, 40, **kwargs), self.table_of(pipe, 40))

    @pytest.mark.parametrize("num_threads", [1, 3])
    def test_threads_streams_and_single_records(self, pipe, num_threads):
        expected = self.table_of(pipe, 150)
        torch.set_num_threads(num_threads)
        pd.testing.assert_frame_equal(self.table_of(pipe, 150), expected)
        pd.testing.assert_frame_equal(self.table_of(pipe, 1), expected.iloc[:1])
        batches = list(pipe.stream(150, generator=seeded()))
        assert [batch.num_rows for batch in batches] == [64, 64, 22]
        [last] = pipe.stream(22, generator=seeded(), first_block=2)
        assert last.equals(batches[2])

    def test_in_bfloat16(self, pipe):
        """One record alone is the same as in a batch, and a choice that rounding does not tip the same as exactly."""
        exact = self.table_of(pipe, 200)
        pipe.to(torch.bfloat16)
        fast = self.table_of(pipe, 200)
        assert (fast["member"] == exact["member"]).mean() > 0.9

    def test_likelihood_is_what_samples_are_drawn_by(self, pipe):
        """Both of two loops: all positions at once, and one after the other with a cache."""
        decoder, config = pipe.vae.decoder, pipe.vae.config
        latents = torch.randn(1, config.latent_size, generator=seeded()).expand(4000, -1)
        uniforms = torch.rand(4000, config.max_record_length - 1, generator=seeded())
        ids = decoder.sample_records(latents, uniforms)
        start, end = config.position_ranges[0]
        with torch.no_grad():
            hidden, _ = decoder.hidden_states(ids[:1, :-1], latents[:1])
            probs = decoder.range_logits(hidden[0, 0], start, end).softmax(-1)
        shares = torch.bincount(ids[:, 1] - start, minlength=end - start) / 4000
        torch.testing.assert_close(shares, probs, rtol=0, atol=0.03)
        nll = decoder.negative_log_likelihood(ids[:8], latents[:8])
        steps = torch.zeros(8)
        with torch.no_grad():
            hidden, _ = decoder.hidden_states(ids[:8, :-1], latents[:8])
            for position, (start, end) in enumerate(config.position_ranges):
                log_probs = decoder.range_logits(hidden[:, position], start, end).log_softmax(-1)
                steps -= log_probs.gather(-1, ids[:8, position + 1, None] - start)[:, 0]
        torch.testing.assert_close(nll, steps, rtol=0, atol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("injection", INJECTIONS)
    def test_injections(self, table, injection, tmp_path):
        pipe = train(table, tmp_path / "model", recipe="quick", injection=injection)
        loaded = DiffLMPipeline.from_pretrained(tmp_path / "model")
        pd.testing.assert_frame_equal(self.table_of(loaded, 20), self.table_of(pipe, 20))
        decoder = pipe.vae.decoder
        ids = torch.full((2, 3), 1)
        latents = torch.stack([torch.zeros(4), torch.ones(4)])
        states = decoder.hidden_states(ids, latents)[0]
        assert (states[0] - states[1]).abs().amax(-1).min() > 1e-4  # z tells at every position
