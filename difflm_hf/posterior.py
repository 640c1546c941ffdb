"""From the mean-pooled state of a record to its posterior q(z|x)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init

from .distributed import gather_records
from .float32_buffers import Float32Buffers


class MovingStandardization(Float32Buffers):
    """
    Brings states to mean 0 and deviation 1 over the records, in each dimension, by moving averages of their moments,
    all in float32.

    The variance is half of the mean squared difference between records of successive batches (von Neumann, 1941).
    Variances within batches leave out what differs between batches of short and of long records; differences from a
    moving mean count in how far that has moved while a model learnt.

    Args:
        size (`int`): Dimension of the states.
    """

    MOMENTUM, EPSILON = 0.01, 1e-8
    FIXED = -1  # in place of a number of batches

    def __init__(self, size: int):
        super().__init__()
        # The dtype is stated as models are made, and then loaded, in that of their weights.
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float32))
        self.register_buffer("previous", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    def forward(self, states: torch.FloatTensor) -> torch.FloatTensor:
        """Standardizes `states` of shape `(batch_size, size)`; in training it looks at them first."""
        if self.training and int(self.num_batches) != self.FIXED:
            self._update(gather_records(states.detach()))
        return (states - self.mean) / (self.variance + self.EPSILON).sqrt()

    def fix(self, states: torch.FloatTensor) -> None:
        """
        Takes the moments of all records' states, of shape `(num_records, size)`, from now on: they do not move.
        Dimensions that are the same in all records, as of a single one, keep their scale.
        """
        self.mean.copy_(states.mean(0))
        variance = states.var(0, correction=0)
        self.variance.copy_(variance.where(variance > self.EPSILON, 1))
        self.num_batches.fill_(self.FIXED)

    def _update(self, batch: torch.FloatTensor) -> None:
        if (num_differences := int(self.num_batches)) > 0:
            variance = (batch - self.previous).square().mean(0) / 2
            self.variance.lerp_(variance, max(self.MOMENTUM, 1 / num_differences))
        self.num_batches += 1
        self.mean.lerp_(batch.mean(0), max(self.MOMENTUM, 1 / int(self.num_batches)))
        self.previous.copy_(batch[-1])


class LinearPosterior(nn.Linear):
    """
    μ and log σ² as a linear map of the mean-pooled state.

    Args:
        size (`int`): Dimension of the states.
        latent_size (`int`): Dimension of z.
    """

    def __init__(self, size: int, latent_size: int):
        super().__init__(size, 2 * latent_size)

    def forward(self, states: torch.FloatTensor) -> torch.FloatTensor:
        """As [`StandardizedPosterior.forward`]."""
        return super().forward(states.to(self.weight.dtype))


class StandardizedPosterior(nn.Module):
    """
    μ and log σ² from the mean-pooled state of a document. Such states are much alike, and what differs between them
    has to show in z from the start, before the causal LM has learnt to write without (as in batch-normalised VAEs,
    arXiv 2004.12585): they are standardized, and a small network is added to the linear map.

    Args:
        size (`int`): Dimension of the states.
        latent_size (`int`): Dimension of z.
    """

    INITIAL_LOGVAR = -4.0

    def __init__(self, size: int, latent_size: int):
        super().__init__()
        self.standardization = MovingStandardization(size)
        self.to_mean, self.to_logvar = (nn.Linear(size, latent_size) for _ in range(2))
        self.residual = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, 2 * latent_size))

    def init_weights(self, module: nn.Module) -> None:
        """Starts one of its linear maps: means with deviation 1, posteriors narrow, and the residual small."""
        if module in (self.to_mean, self.residual[0]):
            init.normal_(module.weight, 0, module.in_features**-0.5)
        elif module is self.to_logvar:
            init.zeros_(module.weight)
            init.constant_(module.bias, self.INITIAL_LOGVAR)
        elif module is self.residual[2]:
            init.normal_(module.weight, 0, 0.1 * module.in_features**-0.5)

    def forward(self, states: torch.FloatTensor) -> torch.FloatTensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch_size, size)`): Mean-pooled states, in float32.

        Returns:
            `torch.Tensor` of shape `(batch_size, 2 * latent_size)`: μ, and then log σ², in the dtype of the weights.
        """
        states = self.standardization(states).to(self.to_mean.weight.dtype)
        return torch.cat([self.to_mean(states), self.to_logvar(states)], dim=-1) + self.residual(states)


POSTERIORS: dict[str, type[nn.Module]] = {"linear": LinearPosterior, "standardized": StandardizedPosterior}


def build_posterior(name: str, size: int, latent_size: int) -> nn.Module:
    """
    The map from the mean-pooled state of a record to μ and log σ² that a [`DiffLMConfig`] names.

    Args:
        name (`str`): `"linear"` or `"standardized"`.
        size (`int`): Dimension of the states.
        latent_size (`int`): Dimension of z.

    Raises:
        `ValueError`: for another name.
    """
    if name not in POSTERIORS:
        raise ValueError(f"posterior={name!r} is not one of {', '.join(map(repr, POSTERIORS))}")
    return POSTERIORS[name](size, latent_size)
