"""Which words texts have at which places."""

from __future__ import annotations

import torch

from ...control.guidance import Guide
from ..constraints import GAP, given_words
from ..pipeline_diffusion_lm import DiffusionLMPipeline


class Infilling:
    """
    Steers texts to the words around gaps, by the distance of x̂₀ from their embeddings. Nothing is taught.
    `pipe(infill=...)` makes it certain, and fills gaps of any length.

    Args:
        pipe ([`DiffusionLMPipeline`]): The model.
    """

    def __init__(self, pipe: DiffusionLMPipeline):
        self.pipe = pipe

    def guide(self, text: str, scale: float = 1.0) -> Guide:
        """
        A guide to a text, with `[mask]` for each missing word. Raises a `ValueError` as `pipe(infill=...)` does, and
        for a `[gap]`.
        """
        model = self.pipe.model
        if GAP in text:
            raise ValueError(f"{text!r} has a {GAP}, and a guide needs the places of words; take pipe(infill=...)")
        allowed = given_words([text], self.pipe.tokenizer, model.config, 1, [(0, 0)])[0]
        is_known, table = allowed.sum(-1) == 1, model.embeddings.detach()
        wanted = table[allowed.long().argmax(-1)[is_known]]

        def score(clean: torch.Tensor) -> torch.Tensor:
            return -(clean[:, is_known] - wanted).square().sum((1, 2))

        return Guide(score, scale, "guide to words around gaps", embeddings=table)
