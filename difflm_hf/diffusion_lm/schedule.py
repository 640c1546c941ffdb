"""Noise levels of Diffusion-LM, as schedulers of diffusers have them."""

from __future__ import annotations

from functools import lru_cache
from numbers import Integral
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin

from .configuration_diffusion_lm import DiffusionLMConfig


OFFSET = 1e-4  # s
MAX_BETA = 0.999
# What every scheduler is told: timesteps end with the first noise level and begin with the last, which "leading" and
# "linspace" spacings miss; embeddings have no bounds to clip at.
SHARED = {"timestep_spacing": "trailing", "clip_sample": False}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", SHARED),
    "ddim": ("DDIMScheduler", {**SHARED, "set_alpha_to_one": True}),
    "dpm++": (
        "DPMSolverMultistepScheduler",
        {"timestep_spacing": "trailing", "final_sigmas_type": "zero", "algorithm_type": "dpmsolver++"},
    ),
}


def sqrt_alphas_cumprod(num_train_timesteps: int = 2000, noise_factor: float = 1.0) -> np.ndarray:
    """
    ᾱ_t of the sqrt schedule, ᾱ_t = 1 − √(t/T + s) with s = 1e-4 (arXiv 2205.14217, appendix A). As in the original
    code betas are ratios of it, of at most 0.999, so that all is divided by 1 − √s = 0.99. Then the noise is made
    larger by F = `noise_factor` (arXiv 2212.09412, section 3.3).

    Returns:
        `np.ndarray` of shape `(num_train_timesteps,)`, float64.
    """
    ends = 1 - np.sqrt(np.arange(num_train_timesteps + 1) / num_train_timesteps + OFFSET)
    alphas = np.cumprod(np.maximum(ends[1:] / ends[:-1], 1 - MAX_BETA))
    return alphas / (noise_factor**2 - (noise_factor**2 - 1) * alphas)


def trained_betas(num_train_timesteps: int = 2000, noise_factor: float = 1.0) -> np.ndarray:
    """β_t = 1 − ᾱ_t / ᾱ_{t−1}, for the argument `trained_betas` of diffusers' schedulers."""
    alphas = sqrt_alphas_cumprod(num_train_timesteps, noise_factor)
    return 1 - alphas / np.concatenate([[1.0], alphas[:-1]])


@lru_cache
def _alphas_cumprod(num_train_timesteps: int, noise_factor: float) -> torch.Tensor:
    return torch.from_numpy(sqrt_alphas_cumprod(num_train_timesteps, noise_factor)).float()


def alphas_cumprod(config: DiffusionLMConfig) -> torch.Tensor:
    """ᾱ_t of a model, of shape `(num_train_timesteps,)`, float32."""
    return _alphas_cumprod(config.num_train_timesteps, config.noise_factor)


def make_scheduler(config: DiffusionLMConfig, name: str = "ddpm", **kwargs) -> SchedulerMixin:
    """
    A scheduler of diffusers with the noise levels of a model.

    Args:
        config ([`DiffusionLMConfig`]): Of the model.
        name (`str`, defaults to `"ddpm"`): `"ddpm"`, `"ddim"` or `"dpm++"` (DPM-Solver++, multistep).
        kwargs (*optional*): Further fields of its configuration, such as `solver_order=3`.

    Returns:
        `DDPMScheduler`, `DDIMScheduler` or `DPMSolverMultistepScheduler`.

    Raises:
        `ValueError`: for an unknown name.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"name={name!r} is not one of {', '.join(map(repr, SCHEDULERS))}")
    cls, fields = SCHEDULERS[name]
    return getattr(diffusers, cls)(
        num_train_timesteps=config.num_train_timesteps,
        trained_betas=trained_betas(config.num_train_timesteps, config.noise_factor).tolist(),
        prediction_type=config.prediction_type,
        **{**fields, **kwargs},
    )


def check_scheduler(scheduler: SchedulerMixin, config: DiffusionLMConfig) -> None:
    """Raises a `ValueError` for a scheduler of other noise levels or another prediction than a model's."""
    given, kinds = scheduler.config, tuple(name for name, _ in SCHEDULERS.values())
    if type(scheduler).__name__ not in kinds:
        raise ValueError(
            f"{type(scheduler).__name__} is not one of {', '.join(kinds)}; make the scheduler by "
            "make_scheduler(model.config)"
        )
    if others := [name for name in given if name.startswith("use_") and name.endswith("_sigmas") and given[name]]:
        raise ValueError(f"the scheduler has {others[0]}=True, and the noise levels are the model's; leave it out")
    if (kind := given.get("prediction_type")) != config.prediction_type:
        raise ValueError(
            f"the scheduler takes prediction_type={kind!r}, and the model predicts {config.prediction_type!r}; make "
            "it by make_scheduler(model.config)"
        )
    if (spacing := given.get("timestep_spacing")) != "trailing":
        raise ValueError(
            f"the scheduler has timestep_spacing={spacing!r}, which does not begin with noise; make it 'trailing', by "
            "make_scheduler(model.config)"
        )
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is None or not torch.allclose(levels.cpu().float(), alphas_cumprod(config), rtol=1e-3, atol=1e-7):
        raise ValueError(
            "the scheduler has other noise levels than the model; make it by make_scheduler(model.config)"
        )
    if given.get("clip_sample") or given.get("thresholding"):
        raise ValueError("the scheduler clips predictions, and embeddings have no bounds; set clip_sample=False")


def check_steps(num_inference_steps: int, config: DiffusionLMConfig) -> None:
    """Raises a `ValueError` for steps by which the timesteps cannot be divided: schedulers then skip unevenly."""
    total = config.num_train_timesteps
    if (
        isinstance(num_inference_steps, bool)
        or not isinstance(num_inference_steps, Integral)
        or num_inference_steps < 1
    ):
        raise ValueError(f"num_inference_steps={num_inference_steps!r} is not a positive integer")
    if total % num_inference_steps:
        near = sorted(_divisors(num_inference_steps, total)[:2])
        raise ValueError(
            f"num_inference_steps={num_inference_steps} does not divide the {total} noise levels; take "
            f"{' or '.join(map(str, near))}"
        )


def fitting_steps(num_inference_steps: int, config: DiffusionLMConfig) -> int:
    """The number of steps nearest to this one that divides the noise levels of a model."""
    return _divisors(num_inference_steps, config.num_train_timesteps)[0]


def _divisors(near: int, number: int) -> list[int]:
    """Those of a number, the nearest to `near` first."""
    return sorted((n for n in range(1, number + 1) if number % n == 0), key=lambda n: abs(n - near))
