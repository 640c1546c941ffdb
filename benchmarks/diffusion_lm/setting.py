"""A dataset, a Diffusion-LM of it, and the LMs beside it: what the benchmarks of Diffusion-LM share."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from difflm_hf import DiffusionLMPipeline, train_diffusion_lm
from difflm_hf.diffusion_lm.pipeline_diffusion_lm import NUM_INFERENCE_STEPS
from difflm_hf.diffusion_lm.word_tokenizer import train_word_tokenizer, words_of
from difflm_hf.evaluation.language_models import perplexity, train_language_model
from difflm_hf.training.diffusion_lm import DIFFUSION_LM_RECIPES


SPLITS = ("train", "valid", "test")
MINUTES = 60
STEPS = NUM_INFERENCE_STEPS
NUM_TEXTS = 500  # of what is measured of texts by themselves
NUM_SEEDS = 3
# As many parameters as the small Diffusion-LM, and its words
AUTOREGRESSIVE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 5}


@dataclass
class Sentences:
    """
    Those of a split, as its file has them.

    Args:
        texts (`list[str]`): The sentences.
        attributes (`list[dict[str, str]]`): Of E2E what each says in these very words; others are paraphrased.
        words, tags, heads, relations: Of ATIS the gold words, and of each its part of speech, the place of the word it
            hangs on (−1 of the root), and how it does.
    """

    texts: list[str]
    attributes: list[dict[str, str]] = field(default_factory=list)
    words: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    heads: list[list[int]] = field(default_factory=list)
    relations: list[list[str]] = field(default_factory=list)

    @property
    def spans(self) -> list[list[tuple[int, int, str]]]:
        """What hangs on a word, of two words and more: (first word, word after the last, relation)."""
        return [subtrees(*of_text) for of_text in zip(self.heads, self.relations)]


LanguageModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass
class Setting:
    """A dataset, and models of it, each trained when it is first asked for and its folder has none."""

    name: str
    folder: Path
    minutes: float
    data: dict[str, Sentences]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        recipe = DIFFUSION_LM_RECIPES["small"]
        texts, length = self.data["train"].texts, recipe.config["max_sequence_length"]
        return train_word_tokenizer(texts, recipe.min_frequency, length)

    @cached_property
    def pipe(self) -> DiffusionLMPipeline:
        """The Diffusion-LM."""
        folder = self.folder / "model"
        if not (folder / "model_index.json").exists():
            train, valid = self.data["train"].texts, self.data["valid"].texts
            train_diffusion_lm(train, folder, valid, tokenizer=self.tokenizer, max_minutes=self.minutes)
        pipe = DiffusionLMPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def peer(self) -> LanguageModel:
        """An autoregressive LM of the same words and size."""
        return self._language_model("peer", tokenizer=self.tokenizer, config=AUTOREGRESSIVE)

    @cached_property
    def judge(self) -> LanguageModel:
        """The LM of real sentences by which texts are judged."""
        return self._language_model("judge")

    def _language_model(self, role: str, **fields) -> LanguageModel:
        folder = self.folder / role
        if not (folder / "config.json").exists():
            train, valid = self.data["train"].texts, self.data["valid"].texts
            fields |= {"length": 128, "batch_size": 32, "num_steps": 1500}
            for part in train_language_model(train, valid, **fields):
                part.save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def perplexity(self, texts: Sequence[str]) -> float:
        return perplexity(*self.judge, [text for text in texts if text.strip()])["perplexity"]

    def some_real(self, number: int) -> list[str]:
        """Test sentences, drawn at random: those of E2E that stand together say the same."""
        texts = self.data["test"].texts
        return random.Random(0).sample(texts, min(number, len(texts)))

    def write(self, num_texts: int | None, seed: int = 0, steps: int = STEPS, **arguments) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return self.pipe(num_texts, steps, generator=generator, **arguments).texts

    def words(self, text: str) -> list[str]:
        return words_of(self.tokenizer, text)

    def normal(self, text: str) -> str:
        """As the tokenizer writes it, for comparisons: unknown words stand for themselves."""
        return " ".join(self.words(text))


def read(name: str, folder: Path) -> dict[str, Sentences]:
    """The sentences of each split."""
    return {split: (_read_e2e if name == "e2e" else _read_conllu)(folder, split) for split in SPLITS}


def _read_e2e(folder: Path, split: str) -> Sentences:
    rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    attributes = [
        {name: value for name, value in row["attributes"].items() if value.lower() in row["text"].lower()}
        for row in rows
    ]
    return Sentences([row["text"] for row in rows], attributes)


def _read_conllu(folder: Path, split: str) -> Sentences:
    found = Sentences([])
    for block in (folder / f"{split}.conllu").read_text(encoding="utf-8").strip().split("\n\n"):
        rows = [line.split("\t") for line in block.split("\n")]
        rows = [row for row in rows if row[0].isdigit()]  # without comments, and lines of several words at once
        found.words.append([row[1] for row in rows])
        found.texts.append(" ".join(found.words[-1]))
        found.tags.append([row[3] for row in rows])
        found.heads.append([int(row[6]) - 1 for row in rows])
        found.relations.append([row[7].split(":")[0] for row in rows])
    return found


def subtrees(heads: list[int], relations: list[str]) -> list[tuple[int, int, str]]:
    """What hangs on each word, where that is two words and more without a gap; the root's has head −1."""
    inside = [{k} for k in range(len(heads))]
    for word in range(len(heads)):
        above, seen = heads[word], {word}
        while above >= 0 and above not in seen:
            inside[above].add(word)
            seen.add(above)
            above = heads[above]
    spans: dict[tuple[int, int], str] = {}
    for words, relation in zip(inside, relations):
        first, last = min(words), max(words) + 1
        if last - first == len(words) > 1:
            spans.setdefault((first, last), relation)
    return [(*span, relation) for span, relation in sorted(spans.items())]
