"""The six controls, and three pairs of them: success and perplexity over targets, seeds and samples."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from difflm_hf.diffusion_lm.controls import PartsOfSpeech, SemanticContent, SyntaxSpans, SyntaxTree
from difflm_hf.diffusion_lm.controls.classifier import EmbeddingClassifier

from .oracles import Reading, make_oracle
from .setting import NUM_SEEDS, Sentences, Setting


NUM_TARGETS, NUM_SAMPLES = 50, 10
NUM_CANDIDATES, TEMPERATURE = 6, 0.65  # of texts under control
NUM_SPAN_CANDIDATES = 10  # of those with a span, which are judged by all or nothing
NUM_TEACHING = 3000  # steps of each classifier
# Chosen by targets of the validation split
SCALES = {"semantic content": 6.0, "parts of speech": 1.5, "syntax tree": 1.5, "syntax spans": 4.0}
LETTERS = ("PUNCT", "NUM", "SYM")  # the second tagger does not know


@dataclass
class Target:
    """A test sentence, and a value that it names."""

    reading: Reading
    pair: tuple[str, str] | None = None

    @property
    def length(self) -> int:
        return len(self.reading.words)


@dataclass
class Control:
    """What is asked of the pipeline for a target, and how a text is judged by it, from 0 to 1."""

    ask: Callable[[Target], dict[str, Any]]
    judges: dict[str, Callable[[Target, Reading], float]]

    def __and__(self, other: Control) -> Control:
        def ask(target: Target) -> dict[str, Any]:
            first, second = self.ask(target), other.ask(target)
            return {**first, **second, "guides": [*first.get("guides", ()), *second.get("guides", ())]}

        return Control(ask, {**self.judges, **other.judges})


def same_tags(wanted: list[str], found: list[str], ignored: tuple[str, ...] = ()) -> float:
    places = [k for k, tag in enumerate(wanted) if tag not in ignored]
    return float(np.mean([k < len(found) and found[k] == wanted[k] for k in places])) if places else 1.0


def f1(wanted: list[Any], found: list[Any]) -> float:
    common = (Counter(wanted) & Counter(found)).total()
    return 2 * common / max(1, len(wanted) + len(found))


def one_span(target: Target, labels: list[str]) -> tuple[int, int, str]:
    spans = [span for span in target.reading.spans if span[2] in labels]
    return spans[len(spans) // 2]


def teach(s: Setting, read: Callable) -> dict[str, EmbeddingClassifier]:
    """The classifiers, taught once and kept in the work folder."""
    split = s.data["train"]
    kinds = {"parts of speech": PartsOfSpeech, "syntax tree": SyntaxTree, "semantic content": SemanticContent}
    if s.name != "e2e":
        del kinds["semantic content"]
    folders = {name: s.folder / "controls" / name for name in kinds}
    if not all(folder.exists() for folder in folders.values()):
        rows = [k for k, text in enumerate(split.texts) if not split.words or split.words[k] == s.words(text)]
        texts = [split.texts[k] for k in rows]
        labels = labels_of(split, rows, texts, read)
        for name, cls in kinds.items():
            cls.fit(s.pipe, texts, labels[name], num_steps=NUM_TEACHING).save_pretrained(folders[name])
    found = {name: cls.from_pretrained(folders[name]).eval().requires_grad_(False) for name, cls in kinds.items()}
    spans = SyntaxSpans.for_model(s.pipe.model, found["syntax tree"].labels)
    spans.load_state_dict(found["syntax tree"].state_dict())
    return found | {"syntax spans": spans.eval().requires_grad_(False)}


def labels_of(split: Sentences, rows: list[int], texts: list[str], read: Callable) -> dict[str, list[Any]]:
    """Gold ones where the data has them, of tags and constituents."""
    if split.tags:
        spans = split.spans
        return {"parts of speech": [split.tags[k] for k in rows], "syntax tree": [spans[k] for k in rows]}
    readings = read(texts)
    return {
        "parts of speech": [reading.tags for reading in readings],
        "syntax tree": [reading.spans for reading in readings],
        "semantic content": [split.attributes[k] for k in rows],
    }


def find_targets(
    s: Setting, guides: dict[str, EmbeddingClassifier], read: Callable, split: str = "test"
) -> list[Target]:
    """Sentences with tags and constituents that were taught, of E2E with a value, too."""
    sentences, limit = s.data[split], s.pipe.model.config.max_sequence_length - 2
    rng, spans, targets = np.random.default_rng(0), sentences.spans, []
    for k in rng.permutation(len(sentences.texts)):
        reading, pair = read([sentences.texts[k]])[0], None
        if sentences.tags:
            if reading.words != sentences.words[k]:
                continue
            reading.tags, reading.spans = sentences.tags[k], spans[k]
        labels = guides["syntax tree"].labels
        reading.spans = [span for span in reading.spans if span[2] in labels]
        if "semantic content" in guides:
            values = guides["semantic content"].labels
            pairs = [p for p in sentences.attributes[k].items() if p[1] in values.get(p[0], ())]
            if not pairs:
                continue
            pair = pairs[rng.integers(len(pairs))]
        known = set(reading.tags) <= set(guides["parts of speech"].labels)
        if known and reading.spans and 5 <= len(reading.words) <= limit:
            targets.append(Target(reading, pair))
        if len(targets) == NUM_TARGETS:
            break
    return targets


def make_controls(guides: dict[str, EmbeddingClassifier]) -> dict[str, Control]:
    labels = guides["syntax tree"].labels

    def guide(name: str, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        return {"guides": [guides[name].guide(*arguments, scale=SCALES[name], **keywords)]}

    found = {
        "length": Control(
            lambda t: {"length": t.length},
            {
                "length": lambda t, r: len(r.words) == t.length,
                "length, within 2": lambda t, r: abs(len(r.words) - t.length) <= 2,
            },
        ),
        "parts of speech": Control(
            lambda t: {"length": t.length, **guide("parts of speech", t.reading.tags)},
            {
                "parts of speech": lambda t, r: same_tags(t.reading.tags, r.tags),
                "parts of speech, second judge": lambda t, r: same_tags(t.reading.tags, r.second_tags, LETTERS),
            },
        ),
        "syntax tree": Control(
            lambda t: {"length": t.length, **guide("syntax tree", t.reading.spans, length=t.length)},
            {"syntax tree, F1": lambda t, r: f1(t.reading.spans, r.spans)},
        ),
        "syntax spans": Control(
            lambda t: {
                "num_candidates": NUM_SPAN_CANDIDATES,
                **guide("syntax spans", [one_span(t, labels)]),
            },
            {"syntax spans": lambda t, r: one_span(t, labels) in r.spans},
        ),
    }
    if "semantic content" in guides:
        content = Control(
            lambda t: guide("semantic content", dict([t.pair])),
            {"semantic content": lambda t, r: t.pair[1].lower() in r.text.lower()},
        )
        pairs = {
            f"semantic content and {name}": content & found[name]
            for name in ("length", "parts of speech", "syntax tree")
        }
        found = {"semantic content": content, **found, **pairs}
    return found


def measure_controls(s: Setting, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Of each control: success of texts under control, of free texts, and of the real sentences themselves."""
    read = make_oracle(s)
    guides = teach(s, read)
    targets = find_targets(s, guides, read)
    free = read(s.write(NUM_TARGETS * NUM_SAMPLES, temperature=TEMPERATURE))
    figures: dict[str, Any] = {"unguided perplexity": s.perplexity([reading.text for reading in free])}
    controls = make_controls(guides)
    for name in controls if names is None else names:
        figures[name] = measure_control(s, controls[name], targets, read, free)
        print(s.name, name, figures[name], flush=True)
    return figures


def measure_control(
    s: Setting, control: Control, targets: list[Target], read: Callable, free: list[Reading], **arguments
) -> dict[str, Any]:
    written, start = [], time.perf_counter()
    for seed, target in enumerate(targets):
        # Each text has a random generator of its own: those of three seeds at once take less time.
        asked = {"num_candidates": NUM_CANDIDATES, "temperature": TEMPERATURE, **control.ask(target), **arguments}
        written.append(read(s.write(NUM_SAMPLES * NUM_SEEDS, seed, **asked)))
    seconds = time.perf_counter() - start

    def success(judge: Callable[[Target, Reading], float], readings: list[list[Reading]]) -> np.ndarray:
        return np.array([[judge(target, r) for r in of] for target, of in zip(targets, readings)], dtype=float)

    real = [[reading] for reading in read([target.reading.text for target in targets])]
    by_chance = [free[k * NUM_SAMPLES : (k + 1) * NUM_SAMPLES] for k in range(len(targets))]
    return {
        "success": {
            name: {
                "guided": success(judge, written).reshape(-1, NUM_SEEDS, NUM_SAMPLES).mean((0, 2)).tolist(),
                "free": float(success(judge, by_chance).mean()),
                "real": float(success(judge, real).mean()),
            }
            for name, judge in control.judges.items()
        },
        "perplexity": [
            s.perplexity([r.text for of in written for r in of[seed * NUM_SAMPLES : (seed + 1) * NUM_SAMPLES]])
            for seed in range(NUM_SEEDS)
        ],
        "texts_per_second": len(targets) * NUM_SAMPLES * NUM_SEEDS / seconds,
    }
