"""
Measures what schedulers themselves get wrong: they sample from two distributions of one dimension, of which the
optimal denoiser is known, a Gaussian and a mixture of two.

    python -m benchmarks.schedulers

Figures go to benchmarks/results/schedulers.json. It takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, SchedulerMixin
from torch.distributions import Normal

from difflm_hf import LatentEDMScheduler
from difflm_hf.scheduling_latent_edm import initial_std
from difflm_hf.training.recipes import NOISE_LEVELS, SAMPLER_CONFIG

from .results import save_result


NUM_SAMPLES = 2**16
SIGMA_DATA = 0.5
MEAN = 0.45  # of a component of the mixture, and of the other with a minus; both have a weight of 0.5
STD = math.sqrt(SIGMA_DATA**2 - MEAN**2)
RANGES = {"latents": NOISE_LEVELS, "images": {"sigma_min": 0.002, "sigma_max": 80.0}}
DPM_SOLVER = EDMDPMSolverMultistepScheduler
SOLVERS: dict[str, tuple[type[SchedulerMixin], dict[str, Any], tuple[int, ...]]] = {  # and numbers of steps
    "DPM-Solver++ of order 3": (DPM_SOLVER, SAMPLER_CONFIG, (8, 12, 20, 50)),
    "DPM-Solver++ of order 2": (DPM_SOLVER, {"solver_order": 2}, (8, 12, 20, 50)),
    "Heun": (LatentEDMScheduler, {}, (6, 12, 16, 20, 50)),
    "Heun, s_churn=10": (LatentEDMScheduler, {"s_churn": 10.0}, (20, 50, 100)),
    "Euler": (EDMEulerScheduler, {}, (12, 50, 200)),
}

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def gaussian_network(scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """F, of which D = c_skip * x + c_out * F is optimal for N(0, SIGMA_DATA^2): c_skip * x is."""
    return torch.zeros_like(scaled)


def mixture_network(scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """F, of which D is optimal for the mixture: the posterior mean of each component, by its responsibility."""
    sigma = math.exp(4 * float(timestep))
    norm = math.hypot(sigma, SIGMA_DATA)
    x, variance = scaled * norm, STD**2 + sigma**2
    denoised = (STD**2 * x + sigma**2 * MEAN * torch.tanh(MEAN * x / variance)) / variance
    return (denoised - (SIGMA_DATA / norm) ** 2 * x) * norm / (sigma * SIGMA_DATA)


def normal_quantiles() -> torch.Tensor:
    return Normal(0.0, 1.0).icdf((torch.arange(NUM_SAMPLES, dtype=torch.float64) + 0.5) / NUM_SAMPLES)


def mixture_quantiles() -> torch.Tensor:
    grid = torch.linspace(-4, 4, 2**20, dtype=torch.float64)
    cdf = (Normal(-MEAN, STD).cdf(grid) + Normal(MEAN, STD).cdf(grid)) / 2
    return grid[torch.searchsorted(cdf, (torch.arange(NUM_SAMPLES, dtype=torch.float64) + 0.5) / NUM_SAMPLES)]


def sample(scheduler: SchedulerMixin, num_steps: int, network: Network) -> torch.Tensor:
    """Samples as the pipeline does, but from evenly spread noise, so that little is left to chance."""
    scheduler.set_timesteps(num_steps)
    x = normal_quantiles() * initial_std(scheduler)
    generator = torch.Generator().manual_seed(0)
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, generator=generator).prev_sample
    return x.sort().values


def measure(cls: type[SchedulerMixin], config: dict[str, Any], num_steps: int) -> dict[str, float]:
    scheduler = cls(sigma_data=SIGMA_DATA, **config)
    scheduler.set_timesteps(num_steps)
    gaussian, mixture = (sample(scheduler, num_steps, network) for network in (gaussian_network, mixture_network))
    return {
        "steps": num_steps,
        "evaluations": len(scheduler.timesteps),
        "spread": round((gaussian.std() / normal_quantiles().std()).item() / SIGMA_DATA, 6),
        "distance": round((mixture - mixture_quantiles()).abs().mean().item() / SIGMA_DATA, 6),
    }


def main() -> None:
    figures = {}
    for name, levels in RANGES.items():
        figures[name] = [
            {"solver": solver, **measure(cls, {**levels, **config}, num_steps)}
            for solver, (cls, config, steps) in SOLVERS.items()
            for num_steps in steps
        ]
        for row in figures[name]:
            print(name, row)
    save_result("schedulers", figures)


if __name__ == "__main__":
    main()
