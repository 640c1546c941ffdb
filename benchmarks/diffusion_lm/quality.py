"""What Diffusion-LM writes by itself, and how fast."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from difflm_hf.diffusion_lm import make_scheduler
from difflm_hf.diffusion_lm.controls import PartsOfSpeech
from difflm_hf.diffusion_lm.measures import likelihood_bound, rounding_accuracy
from difflm_hf.diffusion_lm.word_tokenizer import encode_texts
from difflm_hf.evaluation.documents.measures import distinct_n
from difflm_hf.evaluation.language_models import perplexity, sample_documents

from .setting import NUM_SEEDS, NUM_TEXTS, Setting


SAMPLERS = {"ddpm": (20, 200, 2000), "ddim": (20, 200), "dpm++": (20, 200)}
TEMPERATURES = (1.0, 0.8, 0.7, 0.65, 0.5)
NUM_SCORED = 200
NUM_TIMED, NUM_TIMED_SLOW = 128, 16  # texts, the latter of 2,000 steps


def measure_texts(s: Setting, texts: list[str]) -> list[float]:
    """Perplexity, distinct 4-grams, and copies of training texts."""
    train = set(map(s.normal, s.data["train"].texts))
    return [s.perplexity(texts), distinct_n(texts, 4), float(np.mean([s.normal(text) in train for text in texts]))]


def measure_quality(s: Setting) -> dict[str, Any]:
    """Bounds, and what both models write beside real sentences."""
    tokenizer, model, real = s.pipe.tokenizer, s.pipe.model, s.data["test"].texts
    ids = encode_texts(real, tokenizer, model.config.max_sequence_length)[0]
    num_words = int((ids != tokenizer.pad_token_id).sum()) - len(ids)
    generator = torch.Generator().manual_seed(0)
    peer_nats = perplexity(*s.peer, real)["nats_per_document"] * len(real)
    training = s.pipe.config["training"]["phases"][0]
    ways = {"autoregressive": lambda seed: sample_documents(*s.peer, NUM_TEXTS, seed)}
    for t in TEMPERATURES:
        ways[f"temperature {t}"] = lambda seed, t=t: s.write(NUM_TEXTS, seed, temperature=t)
    return {
        "nats_per_word": float(likelihood_bound(model, ids, 32, generator=generator).sum() / num_words),
        "peer_nats_per_word": peer_nats / sum(len(s.words(text)) + 1 for text in real),
        "rounding_accuracy": rounding_accuracy(model, ids, generator),
        "parameters": model.num_parameters(),
        "peer_parameters": s.peer[0].num_parameters(),
        "training": {"num_steps": training["num_steps"], "minutes": training["seconds"] / 60},
        "real": measure_texts(s, s.some_real(NUM_TEXTS)),
        "texts": {name: [measure_texts(s, write(seed)) for seed in range(NUM_SEEDS)] for name, write in ways.items()},
        "samples": s.write(100),
    }


def measure_steps(s: Setting) -> dict[str, Any]:
    """Texts a second by scheduler and steps, and perplexity and distinct 4-grams by temperature, too."""
    figures: dict[str, Any] = {}
    scheduler = s.pipe.scheduler

    def of(texts: list[str]) -> list[float]:
        return [s.perplexity(texts), distinct_n(texts, 4)]

    # What a guide costs does not depend on what it was taught.
    guides = [PartsOfSpeech.for_model(s.pipe.model, ["NOUN", "VERB"]).eval().guide(["NOUN", "VERB"] * 4)]
    for name, numbers in SAMPLERS.items():
        s.pipe.scheduler = make_scheduler(s.pipe.model.config, name)
        for steps in numbers:
            figures[f"{name}, {steps} steps"] = {
                "texts_per_second": [rate(s, steps), rate(s, steps, guides=guides)],
                "texts": {t: of(s.write(NUM_SCORED, 0, steps, temperature=t)) for t in TEMPERATURES if steps < 2000},
            }
    s.pipe.scheduler = scheduler
    start = time.perf_counter()
    texts = sample_documents(*s.peer, NUM_SCORED, 0)
    seconds = time.perf_counter() - start
    figures["autoregressive"] = {"texts_per_second": [NUM_SCORED / seconds], "texts": {1.0: of(texts)}}
    figures["real"] = {"texts": {"–": of(s.some_real(NUM_SCORED))}}
    return figures


def rate(s: Setting, steps: int, **arguments) -> float:
    number = NUM_TIMED if steps < 2000 else NUM_TIMED_SLOW
    start = time.perf_counter()
    s.write(number, steps=steps, **arguments)
    return number / (time.perf_counter() - start)
