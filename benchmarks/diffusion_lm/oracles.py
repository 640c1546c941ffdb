"""Who judges what texts are: tags and constituents of words, by models that taught no guide where that can be."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import spacy
from denckring_en_pos import tagger as perceptron
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch

from difflm_hf.diffusion_lm.annotation import constituents, load_spacy

from .setting import Sentences, Setting, subtrees


NUM_EPOCHS = 8


@dataclass
class Reading:
    """
    A text as an oracle reads it.

    Args:
        text, words, tags, spans: The text, its words, their parts of speech, and its constituents.
        second_tags: Parts of speech by a tagger that is independent of the first, and knows letters alone.
    """

    text: str
    words: list[str]
    tags: list[str]
    spans: list[tuple[int, int, str]]
    second_tags: list[str]


def make_oracle(s: Setting) -> Callable[[Sequence[str]], list[Reading]]:
    """
    Of E2E spaCy's model, which also teaches the guides, as there is no other parser that ships its weights; of ATIS
    one that is trained on the gold tags and relations, which teach the guides, too.
    """
    nlp = load_spacy() if s.name == "e2e" else trained_oracle(s.data["train"], s.folder / "oracle")
    tag = perceptron().tag

    def read(texts: Sequence[str]) -> list[Reading]:
        all_words = [s.words(text) for text in texts]
        docs = nlp.pipe([Doc(nlp.vocab, words=words) for words in all_words], batch_size=64)
        return [
            Reading(
                text,
                words,
                [token.pos_ or token.tag_ for token in doc],
                spans_of(doc, s.name),
                [label.partition("|")[0] for label in tag(words)],
            )
            for text, words, doc in zip(texts, all_words, docs)
        ]

    return read


def spans_of(doc: Doc, name: str) -> list[tuple[int, int, str]]:
    if name == "e2e":
        return constituents(doc)
    return subtrees([-1 if t.head.i == t.i else t.head.i for t in doc], [t.dep_.split("||")[0] for t in doc])


def trained_oracle(train: Sentences, folder: Path) -> Language:
    """A tagger and a parser by the gold annotations of a training split."""
    if folder.exists():
        return spacy.load(folder)
    nlp = spacy.blank("en")
    nlp.add_pipe("tagger")
    nlp.add_pipe("parser")
    examples = []
    for words, tags, heads, relations in zip(train.words, train.tags, train.heads, train.relations):
        own = [k if head < 0 else head for k, head in enumerate(heads)]
        gold = Doc(nlp.vocab, words=words, tags=tags, heads=own, deps=relations)
        examples.append(Example(Doc(nlp.vocab, words=words), gold))
    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(NUM_EPOCHS):
        random.shuffle(examples)
        for batch in minibatch(examples, 32):
            nlp.update(batch, drop=0.1, sgd=optimizer)
    nlp.to_disk(folder)
    return nlp
