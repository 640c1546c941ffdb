"""Small causal LMs as measuring instruments for text, code and other documents."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..batches import TensorDataset
from ..callbacks import LossProgressCallback, TimeLimit
from ..utils import default_device, supports_bf16
from .documents.code import evaluate_code
from .documents.measures import check_texts


SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
NUM_EVALUATIONS = 20
EARLY_STOPPING_PATIENCE = 4  # evaluations
MAX_HELD_OUT = 200
KINDS = ("text", "code")


def train_language_model(
    texts: Sequence[str],
    validation: Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    model: PreTrainedModel | None = None,
    vocab_size: int = 4096,
    config: dict[str, Any] | None = None,
    length: int = 512,
    num_steps: int = 1000,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    max_minutes: float | None = None,
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Trains a causal LM on documents, from scratch unless `model` is given.

    Documents are packed into rows of equal length, in which each attends to itself alone. Validation comes
    20 times; training ends where it has stopped improving, and the best weights of all validations are kept.

    Args:
        texts (`Sequence[str]`): The documents.
        validation (`Sequence[str]`, *optional*):
            Documents to select the weights by. Not given, a tenth of `texts` is held out, at most 200.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            With BOS and EOS. Not given, a byte-level BPE is fitted to what of `texts` is not held out.
        model (`PreTrainedModel`, *optional*):
            A causal LM with this `tokenizer` to train further, in place. Not given, a new one of the Llama
            architecture: 4 layers, 256 wide.
        vocab_size (`int`, defaults to 4096): Of a new tokenizer, at most: short texts yield fewer tokens.
        config (`dict[str, Any]`, *optional*): Fields of a new model's `LlamaConfig`.
        length (`int`, defaults to 512): Tokens of a row, and all that a new model reads unless `config` says more.
        num_steps (`int`, defaults to 1000): Steps at most, over which the learning rate falls to 0 by a cosine.
        batch_size (`int`, defaults to 8): Rows of a step.
        learning_rate (`float`, defaults to 0.002): The largest.
        max_minutes (`float`, *optional*): Time after which training ends, wherever it is.
        seed (`int`, defaults to 0): Of the held-out documents, the weights and the order of rows.

    Returns:
        The model, in evaluation mode, and its tokenizer. `save_pretrained` of both makes a folder that
        `AutoModelForCausalLM` and `AutoTokenizer` load.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`:
            when there are no documents or none to hold out, `model` comes without its tokenizer or reads fewer than
            `length` tokens, a tokenizer lacks BOS or EOS, or training diverges.

    Example:

    ```python
    >>> model, tokenizer = train_language_model(["one two three", "two three four"] * 50, num_steps=20)
    >>> scores = perplexity(model, tokenizer, ["one two three"])
    ```
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}; pass at least 1")
    _check_documents("texts", texts, at_least=2 if validation is None else 1)
    if validation is None:
        texts, validation = _hold_out(texts, seed)
    _check_documents("validation", validation)
    if tokenizer is None:
        if model is not None:
            raise ValueError("`model` is given without its tokenizer; pass both, or neither")
        tokenizer = train_tokenizer(texts, vocab_size)
    rows, validation_rows = (pack(part, tokenizer, length) for part in (texts, validation))
    set_seed(seed)
    if model is None:
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        fields = {"vocab_size": len(tokenizer), "max_position_embeddings": length, **ids, **SIZES, **(config or {})}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields))
    _check_vocabulary(model, tokenizer)
    if length > (limit := _context(model)):
        raise ValueError(f"length={length} and the model reads at most {limit} tokens; lower `length`")

    with tempfile.TemporaryDirectory() as folder:
        interval = max(1, num_steps // NUM_EVALUATIONS)
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=num_steps // 20,
            weight_decay=0.1,
            adam_beta2=0.95,
            bf16=supports_bf16(),
            use_cpu=default_device().type == "cpu",
            eval_strategy="steps",
            eval_steps=interval,
            logging_steps=interval,
            prediction_loss_only=True,
            save_strategy="no",
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=False,
            seed=seed,
        )
        use_cache = model.config.use_cache
        trainer = Trainer(
            model,
            arguments,
            data_collator=lambda batch: batch,  # what TensorDataset returns is a batch already
            train_dataset=rows,
            eval_dataset=validation_rows,
            callbacks=[best := _BestWeights()],
        )
        trainer.pop_callback(ProgressCallback)
        trainer.add_callback(LossProgressCallback("language model"))
        if max_minutes is not None:
            trainer.add_callback(TimeLimit(time.monotonic() + 60 * max_minutes))
        trainer.train()
    if not best.weights:
        raise ValueError(f"no validation gave a finite loss; lower learning_rate={learning_rate}")
    model.load_state_dict(best.weights)
    # The Trainer turns the cache off, and leaves it so; accelerate would go on computing in bf16.
    model.config.use_cache = use_cache
    return trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval(), tokenizer


def train_tokenizer(texts: Sequence[str], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """
    Fits a byte-level BPE, which encodes any text without loss.

    Args:
        texts (`Sequence[str]`): The documents.
        vocab_size (`int`, defaults to 4096):
            Tokens at most, among them 256 for the bytes and `<s>`, `</s>` and `<pad>`.

    Returns:
        `PreTrainedTokenizerFast`, with BOS, EOS and padding.

    Raises:
        `ValueError`: when `vocab_size` has no room for these.
    """
    _check_documents("texts", texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < (least := len(alphabet) + len(SPECIAL_TOKENS)):
        raise ValueError(f"vocab_size={vocab_size} has no room for all bytes and special tokens; pass {least} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def pack(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> TensorDataset:
    """
    All documents one after the other, each from BOS to EOS, in rows of equal length.

    Positions start from 0 in each document, and every `length` tokens of a longer one: by that, transformers' models
    keep documents from attending to each other where there is neither an attention mask nor a cache.

    Args:
        texts (`Sequence[str]`): The documents.
        tokenizer (`PreTrainedTokenizerBase`): Their tokenizer.
        length (`int`): Tokens of a row.

    Returns:
        `TensorDataset` of `input_ids`, `position_ids` and `labels`, all of shape `(num_rows, length)`. Labels are −100
        at the first token of a document, which nothing in it predicts, and at what fills the last row.
    """
    documents = _encode(texts, tokenizer)
    ids = np.concatenate(documents)
    positions = np.concatenate([np.arange(len(document)) % length for document in documents])
    columns = {"input_ids": ids, "position_ids": positions, "labels": np.where(positions == 0, -100, ids)}
    filling = (0, -len(ids) % length)
    return TensorDataset(
        **{
            name: torch.from_numpy(np.pad(values, filling, constant_values=-100 if name == "labels" else 0)).view(
                -1, length
            )
            for name, values in columns.items()
        }
    )


@torch.no_grad()
def perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 16
) -> dict[str, float]:
    """
    How well a causal LM predicts documents, each from BOS to EOS: the lower, the better.

    A document that is longer than the model's context is read in windows of that length, each of which starts half a
    window after the one before: every token is predicted once, from all tokens before it or from at least half a
    window of them.

    Args:
        model (`PreTrainedModel`): The causal LM.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, with BOS and EOS. Special tokens in `texts` are text.
        texts (`Sequence[str]`): The documents.
        batch_size (`int`, defaults to 16): Documents, or windows, at once. Lower it if memory runs out.

    Returns:
        `dict[str, float]`:
            - `nats_per_document`: −log p of a document, its end included, on average.
            - `bits_per_byte`: −log₂ p of all documents divided by the number of their bytes in UTF-8. LMs with
              different tokenizers compare by it, if these encode texts without loss.
            - `perplexity`: exp of the mean of −log p over all tokens, the ends of documents included.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`:
            when there are no documents or all are empty, a document is not Unicode, the tokenizer lacks BOS or EOS, or
            it has more tokens than the model.
    """
    _check_documents("texts", texts)
    if not any(texts):
        raise ValueError("all of `texts` are empty, so that there is nothing to predict")
    _check_vocabulary(model, tokenizer)
    documents = _encode(texts, tokenizer)
    context = _context(model)
    windows = sorted((w for ids in documents for w in _windows(ids, context)), key=lambda window: len(window[0]))
    batches = (windows[start : start + batch_size] for start in range(0, len(windows), batch_size))
    model.eval()
    nats = math.fsum(_negative_log_likelihood(model, batch) for batch in batches)
    num_bytes = sum(len(text.encode()) for text in texts)
    num_tokens = sum(len(ids) - 1 for ids in documents)
    return {
        "nats_per_document": nats / len(texts),
        "bits_per_byte": nats / math.log(2) / num_bytes,
        "perplexity": math.exp(nats / num_tokens),
    }


def evaluate_downstream(
    synthetic: Sequence[str],
    real: Sequence[str],
    test: Sequence[str],
    validation: Sequence[str] | None = None,
    kind: str = "text",
    vocab_size: int = 4096,
    num_samples: int = 200,
    seed: int = 0,
    **kwargs,
) -> dict[str, dict[str, float]]:
    """
    What synthetic documents are worth for training language models.

    A small LM is trained on real documents and another on synthetic ones; then the first is trained further on
    synthetic ones. All have one size, one tokenizer, which is fitted to the real documents, and the same number of
    steps at most in each training; and all are selected by the same real documents.

    Args:
        synthetic (`Sequence[str]`): The generated documents.
        real (`Sequence[str]`): The real documents that the generator was trained on.
        test (`Sequence[str]`): Real documents to predict, which the generator has not seen.
        validation (`Sequence[str]`, *optional*):
            Real documents to select weights by. Not given, a tenth of `real` is held out, at most 200.
        kind (`str`, defaults to `"text"`): `"text"` or `"code"`, of which it is tried whether what LMs write parses.
        vocab_size (`int`, defaults to 4096): Tokens of the tokenizer at most.
        num_samples (`int`, defaults to 200): Documents that each LM writes, with `"code"`.
        seed (`int`, defaults to 0): Seed of everything.
        kwargs (*optional*): Further ones of [`train_language_model`], for each training.

    Returns:
        `dict[str, dict[str, float]]`: For `real`, `synthetic` and `real_then_synthetic` the scores of [`perplexity`]
        on `test`. With `"code"` also `parse_rate`, the share of `num_samples` documents that `ast.parse` reads; those
        that reach the length of the model's context are cut there.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`: for an unknown `kind`, and as [`train_language_model`] and [`perplexity`] do.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(map(repr, KINDS))}")
    _check_documents("real", real, at_least=2 if validation is None else 1)
    if validation is None:
        real, validation = _hold_out(real, seed)
    for name, texts in {"synthetic": synthetic, "test": test, "validation": validation}.items():
        _check_documents(name, texts)
    tokenizer = train_tokenizer(real, vocab_size)

    def train_and_measure(texts, model=None):
        model, _ = train_language_model(texts, validation, tokenizer, model, seed=seed, **kwargs)
        scores = perplexity(model, tokenizer, test)
        if kind == "code":
            written = sample_documents(model, tokenizer, num_samples, seed)
            scores["parse_rate"] = evaluate_code(written, test)["parse_rate"]
        return model, scores

    model, of_real = train_and_measure(real)
    _, of_synthetic = train_and_measure(synthetic)
    _, of_both = train_and_measure(synthetic, model)
    return {"real": of_real, "synthetic": of_synthetic, "real_then_synthetic": of_both}


