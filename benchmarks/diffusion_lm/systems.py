"""DiffLM on the sentences of Diffusion-LM: quality, control and speed of both."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import torch

from difflm_hf import DiffLMPipeline, train
from difflm_hf.control import Contains

from .quality import measure_texts
from .setting import NUM_SEEDS, NUM_TEXTS, Setting


NAME = "The Mill"
NUM_NAMED = 100


def measure_systems(s: Setting) -> dict[str, Any]:
    """What DiffLM writes after as much training, and how fast; then sentences that have a name in them."""
    folder = s.folder / "difflm"
    if not (folder / "model_index.json").exists():
        tables = [pd.DataFrame({"text": s.data[split].texts}) for split in ("train", "valid")]
        train(tables[0], folder, validation=tables[1], max_minutes=s.minutes)
    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)

    def write(number: int, seed: int, **arguments) -> tuple[list[str], float]:
        start, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
        records = pipe(number, generator=generator, **arguments).records
        return [record["text"] for record in records], number / (time.perf_counter() - start)

    free = [write(NUM_TEXTS, seed) for seed in range(NUM_SEEDS)]
    named = [write(NUM_NAMED, seed, conditions={"text": Contains(NAME)}) for seed in range(NUM_SEEDS)]
    return {
        "parameters": sum(part.num_parameters() for part in (pipe.vae, pipe.denoiser)),
        "minutes": s.minutes,
        "texts": [measure_texts(s, texts) for texts, _ in free],
        "texts_per_second": [rate for _, rate in free],
        "named": {
            "success": [sum(NAME in text for text in texts) / len(texts) for texts, _ in named],
            "perplexity": [s.perplexity(texts) for texts, _ in named],
            "texts_per_second": [rate for _, rate in named],
        },
    }
