"""How long texts are."""

from __future__ import annotations

import torch

from ...control.guidance import Guide
from ..constraints import check_length
from ..pipeline_diffusion_lm import DiffusionLMPipeline


class Length:
    """
    Steers texts to a number of words: by the distance of x̂₀ from the embedding of `</s>` after the last of them, as in
    the paper (section 5). Nothing is taught. `pipe(length=...)` makes it certain.

    Args:
        pipe ([`DiffusionLMPipeline`]): The model.
    """

    def __init__(self, pipe: DiffusionLMPipeline):
        self.pipe = pipe

    def guide(self, length: int, scale: float = 1.0) -> Guide:
        """A guide to texts of `length` words. Raises a `ValueError` for a length beyond that of the model."""
        config, table = self.pipe.model.config, self.pipe.model.embeddings.detach()
        check_length(length, config.max_sequence_length)

        def score(clean: torch.Tensor) -> torch.Tensor:
            return -(clean[:, 1 + length] - table[config.eos_token_id]).square().sum(-1)

        return Guide(score, scale, f"guide to {length} words", embeddings=table)
