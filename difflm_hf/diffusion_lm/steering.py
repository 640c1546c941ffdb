"""Texts that are steered by gradients of guides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal, get_args

import torch

from ..control.guidance import Guide, gradient
from .modeling_diffusion_lm import DiffusionLMModel, DiffusionLMOutput


Update = Literal["words", "norm", "sign"]


@dataclass(frozen=True)
class Steering:
    """
    How guides steer texts.

    By `"words"` the probability of each word w in a prediction x̂₀ is multiplied by exp(g · Emb(w)), in which g is the
    gradient of Σ scale · score with respect to x̂₀: Bayes' rule, p(w|x_t, c) ∝ p(w|x_t) p(c|w), with log p(c|·) taken
    as linear in the embedding of a word. Predictions stay means of word embeddings, and nothing goes back through the
    model.

    By `"norm"` and `"sign"` noisy embeddings are moved after each step of the scheduler (arXiv 2205.14217, section
    5.1): along the gradient of Σ scale · score − `fluency` · ‖x − x'‖² / σ with respect to x_t, in which x' is what
    the scheduler gave, and σ = √(1 − ᾱ_t).

    Args:
        update (`str`, defaults to `"words"`):
            `"words"`, for models with `weighted_embeddings`. `"norm"`: along the gradient, by `step_size` σ in the
            root mean square over all dimensions of a text. `"sign"`: by `step_size` in each dimension, whatever the
            size of the gradient, as in the original code, whose Adagrad begins anew for each update; its `step_size`
            is 0.1.
        num_updates (`int`, defaults to 3): Of `"norm"` and `"sign"`, at each step of the scheduler.
        step_size (`float`, defaults to 0.2): Of these.
        fluency (`float`, defaults to 0.01): λ, which holds texts near to what the model writes by itself.
        last (`float`, defaults to 0.05):
            Share of the noise levels, the smallest ones, at which `"norm"` and `"sign"` move nothing.

    Raises:
        `ValueError`: for a value out of range.
    """

    update: Update = "words"
    num_updates: int = 3
    step_size: float = 0.2
    fluency: float = 0.01
    last: float = 0.05

    def __post_init__(self):
        if self.update not in get_args(Update):
            raise ValueError(f"update={self.update!r} is not one of {', '.join(map(repr, get_args(Update)))}")
        for name, is_valid in (
            ("num_updates", isinstance(self.num_updates, Integral) and self.num_updates >= 1),
            ("step_size", self.step_size > 0),
            ("fluency", self.fluency >= 0),
            ("last", 0 <= self.last <= 1),
        ):
            if not is_valid:
                raise ValueError(f"{name}={getattr(self, name)!r} is out of range")

    def reweigh(
        self,
        model: DiffusionLMModel,
        output: DiffusionLMOutput,
        guides: Sequence[Guide],
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        step: int,
    ) -> DiffusionLMOutput:
        """
        A prediction whose words are as likely as guides make them.

        Args:
            model ([`DiffusionLMModel`]): With `weighted_embeddings`.
            output ([`DiffusionLMOutput`]): Its prediction.
            guides (`Sequence[Guide]`): Scores.
            noisy (`torch.Tensor` of shape `(batch_size, length, embedding_size)`): What it was predicted from.
            timestep (`torch.Tensor` of shape `()`): The noise level t.
            step (`int`): For messages.

        Returns:
            [`DiffusionLMOutput`].
        """
        scale = model.noise_level(timestep[None])[0]
        with torch.enable_grad():
            clean, x = output.clean.detach().requires_grad_(), noisy.detach().requires_grad_()
            total = torch.zeros_like(clean)
            for guide in guides:
                if guide.noisy:  # ∂/∂x₀ = √ᾱ ∂/∂x_t
                    found = scale * gradient(guide, guide.score(x, timestep), x, step)
                else:
                    found = gradient(guide, guide.score(clean), clean, step)
                total = total + guide.scale * found
        logits = output.logits + total @ model.embeddings.T
        return replace(output, clean=logits.softmax(-1) @ model.embeddings, logits=logits)

    def move(
        self,
        noisy: torch.Tensor,
        guides: Sequence[Guide],
        timestep: torch.Tensor,
        sigma: torch.Tensor,
        predict: Callable[[torch.Tensor], torch.Tensor],
        step: int,
    ) -> torch.Tensor:
        """
        Args:
            noisy (`torch.Tensor` of shape `(batch_size, length, embedding_size)`): Embeddings x_t.
            guides (`Sequence[Guide]`): Scores.
            timestep (`torch.Tensor` of shape `()`): Their noise level t.
            sigma (`torch.Tensor`): Its σ.
            predict (`Callable`): x̂₀ of noisy embeddings at this level, for guides that score that.
            step (`int`): For messages.

        Returns:
            `torch.Tensor` of the shape of `noisy`.
        """
        start, moved = noisy.detach(), noisy.detach()
        for _ in range(self.num_updates):
            with torch.enable_grad():
                moved = moved.detach().requires_grad_()
                clean = predict(moved) if any(not guide.noisy for guide in guides) else None
                total = -2 * self.fluency * (moved.detach() - start) / sigma
                for guide in guides:
                    score = guide.score(moved, timestep) if guide.noisy else guide.score(clean)
                    total = total + guide.scale * gradient(guide, score, moved, step)
            if self.update == "sign":
                moved = moved.detach() + self.step_size * total.sign()
            else:
                size = total.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
                moved = moved.detach() + self.step_size * sigma * total / size
        return moved
