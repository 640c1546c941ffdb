"""Constituents: which words belong together, and as what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from ...control.guidance import Guide
from ..constraints import check_length
from ..word_tokenizer import words_of
from .classifier import EmbeddingClassifier


if TYPE_CHECKING:
    from ..pipeline_diffusion_lm import DiffusionLMPipeline


Span = tuple[int, int, str]  # the first word, counted from 0, the word after the last, and the label
NONE = 0  # the label of words that are no constituent
ABSENT = -100  # of pairs that are no words of a text


class SyntaxSpans(EmbeddingClassifier):
    """
    Steers texts to constituents at given words. [`~EmbeddingClassifier.fit`] teaches it, by the constituents of each
    text: the first word, counted from 0, the word after the last, and the label.

    Example:

    ```python
    >>> spans = SyntaxSpans.fit(pipe, texts, constituents)
    >>> pipe(10, guides=[spans.guide([(0, 3, "NP")])]).texts
    ```
    """

    default_batch_size = 32  # of pairs of words

    def build_head(self, width: int) -> None:
        self.start, self.end = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 1 + len(self.labels))

    @classmethod
    def targets_of(
        cls, pipe: DiffusionLMPipeline, texts: Sequence[str], labels: Sequence[Iterable[Span]]
    ) -> tuple[list[str], torch.Tensor]:
        spans, length = [list(of_text) for of_text in labels], pipe.model.config.max_sequence_length
        names = sorted({label for of_text in spans for _, _, label in of_text})
        targets = torch.full((len(texts), length, length), ABSENT, dtype=torch.int16)
        for row, text, of_text in zip(targets, texts, spans):
            num_words = len(words_of(pipe.tokenizer, text))
            _check_labels(of_text)
            row[1 : 1 + num_words, 1 : 1 + num_words] = torch.ones(num_words, num_words).triu().sub(1).mul(100).short()
            for start, end, label in of_text:
                if not 0 <= start < end <= num_words:
                    raise ValueError(
                        f"the span {(start, end, label)} does not lie in the {num_words} words of {text!r}"
                    )
                row[1 + start, end] = 1 + names.index(label)
        return names, targets

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Of the labels of all pairs of first and last word, of shape `(batch_size, length, length, num_labels)`."""
        return self.head(F.gelu(self.start(states)[:, :, None] + self.end(states)[:, None]))

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        is_pair = targets != ABSENT
        logits = self.head(
            F.gelu(
                self.start(states)[:, :, None].expand(*is_pair.shape, -1)[is_pair]
                + self.end(states)[:, None].expand(*is_pair.shape, -1)[is_pair]
            )
        )
        return F.cross_entropy(logits, targets[is_pair].long())

    def guide(self, spans: Iterable[Span], scale: float = 1.0) -> Guide:
        """
        A guide to constituents, by the sum of log p(label|x) over them.

        Raises:
            `ValueError`: for a label that it was not taught, and for spans beyond the words that texts may have.
        """
        firsts, lasts, wanted = self._places(spans)

        def score(states: torch.Tensor) -> torch.Tensor:
            pairs = F.gelu(self.start(states[:, firsts]) + self.end(states[:, lasts]))
            log_probs = self.head(pairs).log_softmax(-1)
            return log_probs[:, torch.arange(len(wanted)), wanted].sum(1)

        return self.make_guide(score, "guide to constituents", scale)

    def _places(self, spans: Iterable[Span]) -> tuple[list[int], list[int], list[int]]:
        spans = list(spans)
        _check_labels(spans)
        for start, end, label in spans:
            if label not in self.labels:
                raise ValueError(f"{label!r} is not one of the labels of constituents: {self.labels}")
            if not 0 <= start < end:
                raise ValueError(f"the span {(start, end, label)} holds no word")
            check_length(end, self.max_sequence_length)
        # `<s>` stands before the first word.
        return (
            [1 + start for start, _, _ in spans],
            [end for _, end, _ in spans],
            [1 + self.labels.index(label) for _, _, label in spans],
        )


def _check_labels(spans: list[Span]) -> None:
    """Raises a `ValueError` for words that are two constituents."""
    seen: dict[tuple[int, int], str] = {}
    for start, end, label in spans:
        if seen.setdefault((start, end), label) != label:
            raise ValueError(
                f"the words {start} to {end} are {seen[start, end]!r} and {label!r}; name a constituent of both, such "
                f"as {seen[start, end] + '+' + label!r}"
            )


class SyntaxTree(SyntaxSpans):
    """
    Steers texts to a whole tree: all constituents that they are to have, and no others.

    Example:

    ```python
    >>> tree = SyntaxTree.fit(pipe, texts, constituents)
    >>> pipe(10, length=9, guides=[tree.guide(constituents[0], length=9)]).texts
    ```
    """

    def guide(self, spans: Iterable[Span], scale: float = 1.0, length: int | None = None) -> Guide:
        """
        A guide to a tree, by the sum of log p(label|x) over all pairs of words: those of constituents, and those that
        are none.

        Args:
            spans (`Iterable[tuple[int, int, str]]`): Its constituents, as they are taught.
            scale (`float`, defaults to 1.0): How much it counts.
            length (`int`, *optional*): Words of the text; where the last constituent ends if not given.

        Raises:
            `ValueError`: for a tree that does not fit the length, and as of [`SyntaxSpans.guide`].
        """
        spans = list(spans)
        firsts, lasts, labels = self._places(spans)
        length = max(lasts, default=0) if length is None else length
        check_length(length, self.max_sequence_length)
        if beyond := [span for span in spans if span[1] > length]:
            raise ValueError(f"the span {beyond[0]} does not lie in a text of {length} words")
        wanted = torch.full((length, length), NONE)
        wanted[[first - 1 for first in firsts], [last - 1 for last in lasts]] = torch.tensor(labels, dtype=torch.long)
        rows, columns = torch.ones(length, length).triu().nonzero(as_tuple=True)

        def score(states: torch.Tensor) -> torch.Tensor:
            words = states[:, 1 : 1 + length]
            pairs = F.gelu(self.start(words)[:, rows] + self.end(words)[:, columns])
            log_probs = self.head(pairs).log_softmax(-1)
            return log_probs[:, torch.arange(len(rows)), wanted[rows, columns]].sum(1)

        return self.make_guide(score, "guide to a syntax tree", scale)
