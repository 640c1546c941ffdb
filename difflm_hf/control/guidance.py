"""Latents that are steered: by what is known, and by gradients of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import nn

from ..checks import is_number, shown


LARGEST = 1000.0  # scale, beyond which latents leave all numbers


@dataclass(frozen=True)
class Guide:
    """
    A score that latents are steered by.

    Args:
        score (`Callable`):
            Takes latents z of shape `(batch_size, latent_size)`, and returns the logarithm of how well each is, of
            shape `(batch_size,)`: any function that can be differentiated, such as log p(c|z) of a classifier.
        scale (`float`, defaults to 1.0): How much it counts, from -1000 to 1000; 1 is Bayes' rule.
        name (`str`, defaults to `"guide"`): What errors call it.
        noisy (`bool`, defaults to `False`):
            Whether `score` takes the noisy latents and their timestep, rather than the model's prediction of the clean
            ones.
        embeddings (`torch.Tensor` of shape `(vocab_size, embedding_size)`, *optional*):
            The word embeddings that it knows, of guides of [`DiffusionLMPipeline`], which refuses those of another
            model.
    """

    score: Callable[..., torch.Tensor]
    scale: float = 1.0
    name: str = "guide"
    noisy: bool = False
    embeddings: torch.Tensor | None = None

    def __post_init__(self):
        if not callable(self.score):
            raise ValueError(f"{self.name}: score={shown(self.score)} is no function of latents")
        if not is_scale(self.scale):
            raise ValueError(
                f"{self.name}: scale={shown(self.scale)} is not a number between {-LARGEST} and {LARGEST}"
            )


def is_scale(value: Any) -> bool:
    """Whether latents can be scaled by it."""
    return is_number(value) and -LARGEST <= value <= LARGEST


def check_guides(guides: Guide | Iterable[Guide] | None) -> tuple[Guide, ...]:
    """One guide, several or none as a tuple. Raises a `ValueError` for what is no guide."""
    if guides is None or isinstance(guides, Guide):
        return () if guides is None else (guides,)
    is_several = isinstance(guides, Iterable) and not isinstance(guides, torch.Tensor)  # some of which have no length
    guides = tuple(guides) if is_several else (guides,)
    for guide in guides:
        if not isinstance(guide, Guide):
            raise ValueError(
                f"guides hold a {type(guide).__name__}, which is no Guide; write Guide(score), or take what a "
                "control's .guide(...) gives"
            )
    return guides


@dataclass(frozen=True)
class Guidance:
    """
    What the denoiser is told, and what its predictions are moved by.

    Args:
        condition (`torch.Tensor` of shape `(batch_size, condition_size)` or `(1, condition_size)`, *optional*):
            What is known of each latent's record, or of all, as [`KnownFields`] says it.
        scale (`float`, defaults to 1.0):
            Of classifier-free guidance (arXiv 2207.12598): 1 is the model's distribution.
        guides (`Sequence[Guide]`, defaults to none): Scores, which add up.
    """

    condition: torch.Tensor | None = None
    scale: float = 1.0
    guides: Sequence[Guide] = ()

    def __post_init__(self):
        if not is_scale(self.scale):
            raise ValueError(f"guidance_scale={shown(self.scale)} is not a number; 1 is the model's distribution")
        object.__setattr__(self, "guides", check_guides(self.guides))

    def take(self, rows: slice | np.ndarray) -> Guidance:
        """That of some latents, where each has its own condition."""
        if self.condition is None or len(self.condition) == 1:
            return self
        return replace(self, condition=self.condition[rows])

    def spread(self, num: int, places: slice | np.ndarray) -> Guidance:
        """That of `num` latents, of which these are at `places`; the first one stands for the others."""
        if self.condition is None or len(self.condition) == 1:
            return self
        rows = torch.zeros(num, dtype=torch.long)
        rows[places] = torch.arange(len(self.condition))
        return replace(self, condition=self.condition[rows])

    def predict(
        self, denoiser: nn.Module, scheduler: SchedulerMixin, latents: torch.Tensor, timestep: torch.Tensor, step: int
    ) -> torch.Tensor:
        """
        The denoiser's output for noisy latents, for `scheduler.step`.

        Guides move the prediction D of the clean latents to D + σ² ∇ Σ scale · score(D), in which the gradient is that
        with respect to the noisy latents (arXiv 2105.05233, section 4, on EDM's D = x + σ² ∇ log p(x)).

        Raises:
            `ValueError`: for a score of another shape, and one whose gradient is not finite. The message names the
                guide and the step.
        """
        condition = None if self.condition is None else self.condition.to(latents.device)

        def predict(noisy: torch.Tensor) -> torch.Tensor:
            scaled = scheduler.scale_model_input(noisy, timestep)
            output = denoiser(scaled, timestep, condition)
            if self.scale != 1 and condition is not None:
                free = denoiser(scaled, timestep)
                output = free + self.scale * (output - free)
            return output

        if not self.guides:
            return predict(latents)
        with torch.enable_grad():
            noisy = latents.detach().requires_grad_()
            output = predict(noisy)
            clean = denoiser.denormalize_latents(predict_clean(scheduler, noisy, output, timestep))
            total = torch.zeros_like(latents)
            for guide in self.guides:
                score = guide.score(noisy, timestep) if guide.noisy else guide.score(clean)
                total = total + guide.scale * gradient(guide, score, noisy, step)
        # D = c_skip x + c_out F: of x = 0 and F = 1 it is c_out.
        c_out = predict_clean(scheduler, torch.zeros_like(latents), torch.ones_like(latents), timestep)
        return output.detach() + (noise_level(timestep) ** 2 * total / c_out).to(output.dtype)


def noise_level(timestep: torch.Tensor) -> torch.Tensor:
    """σ of a timestep of an EDM scheduler, which is c_noise = ln(σ) / 4."""
    return (4 * timestep.float()).exp()


def predict_clean(
    scheduler: SchedulerMixin, noisy: torch.Tensor, output: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """
    The clean latents D = c_skip x + c_out F that a denoiser's output F predicts (arXiv 2206.00364, equation 7).

    Args:
        scheduler (an EDM scheduler): The scheduler.
        noisy, output (`torch.Tensor` of shape `(batch_size, latent_size)`): x and F.
        timestep (`torch.Tensor`): The scheduler's, of x.
    """
    return scheduler.precondition_outputs(noisy, output.float(), noise_level(timestep))


def gradient(guide: Guide, score: Any, noisy: torch.Tensor, step: int) -> torch.Tensor:
    """
    The gradient of a guide's score with respect to noisy latents.

    Raises:
        `ValueError`: for a score that is of another shape, does not depend on the latents, or has a gradient that is
            not finite. The message names the guide and the step.
    """
    if not isinstance(score, torch.Tensor) or score.shape != noisy.shape[:1] or score.is_complex():
        shape = f"{tuple(score.shape)} and {score.dtype}" if isinstance(score, torch.Tensor) else type(score).__name__
        raise ValueError(f"{guide.name}, step {step}: a score of shape ({len(noisy)},) is needed, not {shape}")
    if not score.requires_grad:
        raise ValueError(f"{guide.name}, step {step}: torch does not see that its score depends on the latents")
    if not score.isfinite().all():
        raise ValueError(f"{guide.name}, step {step}: its score is not finite")
    [found] = torch.autograd.grad(score.sum(), noisy, retain_graph=True)
    if not found.isfinite().all():
        raise ValueError(f"{guide.name}, step {step}: the gradient of its score is not finite; lower its scale")
    return found