class _BestWeights(TrainerCallback):
    """Keeps the weights of the best validation, and ends training when several in a row were no better."""

    def __init__(self):
        self.loss = math.inf
        self.num_worse = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args, state, control, model, metrics, **kwargs):
        if metrics["eval_loss"] < self.loss:
            self.loss, self.num_worse = metrics["eval_loss"], 0
            self.weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        else:
            self.num_worse += 1
            if self.num_worse == EARLY_STOPPING_PATIENCE:
                control.should_training_stop = True


def _check_documents(name: str, texts: Sequence[str], at_least: int = 1) -> None:
    check_texts(name, texts, at_least)
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"`{name}[{index}]` is not Unicode, by its character {error.start}: {error}") from error


def _hold_out(texts: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    order = np.random.default_rng(seed).permutation(len(texts))
    size = min(MAX_HELD_OUT, max(1, len(texts) // 10))
    return [texts[i] for i in order[size:]], [texts[i] for i in order[:size]]


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Ids from BOS to EOS."""
    bos, eos = (getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos"))
    for name, token in {"BOS": bos, "EOS": eos}.items():
        if token is None:
            field = f"{name.lower()}_token"
            raise ValueError(f"{type(tokenizer).__name__} has no {name} token; set tokenizer.{field}")
    # A document may well hold `</s>`, in HTML for example; and none is too long, whatever the tokenizer warns of.
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
    return [[bos, *ids, eos] for ids in encoded["input_ids"]]


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model embeds {num_embeddings}; pass the model's own"
        )


def _context(model: PreTrainedModel) -> float:
    """The tokens that a model reads at most."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf


def _windows(ids: list[int], length: float) -> Iterator[tuple[list[int], int]]:
    """Windows that together predict each id but the first once, and how many of its last ids each predicts."""
    stop = min(length, len(ids))
    yield ids[:stop], stop - 1
    while stop < len(ids):
        start = stop - length // 2
        seen, stop = stop, min(start + length, len(ids))
        yield ids[start:stop], stop - seen


def _negative_log_likelihood(model: PreTrainedModel, windows: list[tuple[list[int], int]]) -> float:
    input_ids = torch.zeros(len(windows), max(len(ids) for ids, _ in windows), dtype=torch.long)
    is_predicted = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, (ids, num_predicted) in enumerate(windows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        is_predicted[row, len(ids) - num_predicted : len(ids)] = True
    input_ids, is_predicted = input_ids.to(model.device), is_predicted[:, 1:].to(model.device)
    # No mask: padding comes after all that is predicted, which a causal LM does not see from there.
    logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1][is_predicted]
    # In two dimensions, which cross entropy is several times faster in.
    losses = F.cross_entropy(logits.float(), input_ids[:, 1:][is_predicted], reduction="none")
    return losses.double().sum().item()


def sample_documents(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_samples: int, seed: int, batch_size: int = 64
) -> list[str]:
    """Documents by the distribution of a model: from BOS to EOS, or to the end of its context."""
    texts = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, num_samples, batch_size):
            size = min(batch_size, num_samples - start)
            ids = model.generate(
                torch.full((size, 1), tokenizer.bos_token_id, device=model.device),
                do_sample=True,
                top_k=0,
                max_length=_context(model),
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts
