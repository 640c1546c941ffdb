"""Gaps in sentences, filled by Diffusion-LM and by a left-to-right LM."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sacrebleu.metrics import BLEU

from difflm_hf.diffusion_lm.constraints import MASK

from .setting import NUM_SEEDS, Setting


NUM_GAPS = 200
NUM_CANDIDATES = 16
TEMPERATURE = 0.25  # chosen by sentences of the validation split


def with_gap(s: Setting) -> tuple[list[list[str]], list[slice]]:
    """Words of test sentences that the model knows, and the middle third of each."""
    known, found, gaps = s.pipe.tokenizer.get_vocab(), [], []
    for text in s.data["test"].texts:
        words = s.words(text)
        if 9 <= len(words) <= s.pipe.model.config.max_sequence_length - 2 and all(word in known for word in words):
            found.append(words)
            gaps.append(slice(len(words) // 3, len(words) // 3 + len(words) // 3))
    return found[:NUM_GAPS], gaps[:NUM_GAPS]


@torch.no_grad()
def peer_fills(s: Setting, words: list[str], gap: slice, generator: torch.Generator | None) -> list[str]:
    """As many words by the autoregressive LM, of what is left of the gap; the most likely ones without a generator."""
    model, tokenizer = s.peer
    vocabulary = tokenizer.get_vocab()
    ids = [tokenizer.bos_token_id, *(vocabulary[word] for word in words[: gap.start])]
    for _ in range(gap.stop - gap.start):
        logits = model(torch.tensor([ids])).logits[0, -1]
        logits[[tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]] = -torch.inf
        chances = logits.softmax(-1)
        ids.append(int(chances.argmax() if generator is None else chances.multinomial(1, generator=generator)))
    return tokenizer.convert_ids_to_tokens(ids[1 + gap.start :])


def measure_infilling(s: Setting) -> dict[str, Any]:
    """BLEU of what fills gaps against what was there: of one sample, of 16 by minimum Bayes risk, and of the peer."""
    sentences, gaps = with_gap(s)
    texts = [" ".join([*w[: g.start], *[MASK] * (g.stop - g.start), *w[g.stop :]]) for w, g in zip(sentences, gaps)]
    real = [" ".join(words[gap]) for words, gap in zip(sentences, gaps)]
    figures: dict[str, Any] = {"one sample": [], "minimum Bayes risk": [], "autoregressive": [], "kept": []}
    bleu = BLEU(tokenize="none", smooth_method="exp")

    def by_peer(generator: torch.Generator | None) -> float:
        filled = [" ".join(peer_fills(s, words, gap, generator)) for words, gap in zip(sentences, gaps)]
        return bleu.corpus_score(filled, [real]).score

    for seed in range(NUM_SEEDS):
        for name, number in (("one sample", 1), ("minimum Bayes risk", NUM_CANDIDATES)):
            sampling = {"num_candidates": number, "temperature": TEMPERATURE}
            filled = [s.words(text) for text in s.write(None, seed, infill=texts, **sampling)]
            kept = [
                new[: g.start] == w[: g.start] and new[g.stop :] == w[g.stop :]
                for new, w, g in zip(filled, sentences, gaps)
            ]
            figures["kept"].append(float(np.mean(kept)))
            figures[name].append(bleu.corpus_score([" ".join(w[g]) for w, g in zip(filled, gaps)], [real]).score)
        figures["autoregressive"].append(by_peer(torch.Generator().manual_seed(seed)))
    figures["autoregressive, likeliest"] = [by_peer(None)]
    return figures
