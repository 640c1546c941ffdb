"""The two phases of training, each a `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature

import torch
from torch.utils.data import Dataset

from ..batches import record_lengths
from ..denoiser import DiffLMDenoiser
from ..distributed import draw, randn_like
from ..known_fields import KnownFields, draw_known
from ..modeling_difflm import DiffLMModel
from ..records.grammar import JSONGrammar
from ..scheduling_latent_edm import LatentEDMScheduler
from .arguments import DiffLMTrainingArguments, LatentDiffusionTrainingArguments
from .base_trainer import BaseTrainer
from .beta_schedule import BetaSchedule


class DiffLMTrainer(BaseTrainer):
    """
    Trains a [`DiffLMModel`], the first phase.

    Evaluations report `eval_reconstruction_loss`, `eval_kl_loss` and `eval_bound`, their sum: an upper bound of
    −log p(x) in nats per record, comparable across β, and what to select checkpoints by.

    Args:
        model (`DiffLMModel`): The model.
        args (`DiffLMTrainingArguments`): The arguments.
        grammar ([`JSONGrammar`], *optional*):
            That of the processor: where records have `labels`, the loss is over the ids that it allows, as sampling
            is. Not given, over all of the vocabulary.
        position_fields (`list[int]`, *optional*):
            The field of each position before the texts, of a model with a `condition_size`: it is told random ones.
        kwargs (*optional*):
            Those of `transformers.Trainer`. Datasets yield what [`DiffLMProcessor`] returns, without
            `within_bin_offsets`.
    """

    args: DiffLMTrainingArguments

    def __init__(
        self,
        model: DiffLMModel,
        args: DiffLMTrainingArguments,
        grammar: JSONGrammar | None = None,
        position_fields: list[int] | None = None,
        **kwargs,
    ):
        super().__init__(model, args, **kwargs)
        self.grammar = grammar
        self.position_fields = position_fields and torch.tensor(position_fields, device=self.args.device)
        self.inputs = signature(model.forward).parameters.keys()  # a dataset may have other columns, too
        self._totals: dict[str, float] = {}
        self._num_records = 0
        self.add_callback(args.make_beta_schedule())

    @property
    def beta(self) -> float:
        # Resuming puts a new schedule in the place of the first one.
        return next(cb.beta for cb in self.callback_handler.callbacks if isinstance(cb, BetaSchedule))

    def train(self, *args, **kwargs):
        self._totals, self._num_records = {}, 0
        return super().train(*args, **kwargs)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        is_new, optimizer = self.optimizer is None, super().create_optimizer(model)
        if is_new and self.args.posterior_learning_rate is not None:
            posterior = set((model or self.model).to_posterior.parameters())
            for group in list(optimizer.param_groups):
                weights = group["params"]
                group["params"] = [weight for weight in weights if weight not in posterior]
                of_posterior = [weight for weight in weights if weight in posterior]
                optimizer.add_param_group({**group, "params": of_posterior, "lr": self.args.posterior_learning_rate})
        return optimizer

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Iterable[int] | None:
        lengths = record_lengths(eval_dataset)
        if lengths is None:
            return super()._get_eval_sampler(eval_dataset)
        return lengths.argsort(descending=True, stable=True).tolist()  # little padding

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        allowed = None
        if self.grammar is not None and "labels" in inputs:
            ids = inputs["decoder_input_ids"]
            allowed = self.grammar.allowed(ids, inputs.get("decoder_attention_mask", torch.ones_like(ids)))
        given = {name: tensor for name, tensor in inputs.items() if name in self.inputs}
        if model.training and self.position_fields is not None:
            given["is_known"] = draw_known(len(inputs["input_ids"]), self.position_fields)
        outputs = model(**given, allowed=allowed, beta=self.beta, free_bits=self.args.free_bits)
        num_records = len(inputs["input_ids"])
        for name in ("reconstruction_loss", "kl_loss"):
            self._totals[name] = self._totals.get(name, 0) + getattr(outputs, name).detach() * num_records
        self._num_records += num_records
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _pop_means(self) -> dict[str, float]:
        totals = torch.tensor([self._num_records, *map(float, self._totals.values())], device=self.args.device)
        num_records, *totals = self.accelerator.reduce(totals).tolist()
        means = {name: total / num_records for name, total in zip(self._totals, totals)}
        self._totals, self._num_records = {}, 0
        return means

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs = {**logs, **self._pop_means(), "beta": self.beta}
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        in_training = self._totals, self._num_records
        self._totals, self._num_records = {}, 0
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = self._pop_means()
        means["bound"] = sum(means.values())
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        self._totals, self._num_records = in_training
        return output


class LatentDiffusionTrainer(BaseTrainer):
    """
    Trains a [`DiffLMDenoiser`] on latents with the EDM loss (arXiv 2206.00364, eq. 8), the second phase.

    Args:
        model (`DiffLMDenoiser`): The denoiser, whose `latent_mean` and `latent_std` fit the latents.
        args (`LatentDiffusionTrainingArguments`): The arguments.
        scheduler (`LatentEDMScheduler`): Noise levels, preconditioning and loss weights.
        known_fields ([`KnownFields`], *optional*): What tells a denoiser with a `condition_size` of random fields.
        position_fields (`list[int]`, *optional*): The field of each of its positions.
        kwargs (*optional*):
            Those of `transformers.Trainer`. Datasets yield `mean` and `std`, both of shape
            `(batch_size, latent_size)`: a latent is drawn from N(mean, std²) each time, and is the mean itself where
            std is 0. With `known_fields` they yield `known_ids`, too, of shape `(batch_size, num_positions)`.
    """

    args: LatentDiffusionTrainingArguments

    def __init__(
        self,
        model: DiffLMDenoiser,
        args: LatentDiffusionTrainingArguments,
        scheduler: LatentEDMScheduler,
        known_fields: KnownFields | None = None,
        position_fields: list[int] | None = None,
        **kwargs,
    ):
        super().__init__(model, args, **kwargs)
        self.noise_scheduler = scheduler
        self.known_fields = known_fields
        self.position_fields = position_fields and torch.tensor(position_fields, device=self.args.device)

    def record_losses(self, model: DiffLMDenoiser, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of each record, of shape `(batch_size,)`."""
        scheduler, mean, std = self.noise_scheduler, inputs["mean"], inputs["std"]
        denoiser = self.accelerator.unwrap_model(model)
        latents = denoiser.normalize_latents(mean + std * randn_like(mean))
        sigmas = draw(scheduler.sample_sigmas, len(latents), device=latents.device)
        noisy = latents + sigmas[:, None] * randn_like(latents)
        condition = None
        if model.training and self.known_fields is not None:
            with torch.no_grad():
                condition = self.known_fields(inputs["known_ids"], draw_known(len(mean), self.position_fields))
        output = model(scheduler.precondition_inputs(noisy, sigmas), scheduler.precondition_noise(sigmas), condition)
        denoised = scheduler.precondition_outputs(noisy, output.float(), sigmas)
        return scheduler.loss_weight(sigmas) * (denoised - latents).square().mean(1)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss = self.record_losses(model, inputs).mean()
        return (loss, {}) if return_outputs else loss
