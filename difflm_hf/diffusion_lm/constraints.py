"""Which words each position of a text may have: what is known of texts before they are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from .configuration_diffusion_lm import DiffusionLMConfig
from .modeling_diffusion_lm import DiffusionLMModel, DiffusionLMOutput


MASK, GAP = "[mask]", "[gap]"


def free_words(config: DiffusionLMConfig, length: int | None = None) -> torch.Tensor:
    """
    Any text, or any of `length` words.

    Returns:
        `torch.BoolTensor` of shape `(1, max_sequence_length, vocab_size)`: the words that each position may have.

    Raises:
        `ValueError`: for a length beyond that of the model.
    """
    bos, eos, pad = config.bos_token_id, config.eos_token_id, config.pad_token_id
    allowed = torch.ones(1, config.max_sequence_length, config.vocab_size, dtype=torch.bool)
    allowed[..., [bos, config.unk_token_id]] = False
    allowed[:, 0] = False
    allowed[:, 0, bos] = True
    if length is None:
        allowed[:, -1] = False
        allowed[:, -1, [eos, pad]] = True
        return allowed
    check_length(length, config.max_sequence_length)
    allowed[:, 1 : 1 + length, [eos, pad]] = False
    allowed[:, 1 + length :] = False
    allowed[:, 1 + length, eos] = True
    allowed[:, 2 + length :, pad] = True
    return allowed


def check_length(length: int, max_sequence_length: int) -> None:
    """Raises a `ValueError` for what is no number of words of a model's texts."""
    most = max_sequence_length - 2
    if isinstance(length, bool) or not isinstance(length, Integral) or not 1 <= length <= most:
        raise ValueError(f"length={length!r} is not in 1 to {most}, the words that the model's texts may have")


def given_words(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    config: DiffusionLMConfig,
    num_candidates: int,
    seeds: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """
    The words that texts with gaps may have.

    Args:
        texts (`Sequence[str]`): With `[mask]` for each missing word, and `[gap]` for any number of them.
        tokenizer (`PreTrainedTokenizerFast`), config ([`DiffusionLMConfig`]): Of the model.
        num_candidates (`int`): Rows for each text, whose gaps of unknown length are of different lengths.
        seeds (`Sequence[tuple[int, int]]`): What the lengths in each text are drawn by.

    Returns:
        `torch.BoolTensor` of shape `(num_texts * num_candidates, max_sequence_length, vocab_size)`.

    Raises:
        `ValueError`: for texts without a gap, with unknown words, or too long. The message names them.
    """
    parts = [_parts(text, tokenizer, config) for text in texts]
    rows = []
    for seed, of_text in zip(seeds, parts):
        rng = np.random.default_rng(seed)
        num_known = sum(len(part) for part in of_text if part is not None)
        num_gaps = sum(part is None for part in of_text)
        lengths = _draw_lengths(num_known + num_gaps, config, num_candidates, rng)
        for length in lengths if num_gaps else [num_known] * num_candidates:
            # Words that are missing, shared out among the gaps
            cuts = (
                np.sort(rng.choice(np.arange(1, length - num_known), num_gaps - 1, replace=False)) if num_gaps else []
            )
            sizes = iter(np.diff([0, *cuts, length - num_known]))
            words = [w for part in of_text for w in (part if part is not None else [None] * next(sizes))]
            allowed = free_words(config, length)[0]
            for position, word in enumerate(words, start=1):
                if word is not None:
                    allowed[position] = False
                    allowed[position, word] = True
            rows.append(allowed)
    return torch.stack(rows)


def _parts(text: str, tokenizer: PreTrainedTokenizerFast, config: DiffusionLMConfig) -> list[list[int | None] | None]:
    """Ids between gaps of unknown length, which are `None`, as is a missing word."""
    if not isinstance(text, str) or (MASK not in text and GAP not in text):
        raise ValueError(f"{text!r} has no gap; write {MASK} for each missing word, or {GAP} for any number of them")
    parts: list[list[int | None] | None] = []
    for piece in re.split(f"({re.escape(MASK)}|{re.escape(GAP)})", text):
        if piece == GAP:
            parts.append(None)
            continue
        ids = [None] if piece == MASK else tokenizer(piece, add_special_tokens=False)["input_ids"]
        if config.unk_token_id in ids:
            words = [w for w, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(piece)]
            unknown = words[ids.index(config.unk_token_id)]
            raise ValueError(
                f"the model does not know the word {unknown!r} of {text!r}; take one of its training texts, or {MASK}"
            )
        parts.append(ids)
    num_words = sum(1 if part is None else len(part) for part in parts)
    if num_words > config.max_sequence_length - 2:
        raise ValueError(
            f"{text!r} has {num_words} words or more, and the model's texts at most {config.max_sequence_length - 2}"
        )
    return parts


def _draw_lengths(least: int, config: DiffusionLMConfig, number: int, rng: np.random.Generator) -> list[int]:
    """Numbers of words of whole texts, as frequent as in training."""
    lengths = np.arange(least, config.max_sequence_length - 1)
    weights = np.ones(len(lengths)) if config.length_counts is None else np.array(config.length_counts)[lengths] + 1e-3
    return rng.choice(lengths, number, p=weights / weights.sum()).tolist()


def constrain(
    model: DiffusionLMModel, output: DiffusionLMOutput, allowed: torch.Tensor, temperature: float = 1.0
) -> DiffusionLMOutput:
    """
    A prediction that keeps to the words that are allowed.

    Args:
        model ([`DiffusionLMModel`]): The model.
        output ([`DiffusionLMOutput`]): What it gave.
        allowed (`torch.BoolTensor` of shape `(batch_size, length, vocab_size)`): Words of each position.
        temperature (`float`, defaults to 1.0): Of the words; below 1, likely ones count for more in x̂₀.

    Returns:
        [`DiffusionLMOutput`] with `clean` and `logits` alone.
    """
    logits = (output.logits / temperature).masked_fill(~allowed, -torch.inf)
    if model.config.weighted_embeddings:
        clean = logits.softmax(-1) @ model.embeddings
    else:
        is_known = allowed.sum(-1, keepdim=True) == 1
        clean = torch.where(is_known, model.embeddings[allowed.long().argmax(-1)], output.clean)
    return replace(output, sample=None, clean=clean, logits=logits)


def clamp_to_words(model: DiffusionLMModel, output: DiffusionLMOutput) -> DiffusionLMOutput:
    """
    A prediction that is made of word embeddings alone: the likeliest, or without `weighted_embeddings` the nearest
    that are allowed (the clamping trick, arXiv 2205.14217, section 4.3).
    """
    embeddings, logits = model.embeddings, output.logits
    if not model.config.weighted_embeddings:
        # The nearest embedding, and not the likeliest word: the head has a bias.
        nearest = 2 * output.clean @ embeddings.T - embeddings.square().sum(-1)
        logits = nearest.masked_fill(logits == -torch.inf, -torch.inf)
    return replace(output, clean=embeddings[logits.argmax(-1)])
