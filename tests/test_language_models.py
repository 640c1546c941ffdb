import math
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from difflm_hf.evaluation import evaluate_downstream, language_models, perplexity, train_language_model
from difflm_hf.evaluation.language_models import pack, train_tokenizer


TEXTS = ["the cat sat on the mat", "größer, größer!", "", "a dog and a cat\n\tran <b>far</b> away</s>, far", "x"]
TINY = {
    "config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "vocab_size": 300,
    "length": 48,
    "learning_rate": 1e-2,
}


def sentences(num_texts, seed=0):
    rng = random.Random(seed)
    words = ["the", "a"], ["cat", "dog", "bird"], ["sees", "eats"], ["its", "no"], ["food", "home"]
    return [" ".join(map(rng.choice, words)) for _ in range(num_texts)]


def shuffled(texts):
    rng = random.Random(0)
    return [" ".join(rng.sample(text.split(), len(text.split()))) for text in texts]


@pytest.fixture
def tokenizer():
    return train_tokenizer(TEXTS, 270)


@pytest.fixture
def make_lm(tiny_config, tokenizer):
    """A random LM for `tokenizer`, the same each time."""

    def make(model_type="llama", **fields):
        config = tiny_config(model_type, vocab_size=len(tokenizer), **fields)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(config).eval()

    return make


@pytest.mark.parametrize(("device", "use_cpu"), [("xpu", False), ("cpu", True)])
def test_any_accelerator_trains(device, use_cpu, monkeypatch):
    class Stop(Exception):
        pass

    def stop(**arguments):
        raise Stop(arguments["use_cpu"])

    monkeypatch.setattr(language_models, "default_device", lambda: torch.device(device), raising=False)
    monkeypatch.setattr(language_models, "TrainingArguments", stop)
    with pytest.raises(Stop, match=str(use_cpu)):
        train_language_model(sentences(10), **TINY)


def ids_of(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]


@torch.no_grad()
def log_probability(model, context, token):
    return model(torch.tensor([context])).logits[0, -1].log_softmax(0)[token].item()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2"])
def test_perplexity_is_that_of_a_loop_over_tokens(make_lm, tokenizer, model_type):
    model = make_lm(model_type)
    nats, num_tokens = 0.0, 0
    for text in TEXTS:
        ids = ids_of(tokenizer, text)
        nats -= sum(log_probability(model, ids[:i], ids[i]) for i in range(1, len(ids)))
        num_tokens += len(ids) - 1
    scores = perplexity(model, tokenizer, TEXTS)
    assert scores["nats_per_document"] == pytest.approx(nats / len(TEXTS), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(nats / num_tokens), rel=1e-5)
    num_bytes = sum(len(text.encode("utf-8")) for text in TEXTS)
    assert scores["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_padding_and_batches_change_nothing(make_lm, tokenizer):
    model = make_lm()
    alone = [perplexity(model, tokenizer, [text])["nats_per_document"] for text in TEXTS if text]
    texts = [text for text in TEXTS if text]
    for batch_size in (1, 2, 3, 16):
        scores = perplexity(model, tokenizer, texts, batch_size)
        assert scores["nats_per_document"] == pytest.approx(sum(alone) / len(alone), rel=1e-5)
        assert perplexity(model, tokenizer, texts[::-1], batch_size) == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize("context", [8, 9])
def test_long_documents_are_read_in_windows(make_lm, tokenizer, context):
    model = make_lm(max_position_embeddings=context)
    text = "a bird is far, far away"
    ids = ids_of(tokenizer, text)
    assert len(ids) > 2 * context
    nats = 0.0
    for i in range(1, len(ids)):
        start = 0
        while i >= start + context:  # the first window that reaches this token
            start += context - context // 2
        nats -= log_probability(model, ids[start:i], ids[i])
        assert start == 0 or i - start >= context // 2
    assert perplexity(model, tokenizer, [text])["nats_per_document"] == pytest.approx(nats, rel=1e-5)


def test_perplexity_needs_no_padding_token(make_lm, tokenizer):
    expected = perplexity(make_lm(), tokenizer, TEXTS)
    tokenizer.pad_token = None
    assert perplexity(make_lm(), tokenizer, TEXTS) == expected


def test_packed_documents_do_not_see_each_other(make_lm, tokenizer):
    model = make_lm()
    rows = pack(TEXTS, tokenizer, sum(len(ids_of(tokenizer, text)) for text in TEXTS) + 5)
    assert len(rows) == 1
    loss = model(**rows[:], use_cache=False).loss.item()
    assert math.exp(loss) == pytest.approx(perplexity(model, tokenizer, TEXTS)["perplexity"], rel=1e-5)


def test_packing_keeps_all_tokens(tokenizer):
    rows = pack(TEXTS, tokenizer, 16)[:]
    ids = [i for text in TEXTS for i in ids_of(tokenizer, text)]
    assert rows["input_ids"].flatten().tolist()[: len(ids)] == ids
    assert rows["input_ids"].shape[1] == 16 and rows["input_ids"].numel() - len(ids) < 16
    assert rows["position_ids"].max() < 16


def test_byte_pairs_encode_any_text_without_loss(tokenizer):
    for text in [*TEXTS, "  \r\n\0 日本 \u0301 🦜  ", "<s></s><pad>"]:
        ids = ids_of(tokenizer, text)
        assert tokenizer.decode(ids[1:-1]) == text
        assert not set(ids[1:-1]) & set(tokenizer.all_special_ids)


@pytest.fixture(scope="module")
def trained():
    return train_language_model(sentences(200), num_steps=60, **TINY)


def test_trained_lm_knows_its_own_distribution(trained):
    new = sentences(50, seed=1)
    scores = perplexity(*trained, new)
    assert perplexity(*trained, shuffled(new))["perplexity"] > 2 * scores["perplexity"]
    # There are 48 sentences, all as likely.
    assert math.log(48) * 0.98 < scores["nats_per_document"] < math.log(48) * 1.5


def test_seeds_reproduce():
    texts = sentences(30)
    lms = [train_language_model(texts, num_steps=4, seed=seed, **TINY) for seed in (0, 0, 1)]
    scores = [perplexity(*lm, texts) for lm in lms]
    assert scores[0] == scores[1] != scores[2]


def test_saved_lm_is_the_same(trained, tmp_path):
    for part in trained:
        part.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert perplexity(*loaded, TEXTS) == pytest.approx(perplexity(*trained, TEXTS), rel=1e-6)
    assert loaded[0].config.use_cache
    # A document starts with BOS and generation ends at EOS.
    ids = loaded[0].generate(torch.tensor([[loaded[1].bos_token_id]]), do_sample=False, max_new_tokens=40)
    assert loaded[1].decode(ids[0], skip_special_tokens=True) in set(sentences(1000))


def test_best_weights_on_validation_are_kept():
    train, other = sentences(60), shuffled(sentences(60, seed=1))
    settings = {**TINY, "tokenizer": train_tokenizer(train, 300), "num_steps": 40}
    by_own, by_other = (train_language_model(train, validation, **settings) for validation in (train, other))
    assert perplexity(*by_other, other)["perplexity"] < 0.9 * perplexity(*by_own, other)["perplexity"]
    assert perplexity(*by_own, train)["perplexity"] < perplexity(*by_other, train)["perplexity"]


def test_training_goes_on_from_a_model():
    first, second = sentences(60), shuffled(sentences(60))
    model, tokenizer = train_language_model(first, num_steps=8, **TINY)
    before = perplexity(model, tokenizer, second)
    again, _ = train_language_model(second, tokenizer=tokenizer, model=model, num_steps=8, **TINY)
    assert again is model
    assert perplexity(model, tokenizer, second)["perplexity"] < before["perplexity"]


def test_time_is_kept():
    model, tokenizer = train_language_model(sentences(20), num_steps=10**6, max_minutes=0.005, **TINY)
    assert perplexity(model, tokenizer, sentences(20))["perplexity"] < 2 * len(tokenizer)


def test_downstream_tells_good_synthetic_documents_from_bad():
    real, good, test = (sentences(60, seed) for seed in range(3))
    good_scores, bad_scores = (
        evaluate_downstream(synthetic, real, test, num_steps=12, **TINY) for synthetic in (good, shuffled(good))
    )
    assert list(good_scores) == ["real", "synthetic", "real_then_synthetic"]
    assert good_scores["real"] == bad_scores["real"]
    for name in ("synthetic", "real_then_synthetic"):
        assert good_scores[name]["bits_per_byte"] < bad_scores[name]["bits_per_byte"]
    assert good_scores["synthetic"]["perplexity"] == pytest.approx(good_scores["real"]["perplexity"], rel=0.2)


@pytest.mark.slow
def test_downstream_parses_code():
    rng = random.Random(0)
    code, test = ([f"{rng.choice('xyz')} = {rng.randrange(9)}" for _ in range(60)] for _ in range(2))
    scores = evaluate_downstream(["(" * 9] * 60, code, test, test, kind="code", num_samples=40, num_steps=60, **TINY)
    assert scores["real"]["parse_rate"] > 0.8
    assert scores["synthetic"]["parse_rate"] < 0.2


def test_errors_of_training(trained):
    model, tokenizer = trained
    with pytest.raises(ValueError, match="`texts` is empty"):
        train_language_model([], ["a"])
    with pytest.raises(ValueError, match="`texts` has one document"):
        train_language_model(["a"])
    with pytest.raises(ValueError, match="`validation` is empty"):
        train_language_model(["a"], [])
    with pytest.raises(TypeError, match=r"`texts\[1\]` is of type int"):
        train_language_model(["a", 1])
    with pytest.raises(TypeError, match="pass a list"):
        train_language_model("a text")
    with pytest.raises(ValueError, match="num_steps=0"):
        train_language_model(["a", "b"], num_steps=0)
    with pytest.raises(ValueError, match="lower learning_rate=inf"):
        train_language_model(["a", "b"], num_steps=3, **{**TINY, "learning_rate": math.inf})
    with pytest.raises(ValueError, match="vocab_size=100 has no room"):
        train_language_model(["a", "b"], vocab_size=100)
    with pytest.raises(ValueError, match="without its tokenizer"):
        train_language_model(["a", "b"], model=model)
    with pytest.raises(ValueError, match="length=512 and the model reads at most 48 tokens"):
        train_language_model(["a", "b"], model=model, tokenizer=tokenizer)


def test_errors_of_perplexity(make_lm, tokenizer):
    model = make_lm()
    with pytest.raises(ValueError, match="`texts` is empty"):
        perplexity(model, tokenizer, [])
    with pytest.raises(ValueError, match="all of `texts` are empty"):
        perplexity(model, tokenizer, ["", ""])
    with pytest.raises(ValueError, match=r"`texts\[1\]` is not Unicode, by its character 2"):
        perplexity(model, tokenizer, ["a", "ab\ud800"])
    with pytest.raises(ValueError, match="tokenizer has 280 tokens and the model embeds 270"):
        perplexity(model, train_tokenizer(sentences(100), 280), ["a"])
    for name in ("eos", "bos"):
        setattr(tokenizer, f"{name}_token", None)
        with pytest.raises(ValueError, match=rf"no {name.upper()} token; set tokenizer.{name}_token"):
            perplexity(model, tokenizer, ["a"])


def test_errors_of_downstream():
    with pytest.raises(ValueError, match="kind='json' is not one of 'text', 'code'"):
        evaluate_downstream(["a"], ["a", "b"], ["a"], kind="json")
    with pytest.raises(ValueError, match="`test` is empty"):
        evaluate_downstream(["a"], ["a", "b"], [])
    with pytest.raises(ValueError, match="`real` has one document"):
        evaluate_downstream(["a"], ["a"], ["a"])
