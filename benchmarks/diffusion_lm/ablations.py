"""What each switch of the small recipe is worth: the same training without it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from difflm_hf import DiffusionLMPipeline, train_diffusion_lm
from difflm_hf.diffusion_lm.measures import likelihood_bound
from difflm_hf.diffusion_lm.word_tokenizer import encode_texts
from difflm_hf.training.diffusion_lm import DIFFUSION_LM_RECIPES

from .quality import measure_texts
from .setting import NUM_SEEDS, Setting


NUM_STEPS = 400  # of each training
NUM_TEXTS, NUM_INFERENCE_STEPS = 100, 200  # as models without weighted embeddings need them
UNWEIGHTED = {"weighted_embeddings": False}
ABLATIONS: dict[str, dict[str, Any]] = {
    "small": {},
    "no self-conditioning": {"self_conditioning": False},
    "no cross-entropy on x̂₀": {"cross_entropy_weight": 0.0},
    "no output prior": {"output_prior": False},
    "fixed embeddings": {"train_embeddings": False},
    "x₀ not by words": UNWEIGHTED,
    "ε for x₀": {**UNWEIGHTED, "prediction_type": "epsilon"},
}
CLAMPED = ("small", "x₀ not by words")  # sampled with clamping, too


def measure_ablations(s: Setting) -> dict[str, Any]:
    """Perplexity, distinct 4-grams and copies of what each writes, and its bound of test sentences."""
    figures: dict[str, Any] = {}
    for name, switches in ABLATIONS.items():
        pipe = trained(s, name, switches)
        ids, _ = encode_texts(s.data["test"].texts, pipe.tokenizer, pipe.model.config.max_sequence_length)
        num_words = int((ids != pipe.tokenizer.pad_token_id).sum()) - len(ids)
        bound = likelihood_bound(pipe.model, ids, generator=torch.Generator().manual_seed(0)).sum() / num_words
        for clamp in (False, True) if name in CLAMPED else (False,):
            arguments = {"num_inference_steps": NUM_INFERENCE_STEPS, "clamp": clamp}
            written = [
                pipe(NUM_TEXTS, generator=torch.Generator().manual_seed(seed), **arguments).texts
                for seed in range(NUM_SEEDS)
            ]
            runs = [measure_texts(s, texts) for texts in written]
            label = f"{name}, clamped" if clamp else name
            figures[label] = {"texts": runs, "nats_per_word": float(bound)}
            print(label, figures[label], flush=True)
    return {"num_steps": NUM_STEPS, "runs": figures}


def trained(s: Setting, name: str, switches: dict[str, Any]) -> DiffusionLMPipeline:
    folder = s.folder / "ablations" / name
    if not (folder / "model_index.json").exists():
        recipe = deepcopy(DIFFUSION_LM_RECIPES["small"])
        recipe.arguments |= {"max_steps": NUM_STEPS}
        train, valid = s.data["train"].texts, s.data["valid"].texts
        train_diffusion_lm(train, folder, valid, recipe=recipe, config=switches, resume=folder.exists())
    pipe = DiffusionLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe
