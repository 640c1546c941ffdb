"""
Diffusion-LM on sentences of E2E and ATIS, beside an autoregressive LM of equal size: quality, speed, gaps, controls.

    python -m benchmarks.diffusion_lm --data-dir DIR [--datasets e2e atis] [--parts quality infilling controls ...]
        [--minutes 60] [--work-dir DIR]

Models are trained where the work folder has none yet. Figures go to benchmarks/results/diffusion_lm.json;
`python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sacrebleu.metrics import BLEU
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from difflm_hf import DiffusionLMPipeline, train_diffusion_lm
from difflm_hf.control import Guide
from difflm_hf.diffusion_lm import make_scheduler
from difflm_hf.diffusion_lm.annotation import annotate, load_spacy
from difflm_hf.diffusion_lm.constraints import MASK
from difflm_hf.diffusion_lm.controls import PartsOfSpeech, SemanticContent, SyntaxSpans, SyntaxTree
from difflm_hf.diffusion_lm.controls.classifier import words_of
from difflm_hf.diffusion_lm.measures import likelihood_bound, rounding_accuracy
from difflm_hf.evaluation.documents.measures import distinct_n
from difflm_hf.evaluation.language_models import perplexity, sample_documents, train_language_model
from difflm_hf.training.diffusion_lm import to_word_ids

from .results import load_result, save_result


DATASETS = ("e2e", "atis")
MINUTES = 60
STEPS = 200
NUM_TEXTS = 500  # of what is measured of texts by themselves
NUM_TARGETS, NUM_SAMPLES, NUM_SEEDS = 50, 10, 3
NUM_GAPS = 200
# As many parameters as the small Diffusion-LM, and its words
AUTOREGRESSIVE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 5}
SAMPLERS = {"ddpm": (20, 200, 2000), "ddim": (20, 200), "dpm++": (20, 200)}


@dataclass
class Setting:
    """A dataset, a Diffusion-LM of it, an autoregressive LM of the same size, and one that judges both."""

    name: str
    texts: dict[str, list[str]]
    attributes: dict[str, list[dict[str, str]]]
    pipe: DiffusionLMPipeline
    peer: tuple[PreTrainedModel, PreTrainedTokenizerBase]
    judge: tuple[PreTrainedModel, PreTrainedTokenizerBase]

    def perplexity(self, texts: Sequence[str]) -> float:
        return perplexity(*self.judge, [text for text in texts if text.strip()])["perplexity"]

    def write(self, num_texts: int | None, seed: int = 0, steps: int = STEPS, **arguments) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return self.pipe(num_texts, steps, generator=generator, **arguments).texts

    def normal(self, text: str) -> str:
        """As the tokenizer writes it, for comparisons: unknown words stand for themselves."""
        return " ".join(words_of(self.pipe.tokenizer, text))


def read(name: str, folder: Path) -> tuple[dict[str, list[str]], dict[str, list[dict[str, str]]]]:
    """Texts and their attributes, by split."""
    texts: dict[str, list[str]] = {}
    attributes: dict[str, list[dict[str, str]]] = {}
    for split in ("train", "valid", "test"):
        if name == "e2e":
            rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
            texts[split] = [row["text"] for row in rows]
            # What the sentence says in these words: others are paraphrased, and some left out.
            attributes[split] = [
                {name: value for name, value in row["attributes"].items() if value.lower() in row["text"].lower()}
                for row in rows
            ]
        else:
            lines = (folder / f"{split}.conllu").read_text(encoding="utf-8").splitlines()
            texts[split] = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
    return texts, attributes


def prepare(name: str, data_dir: Path, work_dir: Path, minutes: float) -> Setting:
    texts, attributes = read(name, data_dir / name)
    folder = work_dir / "diffusion-lm" / name
    if not (folder / "model" / "model_index.json").exists():
        train_diffusion_lm(texts["train"], folder / "model", texts["valid"], max_minutes=minutes)
    pipe = DiffusionLMPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    lms = {}
    for role, fields in (("peer", {"tokenizer": pipe.tokenizer, "config": AUTOREGRESSIVE}), ("judge", {})):
        if not (folder / role / "config.json").exists():
            fields |= {"length": 128, "batch_size": 32, "num_steps": 1500}
            for part in train_language_model(texts["train"], texts["valid"], **fields):
                part.save_pretrained(folder / role)
        lms[role] = (
            AutoModelForCausalLM.from_pretrained(folder / role).eval(),
            AutoTokenizer.from_pretrained(folder / role),
        )
    return Setting(name, texts, attributes, pipe, lms["peer"], lms["judge"])


def measure_quality(s: Setting) -> dict[str, Any]:
    """Bounds, and what both models write beside real sentences."""
    tokenizer, model = s.pipe.tokenizer, s.pipe.model
    ids = to_word_ids(s.texts["test"], tokenizer, model.config.max_sequence_length)[0].tensors["input_ids"]
    num_words = int((ids != tokenizer.pad_token_id).sum()) - len(ids)
    generator = torch.Generator().manual_seed(0)
    peer_nats = perplexity(*s.peer, s.texts["test"])["nats_per_document"] * len(s.texts["test"])
    figures: dict[str, Any] = {
        "nats_per_word": float(likelihood_bound(model, ids, 32, generator=generator).sum() / num_words),
        "peer_nats_per_word": peer_nats / sum(len(words_of(tokenizer, t)) + 1 for t in s.texts["test"]),
        "rounding_accuracy": rounding_accuracy(model, ids, generator),
        "parameters": model.num_parameters(),
        "peer_parameters": s.peer[0].num_parameters(),
    }
    written = {
        "real": s.texts["test"][:NUM_TEXTS],
        "diffusion": s.write(NUM_TEXTS),
        "autoregressive": sample_documents(*s.peer, NUM_TEXTS, 0),
    }
    train = set(map(s.normal, s.texts["train"]))
    figures["texts"] = {
        kind: {
            "perplexity": s.perplexity(texts),
            "distinct_4": distinct_n(texts, 4),
            "copies": float(np.mean([s.normal(text) in train for text in texts])),
        }
        for kind, texts in written.items()
    }
    figures["samples"] = written["diffusion"][:100]
    return figures


def measure_steps(s: Setting) -> dict[str, Any]:
    """Perplexity and sentences a second by scheduler and steps, and those of the autoregressive LM."""
    figures, scheduler = {}, s.pipe.scheduler
    for name, numbers in SAMPLERS.items():
        s.pipe.scheduler = make_scheduler(s.pipe.model.config, name)
        for steps in numbers:
            start, number = time.perf_counter(), NUM_TEXTS if steps < 2000 else 64
            texts = s.write(number, steps=steps)
            seconds = time.perf_counter() - start
            figures[f"{name}, {steps} steps"] = [s.perplexity(texts), distinct_n(texts, 4), number / seconds]
    s.pipe.scheduler = scheduler
    start = time.perf_counter()
    texts = sample_documents(*s.peer, NUM_TEXTS, 0)
    figures["autoregressive"] = [s.perplexity(texts), distinct_n(texts, 4), NUM_TEXTS / (time.perf_counter() - start)]
    return figures


def with_gap(s: Setting) -> tuple[list[list[str]], list[slice]]:
    """Words of test sentences that the model knows, and the middle third of each."""
    known, found, gaps = s.pipe.tokenizer.get_vocab(), [], []
    for text in s.texts["test"]:
        words = words_of(s.pipe.tokenizer, text)
        if 9 <= len(words) <= s.pipe.model.config.max_sequence_length - 2 and all(word in known for word in words):
            found.append(words)
            gaps.append(slice(len(words) // 3, len(words) // 3 + len(words) // 3))
    return found[:NUM_GAPS], gaps[:NUM_GAPS]


@torch.no_grad()
def peer_fills(s: Setting, words: list[str], gap: slice, generator: torch.Generator) -> list[str]:
    """As many words by the autoregressive LM, of what is left of the gap."""
    model, tokenizer = s.peer
    vocabulary = tokenizer.get_vocab()
    ids = [tokenizer.bos_token_id, *(vocabulary[word] for word in words[: gap.start])]
    for _ in range(gap.stop - gap.start):
        logits = model(torch.tensor([ids])).logits[0, -1]
        logits[[tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]] = -torch.inf
        ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
    return tokenizer.convert_ids_to_tokens(ids[1 + gap.start :])


def measure_infilling(s: Setting) -> dict[str, Any]:
    """BLEU of what fills gaps against what was there: of one sample, of 16 by minimum Bayes risk, and of the peer."""
    all_words, gaps = with_gap(s)
    texts = [" ".join([*w[: g.start], *[MASK] * (g.stop - g.start), *w[g.stop :]]) for w, g in zip(all_words, gaps)]
    real = [" ".join(words[gap]) for words, gap in zip(all_words, gaps)]
    figures: dict[str, Any] = {"diffusion": [], "minimum Bayes risk": [], "autoregressive": [], "kept": []}
    bleu = BLEU(tokenize="none", smooth_method="exp")
    for seed in range(NUM_SEEDS):
        for name, number in (("diffusion", 1), ("minimum Bayes risk", 16)):
            filled = s.write(None, seed, infill=texts, num_candidates=number)
            cut = [words_of(s.pipe.tokenizer, text) for text in filled]
            figures["kept"].append(
                float(
                    np.mean(
                        [
                            new[: g.start] == w[: g.start] and new[g.stop :] == w[g.stop :]
                            for new, w, g in zip(cut, all_words, gaps)
                        ]
                    )
                )
            )
            figures[name].append(bleu.corpus_score([" ".join(w[g]) for w, g in zip(cut, gaps)], [real]).score)
        generator = torch.Generator().manual_seed(seed)
        by_peer = [" ".join(peer_fills(s, words, gap, generator)) for words, gap in zip(all_words, gaps)]
        figures["autoregressive"].append(bleu.corpus_score(by_peer, [real]).score)
    return figures


def measure_controls(s: Setting) -> dict[str, Any]:
    """Success and perplexity of each control over targets, seeds and samples."""
    nlp, tokenizer = load_spacy(), s.pipe.tokenizer
    limit = s.pipe.model.config.max_sequence_length - 2
    train = [text for text in s.texts["train"] if len(words_of(tokenizer, text)) <= limit]
    annotations = annotate(train, tokenizer, nlp)
    targets = [a for a in annotate(s.texts["test"], tokenizer, nlp) if 5 <= len(a.words) <= limit][:NUM_TARGETS]
    tagger = PartsOfSpeech.fit(s.pipe, train, [a.tags for a in annotations])
    tree = SyntaxTree.fit(s.pipe, train, [a.spans for a in annotations])
    spans = SyntaxSpans.for_model(s.pipe.model, tree.labels)
    spans.load_state_dict(tree.state_dict())
    figures: dict[str, Any] = {"unguided perplexity": s.perplexity(s.write(NUM_TEXTS))}

    def judge(name: str, ask: Callable[[Any], dict[str, Any]], score: Callable[[Any, list[str]], list[float]]) -> None:
        found, texts = [], []
        for seed, target in enumerate(targets):
            # Each text has a random generator of its own: those of three seeds at once take less time.
            written = s.write(NUM_SAMPLES * NUM_SEEDS, seed, **ask(target))
            found.append(np.reshape(score(target, written), (NUM_SEEDS, NUM_SAMPLES, -1)))
            texts += written
        figures[name] = {"success": np.mean(found, axis=(0, 2)).tolist(), "perplexity": s.perplexity(texts)}
        print(s.name, name, figures[name], flush=True)

    def known(target: Any) -> Any:
        return [label for label in target.spans if label[2] in tree.labels]

    def tags_right(target: Any, texts: list[str]) -> list[float]:
        def share(tags: list[str]) -> float:
            return float(np.mean([k < len(tags) and tags[k] == tag for k, tag in enumerate(target.tags)]))

        return [share(a.tags) for a in annotate(texts, tokenizer, nlp)]

    def f1(target: Any, texts: list[str]) -> list[float]:
        wanted = Counter(target.spans)
        scores = []
        for found in (Counter(a.spans) for a in annotate(texts, tokenizer, nlp)):
            scores.append(2 * (wanted & found).total() / max(1, wanted.total() + found.total()))
        return scores

    def has_length(target: Any, texts: list[str]) -> list[float]:
        return [len(words_of(tokenizer, text)) == len(target.words) for text in texts]

    def tags_guide(target: Any) -> Guide:
        return tagger.guide([tag if tag in tagger.labels else tagger.labels[0] for tag in target.tags])

    def one_span(target: Any) -> Any:
        chosen = known(target)
        return chosen[len(chosen) // 2]

    targets = [target for target in targets if known(target)]
    judge("length", lambda t: {"length": len(t.words)}, has_length)
    judge("parts of speech", lambda t: {"length": len(t.words), "guides": [tags_guide(t)]}, tags_right)
    judge("syntax tree", lambda t: {"length": len(t.words), "guides": [tree.guide(known(t), length=len(t.words))]}, f1)
    judge(
        "syntax spans",
        lambda t: {"guides": [spans.guide([one_span(t)])]},
        lambda t, texts: [one_span(t) in a.spans for a in annotate(texts, tokenizer, nlp)],
    )
    if s.name == "e2e":
        attributes = [of for of, text in zip(s.attributes["train"], s.texts["train"]) if text in set(train)]
        content = SemanticContent.fit(s.pipe, train, attributes)
        rng = np.random.default_rng(0)
        pairs = [
            pair
            for of in s.attributes["test"]
            for pair in of.items()
            if pair[0] in content.labels and pair[1] in content.labels[pair[0]]
        ]
        chosen = [pairs[k] for k in rng.choice(len(pairs), NUM_TARGETS, replace=False)]
        targets_of_syntax = targets
        targets = chosen
        judge(
            "semantic content",
            lambda t: {"guides": [content.guide(dict([t]))]},
            lambda t, texts: [t[1].lower() in text.lower() for text in texts],
        )
        targets = list(zip(chosen, targets_of_syntax))

        def says(target: Any, texts: list[str]) -> list[float]:
            return [target[0][1].lower() in text.lower() for text in texts]

        both = {
            "length": (lambda t: {"length": len(t.words)}, has_length),
            "parts of speech": (lambda t: {"length": len(t.words), "guides": [tags_guide(t)]}, tags_right),
            "syntax tree": (
                lambda t: {"length": len(t.words), "guides": [tree.guide(known(t), length=len(t.words))]},
                f1,
            ),
        }
        for name, (ask, score) in both.items():

            def ask_both(target: Any, ask: Callable = ask) -> dict[str, Any]:
                other = ask(target[1])
                return {**other, "guides": [content.guide(dict([target[0]])), *other.get("guides", [])]}

            def score_both(target: Any, texts: list[str], score: Callable = score) -> list[list[float]]:
                return [list(pair) for pair in zip(says(target, texts), score(target[1], texts))]

            judge(f"semantic content and {name}", ask_both, score_both)
    return figures


PARTS = {
    "quality": measure_quality,
    "steps": measure_steps,
    "infilling": measure_infilling,
    "controls": measure_controls,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    for name in args.datasets:
        setting = prepare(name, args.data_dir, args.work_dir, args.minutes)
        for part in args.parts:
            figures = load_result("diffusion_lm").get(part, {})
            figures[name] = PARTS[part](setting)
            save_result("diffusion_lm", {part: figures})
            print(part, name, {k: v for k, v in figures[name].items() if k != "samples"}, flush=True)


if __name__ == "__main__":
    main()
