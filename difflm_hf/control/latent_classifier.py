"""A classifier of latents, for guides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from ..latents import encode_latents, to_dataset
from .guidance import Guide


if TYPE_CHECKING:
    from ..pipeline_difflm import DiffLMPipeline


class LatentClassifier(nn.Module, PyTorchModelHubMixin):
    """
    p(c|z) of the values of a category or a boolean. [`LatentClassifier.fit`] trains one.

    Args:
        latent_size (`int`): Dimension of the latents.
        target (`str`): The field.
        values (`list`): Its values.
        width (`int`, defaults to 128): Of two hidden layers.
    """

    def __init__(self, latent_size: int, target: str, values: list[Any], width: int = 128):
        super().__init__()
        self.target, self.values = target, values
        self.register_buffer("mean", torch.zeros(latent_size))
        self.register_buffer("std", torch.ones(latent_size))
        sizes = [latent_size, width, width]
        hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, len(values)))

    @classmethod
    def fit(
        cls,
        pipe: DiffLMPipeline,
        table: pd.DataFrame,
        target: str,
        num_steps: int = 1000,
        batch_size: int = 512,
        seed: int = 0,
    ) -> LatentClassifier:
        """
        Trains a classifier on the latents of records.

        Args:
            pipe ([`DiffLMPipeline`]): The model.
            table (`pandas.DataFrame`): Records, with all columns.
            target (`str`): The field to tell.
            num_steps, batch_size (`int`, defaults to 1000 and 512): Of AdamW.
            seed (`int`, defaults to 0): Seed of weights and batches.

        Raises:
            `ValueError`: for a target that is no category.
        """
        codec = pipe.processor.codec
        tokens = getattr(codec, "tokens", {}).get(target)
        if tokens is None or tokens.grid is not None:
            raise ValueError(
                f"target={target!r} is no boolean, nor a category of few values; the fields are {codec.schema.names}"
            )
        table = codec.schema.conform(table)
        table = table[table[target].notna()]
        posteriors = encode_latents(pipe.vae, to_dataset(pipe.processor, table)).tensors
        labels = torch.from_numpy(codec.schema[target].index(table[target]))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = cls(posteriors["mean"].shape[1], target, tokens.values)
            model.mean.copy_(posteriors["mean"].mean(0))
            model.std.copy_(posteriors["mean"].std(0))
            optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
            for _ in range(num_steps):
                rows = torch.randint(len(labels), (batch_size,))
                mean, std = posteriors["mean"][rows], posteriors["std"][rows]
                loss = F.cross_entropy(model(mean + std * torch.randn_like(mean)), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return model.eval().requires_grad_(False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """
        Logits of the values, of shape `(batch_size, num_values)`, for latents of shape `(batch_size, latent_size)`.
        """
        return self.layers((latents - self.mean) / self.std)

    def guide(self, value: Any, scale: float = 1.0) -> Guide:
        """A guide to records of a value, by log p(value|z)."""
        if value not in self.values:
            raise ValueError(f"{value!r} is not one of the values of {self.target!r}: {self.values}")
        index = self.values.index(value)
        return Guide(lambda z: self(z).log_softmax(-1)[:, index], scale, f"guide to {self.target} = {value!r}")
