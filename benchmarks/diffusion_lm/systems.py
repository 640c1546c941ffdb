"""DiffLM and Diffusion-LM on the same sentences: quality, control and speed of both."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import torch

from difflm_hf import DiffLMPipeline, train
from difflm_hf.control import LatentClassifier
from difflm_hf.diffusion_lm.controls import SemanticContent

from .controls import NUM_CANDIDATES, NUM_TEACHING, SCALES
from .quality import measure_texts
from .setting import NUM_SEEDS, NUM_TEXTS, Sentences, Setting


NAME = "The Mill"
NUM_NAMED = 100  # texts that are to name it
GUIDE_SCALE = 3.0  # of latents


def measure_systems(s: Setting) -> dict[str, Any]:
    """
    What both write, and how fast, freely and with a name: what the one makes certain by a value of a field the other
    does by a text with gaps, and both by a classifier that was taught by the same names.
    """
    table, pipe = records(s.data["train"]), difflm(s)
    classifier = LatentClassifier.fit(pipe, table, "name")
    names = [{"name": name} for name in table["name"]]
    folder = s.folder / "controls" / "semantic content"
    if not folder.exists():
        SemanticContent.fit(s.pipe, list(table["text"]), names, num_steps=NUM_TEACHING).save_pretrained(folder)
    content = SemanticContent.from_pretrained(folder).eval().requires_grad_(False)
    asked = content.guide({"name": NAME}, scale=SCALES["semantic content"])
    ways = {
        "DiffLM": {
            "free": {},
            "given": {"conditions": {"name": NAME}},
            "guided": {"guides": [classifier.guide(NAME, GUIDE_SCALE)]},
        },
        "Diffusion-LM": {
            "free": {},
            "given": {"infill": [f"[gap] {NAME} [gap]"] * NUM_NAMED},
            "guided": {"guides": [asked], "num_candidates": NUM_CANDIDATES},
        },
    }
    writers = {"DiffLM": write_records(pipe), "Diffusion-LM": s.write}
    systems = {
        system: {
            way: [timed(s, writers[system], NUM_NAMED if way != "free" else NUM_TEXTS, k, a) for k in range(NUM_SEEDS)]
            for way, a in of.items()
        }
        for system, of in ways.items()
    }
    sizes = {"DiffLM": (pipe.vae, pipe.denoiser), "Diffusion-LM": (s.pipe.model,)}
    parameters = {system: sum(part.num_parameters() for part in parts) for system, parts in sizes.items()}
    return {"systems": systems, "parameters": parameters, "minutes": s.minutes}


def records(sentences: Sentences) -> pd.DataFrame:
    """Sentences with the values of fields that stand in them."""
    return pd.DataFrame([{**of, "text": text} for text, of in zip(sentences.texts, sentences.attributes)])


def difflm(s: Setting) -> DiffLMPipeline:
    folder = s.folder / "difflm"
    if not (folder / "model_index.json").exists():
        train(records(s.data["train"]), folder, validation=records(s.data["valid"]), max_minutes=s.minutes)
    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_records(pipe: DiffLMPipeline):
    def write(number: int, seed: int, **arguments) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return [record["text"] for record in pipe(number, generator=generator, **arguments).records]

    return write


def timed(s: Setting, write, number: int, seed: int, arguments: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    texts = write(None if "infill" in arguments else number, seed, **arguments)
    seconds = time.perf_counter() - start
    return {
        "texts": measure_texts(s, texts),
        "success": sum(NAME in text for text in texts) / number,
        "texts_per_second": number / seconds,
    }
