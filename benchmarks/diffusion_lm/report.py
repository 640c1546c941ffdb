"""The page's passage on Diffusion-LM, and its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..markdown import mean_interval, to_table
from ..results import load_result
from .ablations import NUM_STEPS as NUM_ABLATION_STEPS
from .ablations import NUM_TEXTS as NUM_ABLATION_TEXTS
from .controls import NUM_CANDIDATES, NUM_SAMPLES, NUM_SPAN_CANDIDATES, NUM_TARGETS
from .controls import TEMPERATURE as CONTROLLED
from .infilling import NUM_CANDIDATES as NUM_FILLS
from .infilling import NUM_GAPS, TEMPERATURE
from .quality import NUM_SCORED
from .setting import NUM_SEEDS, NUM_TEXTS, STEPS
from .systems import NAME


SAMPLES = Path("docs/diffusion_lm_samples.md")
# Success in per cent (arXiv 2205.14217, tables 2 and 4), of other data, classifiers and judges
PUBLISHED = {
    ("semantic content", "semantic content"): 81.2,
    ("parts of speech", "parts of speech"): 90.0,
    ("syntax tree", "syntax tree, F1"): 86.0,
    ("syntax spans", "syntax spans"): 93.8,
    ("length", "length, within 2"): 99.9,
    ("semantic content and syntax tree", "semantic content"): 69.8,
    ("semantic content and syntax tree", "syntax tree, F1"): 74.8,
    ("semantic content and parts of speech", "semantic content"): 63.7,
    ("semantic content and parts of speech", "parts of speech"): 69.1,
}


def diffusion_lm_section() -> str:
    """What `benchmarks.diffusion_lm` measured."""
    results = load_result("diffusion_lm")
    parts = {
        "quality": _quality,
        "steps": _steps,
        "controls": _controls,
        "infilling": _infilling,
        "ablations": _ablations,
        "systems": _systems,
    }
    return "\n\n".join(passage(results[part]) for part, passage in parts.items() if part in results)


def _texts(runs: list[list[float]]) -> list[str]:
    """Perplexity, distinct 4-grams and copies of several runs."""
    perplexities, distinct, copies = zip(*runs)
    return [
        mean_interval(perplexities, ".2f"),
        mean_interval(distinct, ".3f"),
        mean_interval([100 * share for share in copies], ".1f") + " %",
    ]


def _quality(figures: dict[str, Any]) -> str:
    passages, rows = [], []
    for name, of in figures.items():
        passages.append(
            f"On {name}, {of['training']['num_steps']:,} steps in {of['training']['minutes']:.0f} minutes gave "
            f"{of['parameters'] / 1e6:.1f} M parameters a bound of {of['nats_per_word']:.3f} nats per word, beside "
            f"{of['peer_nats_per_word']:.3f} nats of the autoregressive LM of {of['peer_parameters'] / 1e6:.1f} M, "
            f"and a rounding accuracy at t = 0 of {of['rounding_accuracy']:.2%}."
        )
        rows.append([name, "real", *_texts([of["real"]])])
        rows += [[name, way, *_texts(runs)] for way, runs in of["texts"].items()]
    return (
        " ".join(passages)
        + f" What both write, {NUM_TEXTS} texts of {NUM_SEEDS} seeds, by {STEPS} steps: perplexity under a third LM, "
        "which was trained on real sentences, the share of distinct 4-grams, and that of copies of training "
        "sentences:\n\n"
        + to_table(["sentences", "written by", "perplexity", "distinct 4-grams", "copies"], rows)
        + f"\n\n[A hundred texts of e2e as they came]({SAMPLES.name})."
    )


def _steps(figures: dict[str, Any]) -> str:
    rows = []
    for name, of in figures.items():
        for way, run in of.items():
            rates = [f"{rate:.3g}" for rate in run.get("texts_per_second", ())]
            for temperature, values in run["texts"].items() or [("–", ())]:
                cells = [f"{values[0]:.2f}", f"{values[1]:.3f}"] if values else ["–", "–"]
                rows.append([name, way, temperature, *cells, *[*rates, "–", "–"][:2]])
    head = ["sentences", "sampler", "temperature", "perplexity", "distinct 4-grams", "texts/s", "guided"]
    return (
        "Of a later training than the one above, of 4,000 steps, and beside other work on the second core: by "
        f"scheduler, steps and temperature, {NUM_SCORED} texts each, and texts a second with and without a guide "
        "to parts of speech. A temperature costs diversity and gives fluency, more so the more steps there are: fewer "
        "steps are to be compared at a lower temperature, where distinct 4-grams are as many:\n\n"
        + to_table(head, rows)
    )


def _controls(figures: dict[str, Any]) -> str:
    rows = []
    for name, of in figures.items():
        unguided = of["unguided perplexity"]
        for control, run in of.items():
            if control == "unguided perplexity":
                continue
            perplexity = f"{mean_interval(run['perplexity'], '.2f')} ({np.mean(run['perplexity']) / unguided:.2f} ×)"
            for judge, success in run["success"].items():
                published = PUBLISHED.get((control, judge)) if name == "e2e" else None
                rows.append(
                    [
                        name,
                        control,
                        judge,
                        mean_interval([100 * share for share in success["guided"]], ".1f"),
                        *(f"{100 * success[key]:.1f}" for key in ("free", "real")),
                        perplexity,
                        f"{run['texts_per_second']:.2f}",
                        "–" if published is None else f"{published:.1f}",
                    ]
                )
    head = ["sentences", "control", "judged by", "success, %", "free", "real", "perplexity", "texts/s", "paper"]
    return (
        f"Control: {NUM_TARGETS} targets from test sentences, {NUM_SAMPLES} texts of {NUM_SEEDS} seeds each, by "
        f"{STEPS} steps at the temperature {CONTROLLED}, the best of {NUM_CANDIDATES} candidates, of "
        f"{NUM_SPAN_CANDIDATES} for spans; scales and these numbers were chosen by validation sentences. "
        "*Free* are texts without guides, *real* the test sentences themselves, under the same judge: on e2e spaCy's "
        "parser, and a second tagger; on atis a spaCy pipeline that was trained on the gold trees. Perplexity is "
        "followed by its ratio to that of free texts, texts/s are of one thread. The paper's figures are of other "
        "classifiers, judges and trees; its length is within 2:\n\n" + to_table(head, rows)
    )


def _infilling(figures: dict[str, Any]) -> str:
    names = ("one sample", "minimum Bayes risk", "autoregressive", "autoregressive, likeliest")
    rows = [
        [name, *(mean_interval(of[way], ".1f") for way in names), f"{np.mean(of['kept']):.0%}"]
        for name, of in figures.items()
    ]
    return (
        f"Infilling: the middle third of {NUM_GAPS} test sentences, BLEU against what was there, of one sample, of "
        f"the best of {NUM_FILLS} by minimum Bayes risk, both at the temperature {TEMPERATURE}, and of the "
        "autoregressive LM, which sees what stands left of it, by samples and by its likeliest words:\n\n"
        + to_table(["sentences", *names, "known words kept"], rows)
    )


def _ablations(figures: dict[str, Any]) -> str:
    rows = [
        [name, way, f"{run['nats_per_word']:.3f}", *_texts(run["texts"])]
        for name, of in figures.items()
        for way, run in of["runs"].items()
    ]
    head = ["sentences", "recipe", "nats per word", "perplexity", "distinct 4-grams", "copies"]
    return (
        f"What the switches are worth, by trainings of {NUM_ABLATION_STEPS} steps and {NUM_ABLATION_TEXTS} texts of "
        f"{NUM_SEEDS} seeds:\n\n" + to_table(head, rows)
    )


def _systems(figures: dict[str, Any]) -> str:
    ways = {"free": "free", "given": f"with “{NAME}” given", "guided": f"guided to “{NAME}”"}
    rows = [
        [
            name,
            system,
            ways[way],
            *_texts([run["texts"] for run in runs]),
            "–" if way == "free" else f"{np.mean([run['success'] for run in runs]):.0%}",
            mean_interval([run["texts_per_second"] for run in runs], ".1f"),
        ]
        for name, of in figures.items()
        for system, by_way in of["systems"].items()
        for way, runs in by_way.items()
    ]
    head = ["sentences", "system", "texts", "perplexity", "distinct 4-grams", "copies", "success", "texts/s"]
    sizes = "; ".join(
        f"on {name} of {' and '.join(f'{n / 1e6:.1f} M ({system})' for system, n in of['parameters'].items())}, "
        f"DiffLM after {of['minutes']:.0f} minutes"
        for name, of in figures.items()
    )
    return (
        f"Both systems on the same sentences, by models {sizes}; a "
        "[comparison of both](diffusion_lm.md#beside-difflm) says what follows. Each ran in one thread beside other "
        "work, so that texts/s are rough:\n\n" + to_table(head, rows)
    )


def write_samples() -> None:
    """The texts of e2e on a page of their own."""
    quality = load_result("diffusion_lm").get("quality", {})
    if "e2e" in quality:
        lines = [f"{k}. {text}" for k, text in enumerate(quality["e2e"]["samples"], start=1)]
        head = (
            "# A hundred texts of Diffusion-LM\n\n"
            f"The first ones of seed 0, as they came, by {STEPS} steps, of the model of e2e in the "
            "[benchmarks](benchmarks.md#diffusion-lm).\n\n"
        )
        SAMPLES.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
