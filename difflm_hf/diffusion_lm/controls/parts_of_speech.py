"""The parts of speech of all words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...control.guidance import Guide
from ..constraints import check_length
from ..word_tokenizer import words_of
from .classifier import EmbeddingClassifier, masked_cross_entropy


if TYPE_CHECKING:
    from ..pipeline_diffusion_lm import DiffusionLMPipeline


class PartsOfSpeech(EmbeddingClassifier):
    """
    Steers the words of texts to tags. [`~EmbeddingClassifier.fit`] teaches it, by a tag for each word of each text, as
    the model's tokenizer cuts it.

    Example:

    ```python
    >>> tagger = PartsOfSpeech.fit(pipe, texts, tags)
    >>> tags = ["PROPN", "AUX", "DET", "NOUN", "PUNCT"]
    >>> pipe(10, length=len(tags), guides=[tagger.guide(tags)]).texts
    ```
    """

    def build_head(self, width: int) -> None:
        self.head = nn.Linear(width, len(self.labels))

    @classmethod
    def targets_of(
        cls, pipe: DiffusionLMPipeline, texts: Sequence[str], labels: Sequence[Sequence[str]]
    ) -> tuple[list[str], torch.Tensor]:
        check_words(pipe, texts, labels)
        tags = sorted({tag for of_text in labels for tag in of_text})
        index = {tag: k for k, tag in enumerate(tags)}
        targets = torch.full((len(texts), pipe.model.config.max_sequence_length), -100)
        for row, of_text in zip(targets, labels):
            row[1 : 1 + len(of_text)] = torch.tensor([index[tag] for tag in of_text])
        return tags, targets

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return masked_cross_entropy(self.head(states), targets)

    def guide(self, tags: Sequence[str], scale: float = 1.0) -> Guide:
        """
        A guide to tags of the words from the first on, by the sum of log p(tag|x).

        Raises:
            `ValueError`: for a tag that it was not taught, and for more tags than texts have words.
        """
        for tag in tags:
            if tag not in self.labels:
                raise ValueError(f"{tag!r} is not one of the tags: {self.labels}")
        check_length(len(tags), self.max_sequence_length)
        wanted = torch.tensor([self.labels.index(tag) for tag in tags])

        def score(states: torch.Tensor) -> torch.Tensor:
            log_probs = self.head(states[:, 1 : 1 + len(wanted)]).log_softmax(-1)
            return log_probs.gather(-1, wanted.to(states.device).expand(len(states), -1)[..., None]).sum((1, 2))

        return self.make_guide(score, "guide to parts of speech", scale)


def check_words(pipe: DiffusionLMPipeline, texts: Sequence[str], labels: Sequence[Sequence]) -> None:
    """Raises a `ValueError` for texts whose words are not as many as their labels."""
    for text, of_text in zip(texts, labels):
        if len(words := words_of(pipe.tokenizer, text)) != len(of_text):
            raise ValueError(f"{text!r} has {len(words)} words, {words}, and {len(of_text)} labels; give one for each")
