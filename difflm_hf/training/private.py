"""Training that is differentially private: DP-SGD in both phases (arXiv 1607.00133)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from secrets import randbits
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ..batches import TensorDataset
from ..distributed import num_processes
from ..files import atomic_write
from ..latents import to_dataset
from ..modeling_difflm import DiffLMModel, kl_of_posterior
from ..privacy.budget import PrivacyBudget
from ..privacy.clipping import WeightUses
from ..privacy.marginals import Marginal, measure_marginals, private_schema, table_of
from ..processing_difflm import DiffLMProcessor
from ..records import RecordSchema, read_table
from ..seeds import generator_of
from .arguments import DataArguments, ModelArguments
from .base_trainer import BaseTrainer
from .prepare import PreparedRecords, check_rules
from .recipes import Recipe
from .trainers import DiffLMTrainer, LatentDiffusionTrainer


# Of ε, up to and with each part. Two mechanisms of ε₁ and ε₂ take less than ε₁ + ε₂.
MARGINALS_SHARE, AUTOENCODER_SHARE, MOMENTS_SHARE = 0.15, 0.85, 0.87
LARGEST_MEAN = 8.0  # of a latent's dimension, which the KL term keeps near N(0, 1)


class PoissonBatches(IterableDataset):
    """
    Batches that each record is in by itself with the same probability, so that they are of no fixed size: what the
    accounting of ε takes for granted.

    Args:
        dataset ([`TensorDataset`]): The records.
        sample_rate (`float`): That probability.
    """

    def __init__(self, dataset: TensorDataset, sample_rate: float):
        self.dataset, self.sample_rate = dataset, sample_rate
        self.generator = secret_generator()

    def __len__(self) -> int:
        return max(1, round(1 / self.sample_rate))

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(len(self)):
            is_in = torch.rand(len(self.dataset), generator=self.generator, dtype=torch.float64) < self.sample_rate
            yield self.dataset[is_in.nonzero()[:, 0]]


class PrivateTrainer(BaseTrainer):
    """
    Takes steps of DP-SGD: the gradient of each record is clipped, and their sum gets Gaussian noise. It validates
    nothing and logs no losses, which are those of the records; it logs the ε that is spent.

    Args:
        budget ([`PrivacyBudget`]): What is spent from.
        share (`float`): The share of ε that is spent when training is over.
        max_grad_norm (`float`): The norm that the gradients of records are clipped to.
        args, kwargs (*optional*): Those of the trainer of this phase.

    Raises:
        `ValueError`: for steps of several batches, and for a β that follows validation.
    """

    def __init__(self, *args, budget: PrivacyBudget, share: float, max_grad_norm: float, **kwargs):
        super().__init__(*args, **kwargs)
        for name, value in (("gradient_accumulation_steps", 1), ("beta_schedule", "constant")):
            if (given := getattr(self.args, name, value)) != value:
                raise ValueError(f"{name}={given!r} does not go with private training; set it to {value!r}")
        self.budget, self.share, self.max_grad_norm = budget, share, max_grad_norm
        self.batch_size = min(self.args.train_batch_size, len(self.train_dataset))
        self.sample_rate = self.batch_size / len(self.train_dataset)
        self.noise_multiplier = 0.0  # until the number of steps is known
        self.noise = secret_generator()

    head: nn.Linear | None = None  # of which rows are looked up

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(PoissonBatches(self.train_dataset, self.sample_rate), batch_size=None)

    def train(self, *args, **kwargs):
        self.noise_multiplier = self.budget.noise_multiplier(self.share, self.sample_rate, self.args.max_steps)
        return super().train(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        model.train()
        self.compute_gradients(inputs)
        return torch.zeros((), device=self.args.device)

    def compute_gradients(self, inputs: dict[str, torch.Tensor]) -> None:
        inputs = self._prepare_inputs(inputs)
        if len(next(iter(inputs.values()))) > 0:
            with WeightUses(self.model, self.head) as uses:
                losses = self.record_losses(self.model, inputs)
            uses.backward(losses, self.max_grad_norm)
        std = self.noise_multiplier * self.max_grad_norm
        for weight in self.model.parameters():
            if weight.requires_grad:
                noise = std * torch.randn(weight.shape, generator=self.noise).to(weight.device)
                # Of the mean batch, as the size of this one is a secret, too.
                weight.grad = (noise if weight.grad is None else weight.grad + noise) / self.batch_size

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        logs = {name: value for name, value in logs.items() if name in ("learning_rate", "epoch")}
        super().log({**logs, "epsilon": self.budget.epsilon_of(*self.budget.spent, self.mechanism)}, *args, **kwargs)

    @property
    def mechanism(self) -> tuple[float, float, int]:
        """The steps so far, as [`PrivacyBudget.spend`] takes them."""
        return self.noise_multiplier, self.sample_rate, self.state.global_step

    @property
    def record(self) -> dict[str, Any]:
        names = "noise_multiplier", "sample_rate", "num_steps"
        return {"privacy": dict(zip(names, self.mechanism)) | {"max_grad_norm": self.max_grad_norm}}


class PrivateDiffLMTrainer(PrivateTrainer, DiffLMTrainer):
    """[`DiffLMTrainer`] by DP-SGD. Free bits are of each record by itself."""

    @property
    def head(self) -> nn.Linear:
        return self.model.decoder.get_output_embeddings()

    def record_losses(self, model: DiffLMModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        mean, logvar = model.encode(inputs["input_ids"])
        latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        nll = model.decoder.negative_log_likelihood(inputs["input_ids"], latents)
        return nll + self.beta * kl_of_posterior(mean, logvar).clamp(min=self.args.free_bits).sum(1)


class PrivateLatentDiffusionTrainer(PrivateTrainer, LatentDiffusionTrainer):
    """[`LatentDiffusionTrainer`] by DP-SGD."""


# Of each phase, and the share of ε that is spent when it is over
PRIVATE_TRAINERS: dict[type[BaseTrainer], tuple[type[PrivateTrainer], float]] = {
    DiffLMTrainer: (PrivateDiffLMTrainer, AUTOENCODER_SHARE),
    LatentDiffusionTrainer: (PrivateLatentDiffusionTrainer, 1.0),
}


def prepare_private_records(
    data: Any, schema: RecordSchema | None, args: DataArguments, budget: PrivacyBudget, folder: Path
) -> PreparedRecords:
    """
    Records for private training: what [`prepare_records`] reads off them comes from noisy counts, and none is held
    out.

    Args:
        data, schema, args: Those of [`train`].
        budget ([`PrivacyBudget`]): What the counts are paid from.
        folder (`Path`): Where the counts are kept, for a run that goes on.

    Raises:
        `ValueError`: for a schema that leaves something to be read, and for what looks at records without noise.
    """
    if schema is None:
        raise ValueError(
            "private training takes a schema, since one that is inferred tells of the records; write one, with the "
            "bounds and categories that are known without them"
        )
    defaults = DataArguments()
    for name in ("categorical", "find_rules", "min_category_count", "max_records", "accept", "strict"):
        if getattr(args, name) != getattr(defaults, name):
            raise ValueError(f"{name}={getattr(args, name)!r} looks at records without noise; leave it out")
    schema = private_schema(schema)
    table = schema.conform(read_table(data))
    if len(table) == 0:
        raise ValueError("the table has no rows")
    if budget.delta > 1 / len(table):
        raise ValueError(
            f"delta={budget.delta} is more than 1/{len(table)}, by which a training may give a record away; "
            "take one far below that"
        )
    check_rules(schema, table)
    noise_multiplier = budget.noise_multiplier(MARGINALS_SHARE, 1.0, 1)
    path = folder / "marginals.json"
    if path.exists():
        state = json.loads(path.read_text(encoding="utf-8"))
        marginals = {name: Marginal(**{key: np.array(value) for key, value in m.items()}) for name, m in state.items()}
    else:
        marginals = measure_marginals(schema, table, noise_multiplier)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: {key: value.tolist() for key, value in asdict(m).items()} for name, m in marginals.items()}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(state), encoding="utf-8")
    budget.spend(noise_multiplier, 1.0, 1)
    stand_in = table_of(schema, marginals, len(table))
    processor = DiffLMProcessor.from_records(stand_in, schema)
    processor.is_private = True
    return PreparedRecords(processor, stand_in, to_dataset(processor, table), None, 0, 0, len(table))


def check_private(validation: Any, recipe: str | Recipe, model_args: ModelArguments) -> None:
    """Raises a `ValueError` for what private training does not do."""
    if isinstance(recipe, Recipe) and recipe.condition_size:
        raise ValueError(
            f"condition_size={recipe.condition_size} of the recipe: private training tells its models of no known "
            "fields; set it to 0, as PRIVATE_RECIPES do"
        )
    if validation is not None:
        raise ValueError("private training selects nothing by validation, and learns of all records; leave it out")
    if model_args.base_model is not None or model_args.injection != "soft_prompt":
        raise ValueError("private training is of rows in the compact format, by a soft prompt; leave out the others")
    if num_processes() > 1:
        raise ValueError("private training is done by one process; start it without a launcher")


def private_moments(latents: TensorDataset, budget: PrivacyBudget) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and deviation of latents in each dimension, from noisy sums.

    Args:
        latents ([`TensorDataset`]): `mean` and `std` of all records, both of shape `(num_records, latent_size)`.
        budget ([`PrivacyBudget`]): What the sums are paid from.

    Returns:
        Both `torch.Tensor` of shape `(latent_size,)`.
    """
    mean = (latents.tensors["mean"] / LARGEST_MEAN).clamp(-1, 1)
    square = (mean.square() + (latents.tensors["std"] / LARGEST_MEAN).square()).clamp(max=1)
    records = torch.cat([mean, square], dim=1).double()
    noise_multiplier = budget.noise_multiplier(MOMENTS_SHARE, 1.0, 1)
    budget.spend(noise_multiplier, 1.0, 1)
    std = noise_multiplier * records.shape[1] ** 0.5  # each entry is 1 at most
    noise = std * torch.randn(records.shape[1], generator=secret_generator(), dtype=torch.float64)
    first, second = ((records.sum(0) + noise) / len(records)).chunk(2)
    variance = (second - first.square()).clamp(min=1e-4)
    return (LARGEST_MEAN * first).float(), (LARGEST_MEAN * variance.sqrt()).float()


def secret_generator() -> torch.Generator:
    """Random numbers from the system's entropy: who knows the seed of noise can take the noise away."""
    return generator_of(randbits(128))
