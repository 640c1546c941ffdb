"""What texts are about: field = value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from ...control.guidance import Guide
from .classifier import EmbeddingClassifier, masked_cross_entropy


if TYPE_CHECKING:
    from ..pipeline_diffusion_lm import DiffusionLMPipeline


ABSENT = 0  # the label of a field that a text does not mention


class SemanticContent(EmbeddingClassifier):
    """
    Steers texts to values of fields. [`~EmbeddingClassifier.fit`] teaches it, by the fields that each text mentions,
    and their values.

    Example:

    ```python
    >>> content = SemanticContent.fit(pipe, texts, attributes)
    >>> pipe(10, guides=[content.guide({"food": "Japanese", "area": "riverside"})]).texts
    ```
    """

    def build_head(self, width: int) -> None:
        self.sizes = [1 + len(values) for values in self.labels.values()]
        self.head = nn.Linear(width, sum(self.sizes))

    @classmethod
    def targets_of(
        cls, pipe: DiffusionLMPipeline, texts: Sequence[str], labels: Sequence[Mapping[str, str]]
    ) -> tuple[dict[str, list[str]], torch.Tensor]:
        labels = [
            {str(name): _as_text(name, value) for name, value in of_text.items() if not _is_missing(value)}
            for of_text in labels
        ]
        values: dict[str, list[str]] = {}
        for name, value in sorted({pair for of_text in labels for pair in of_text.items()}):
            values.setdefault(name, []).append(value)
        if not values:
            raise ValueError("no text has any attributes")
        indices = {name: {value: 1 + k for k, value in enumerate(of_name)} for name, of_name in values.items()}
        targets = [
            [index[of_text[name]] if name in of_text else ABSENT for name, index in indices.items()]
            for of_text in labels
        ]
        return values, torch.tensor(targets)

    def logits(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of the values of each field, after that of its absence."""
        return self.head(states[:, 0]).split(self.sizes, dim=-1)

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = [masked_cross_entropy(of, targets[:, k]) for k, of in enumerate(self.logits(states))]
        return torch.stack(losses).mean()

    def guide(self, values: Mapping[str, str], scale: float = 1.0) -> Guide:
        """
        A guide to values of fields, by the sum of log p(value|x).

        Raises:
            `ValueError`: for a field or value that it was not taught.
        """
        if not values:
            raise ValueError("values of fields are needed")
        chosen = []
        for name, value in values.items():
            name, value = str(name), _as_text(name, value)
            if name not in self.labels:
                raise ValueError(f"{name!r} is not a field of the texts, which have {list(self.labels)}")
            if value not in self.labels[name]:
                raise ValueError(f"{value!r} is not a value of {name!r}: {self.labels[name]}")
            chosen.append((list(self.labels).index(name), 1 + self.labels[name].index(value)))

        def score(states: torch.Tensor) -> torch.Tensor:
            logits = self.logits(states)
            return sum(logits[field].log_softmax(-1)[:, value] for field, value in chosen)

        return self.make_guide(score, f"guide to {dict(values)}", scale)


def _is_missing(value: Any) -> bool:
    return pd.api.types.is_scalar(value) and pd.isna(value)


def _as_text(name: str, value: Any) -> str:
    if not isinstance(value, (str, Real)):
        raise ValueError(f"{name!r} has the value {value!r}, which is neither a text nor a number")
    return str(value)
