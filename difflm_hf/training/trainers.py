"""The two phases of training, each a `transformers.Trainer`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from huggingface_hub import CommitInfo, HfApi
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..batches import TensorDataset, trim_padding
from ..denoiser import DiffLMDenoiser
from ..hub.upload import commit_files, explain_hub_errors, folder_files
from ..modeling_difflm import DiffLMModel
from ..records.grammar import JSONGrammar
from ..scheduling_latent_edm import LatentEDMScheduler
from .beta_schedule import BetaSchedule


logger = logging.get_logger(__name__)

# What resuming does without: arguments, among which the token may be, and a processor, which names rare categories.
PRIVATE = (TRAINING_ARGS_NAME, "processor_config.json", "*tokenizer*")

# Tokens of a record, below which the backward pass of fused attention takes longer in bf16 than a plain one on CPUs
SHORT = 256

EVAL_SEED = 0  # validation draws the same noise each time, so that its losses compare


class LengthGroupedSampler(Sampler):
    """
    Records in an order in which those of a batch are of about the same length, another in each epoch. In contrast to
    the sampler of transformers, long and short batches come in any order.

    Args:
        lengths (`list[int]`): Of the records.
        batch_size (`int`): Records in a batch.
        seed (`int`): Of the orders.
    """

    NUM_BATCHES = 50  # of records that are drawn at random and sorted among each other

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = torch.tensor(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        groups = torch.randperm(len(self), generator=generator).split(self.NUM_BATCHES * self.batch_size)
        ordered = torch.cat([group[self.lengths[group].argsort(stable=True)] for group in groups])
        *batches, rest = ordered.split(self.batch_size)
        order = torch.randperm(len(batches), generator=generator).tolist()
        return iter([index for batch in (*(batches[i] for i in order), rest) for index in batch.tolist()])

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@dataclass
class _TrainingArguments(TrainingArguments):
    hub_subfolder: str | None = field(default=None, metadata={"help": "Where in the repository the model is."})


class _Trainer(Trainer):
    """
    A Trainer of whole batches of tensors, whose evaluations draw the same random numbers each time, and whose pushes
    to the Hub are commits of a model that loads.
    """

    args: _TrainingArguments

    def __init__(self, model: torch.nn.Module, args: TrainingArguments, **kwargs):
        if args.n_gpu > 1:
            args._n_gpu = 1  # else copies in threads, which do not have their parameters; accelerate has processes
        self._attention = _attention_of(model)
        # What TensorDataset returns is a batch already.
        super().__init__(model, args, data_collator=trim_padding, **kwargs)
        self.model_accepts_loss_kwargs = False

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def evaluation_loop(self, *args, **kwargs):
        with torch.random.fork_rng():
            torch.manual_seed(EVAL_SEED)
            return super().evaluation_loop(*args, **kwargs)

    def final_weights(self) -> AbstractContextManager:
        """Within it, the model has the weights that training is after."""
        return nullcontext()

    def finished_model(self) -> torch.nn.Module:
        """The model as it was given, without what training needs of it."""
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            self.model.__dict__.pop(name, None)  # of accelerate, whose forward computes in bf16
        if self._attention:
            self.model.set_attn_implementation(self._attention)
        return self.model.eval()

    def init_hf_repo(self, *args, **kwargs) -> None:
        with explain_hub_errors(self.args.hub_model_id or self.args.output_dir):
            super().init_hf_repo(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        args, job = self.args, self.push_in_progress
        is_busy = job is not None and not job.is_done() and not args.hub_always_push
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END or is_busy:
            return
        if os.path.isabs(getattr(self.model.config, "base_model", None) or ""):
            logger.warning_once("No pushes before the end: the base model is a folder, which others do not have")
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        # A copy, since checkpoints come and go while it is sent.
        folder = Path(tempfile.mkdtemp())
        with self.final_weights():
            self.model.save_pretrained(folder / (args.hub_subfolder or ""))
        stale = []
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            is_last = args.hub_strategy == HubStrategy.CHECKPOINT
            name = "last-checkpoint" if is_last else Path(checkpoint_folder).name
            checkpoint = Path(args.hub_subfolder or "", name)
            shutil.copytree(checkpoint_folder, folder / checkpoint, ignore=shutil.ignore_patterns(*PRIVATE))
            _forget_paths(folder / checkpoint / TRAINER_STATE_NAME)
            stale = [f"{checkpoint.as_posix()}/*"]
        message = f"Training in progress, step {self.state.global_step}"

        def push() -> None:
            try:
                commit_files(
                    folder_files(folder),
                    self.hub_model_id,
                    token=args.hub_token,
                    revision=args.hub_revision,
                    commit_message=message,
                    delete_patterns=stale,
                )
            except Exception as error:
                logger.warning(f"A push to {self.hub_model_id} failed, training goes on: {error}")
            finally:
                shutil.rmtree(folder)

        self.push_in_progress = PushInProgress([HfApi().run_as_future(push)])

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Future | None:
        """
        Pushes the model to `args.hub_model_id`.

        Args:
            commit_message (`str`, defaults to `"End of training"`): Of the commit.
            blocking (`bool`, defaults to `True`): Return when it is done, rather than a `Future` at once.
            token, revision, private (*optional*): In place of `hub_token`, `hub_revision` and `hub_private_repo`.
            kwargs (*optional*): Those of the model's `push_to_hub`.
        """
        args = self.args
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        push = partial(
            self.model.push_to_hub,
            self.hub_model_id,
            subfolder=args.hub_subfolder,
            commit_message=commit_message,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            **kwargs,
        )
        return push() if blocking else HfApi().run_as_future(push)


def _attention_of(model: torch.nn.Module) -> dict[str, str | None]:
    """What `set_attn_implementation` brings a model back to; nothing for one without."""
    if not hasattr(model, "set_attn_implementation"):
        return {}
    parts = {name: getattr(model.config, name) for name in model.config.sub_configs}
    given = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    return {"": model.config._attn_implementation} | given


def _forget_paths(path: Path) -> None:
    """Leaves of the best checkpoint, in the state of a Trainer, the name alone."""
    state = json.loads(path.read_text(encoding="utf-8"))
    state["best_model_checkpoint"] = state["best_model_checkpoint"] and Path(state["best_model_checkpoint"]).name
    path.write_text(json.dumps(state, indent=2), encoding="utf-8")


@dataclass
class DiffLMTrainingArguments(_TrainingArguments):
    """
    `TrainingArguments`, and how β goes.

    Args:
        hub_subfolder (`str`, *optional*): Where in the repository the model is, with `push_to_hub`.
        beta_schedule (`str`, defaults to `"constant"`): `"constant"`, `"decreasing"` or `"cyclical"`.
        beta_max, beta_min (`float`, defaults to 0.5 and 0.001): Bounds of β.
        beta_decay (`float`, defaults to 0.7): Factor of `"decreasing"`.
        beta_patience (`int`, defaults to 2): Evaluations without improvement before `"decreasing"` takes a step.
        beta_cycles (`int`, defaults to 4): Cycles of `"cyclical"`.
        free_bits (`float`, defaults to 0.0): Nats of each latent dimension that the KL term leaves free.
    """

    beta_schedule: str = field(default="constant", metadata={"help": "constant, decreasing or cyclical."})
    beta_max: float = field(default=0.5, metadata={"help": "Largest weight of the KL term."})
    beta_min: float = field(default=0.001, metadata={"help": "Smallest weight of the KL term."})
    beta_decay: float = field(default=0.7, metadata={"help": "Factor of the decreasing schedule."})
    beta_patience: int = field(default=2, metadata={"help": "Stalled evaluations before beta decreases."})
    beta_cycles: int = field(default=4, metadata={"help": "Cycles of the cyclical schedule."})
    free_bits: float = field(default=0.0, metadata={"help": "Nats per latent dimension that cost nothing."})


class DiffLMTrainer(_Trainer):
    """
    Trains a [`DiffLMModel`], the first phase.

    Evaluations report `eval_reconstruction_loss`, `eval_kl_loss` and `eval_bound`, their sum: an upper bound of
    −log p(x) in nats per record, comparable across β, and what to select checkpoints by.

    Args:
        model (`DiffLMModel`): The model.
        args (`DiffLMTrainingArguments`): The arguments.
        grammar ([`JSONGrammar`], *optional*):
            That of the processor: where records have `choices`, the loss is over the ids that it allows, as sampling
            is. Not given, over all of the vocabulary.
        kwargs (*optional*):
            Those of `transformers.Trainer`. Datasets yield what [`DiffLMProcessor`] returns, without
            `within_bin_offsets`.
    """

    args: DiffLMTrainingArguments

    def __init__(
        self, model: DiffLMModel, args: DiffLMTrainingArguments, grammar: JSONGrammar | None = None, **kwargs
    ):
        super().__init__(model, args, **kwargs)
        self.grammar = grammar
        is_training = self.train_dataset is not None
        if is_training and args.bf16 and args.device.type == "cpu" and self._mean_length() < SHORT:
            model.set_attn_implementation("eager")
        self._totals: dict[str, float] = {}
        self._num_records = 0
        a = args
        self.add_callback(
            BetaSchedule(a.beta_schedule, a.beta_max, a.beta_min, a.beta_decay, a.beta_patience, a.beta_cycles)
        )

    def _mean_length(self) -> float:
        tensors = self.train_dataset.tensors
        mask = tensors.get("attention_mask", torch.ones_like(tensors["input_ids"]))
        return mask.sum(1).float().mean().item()

    @property
    def beta(self) -> float:
        # Resuming puts a new schedule in the place of the first one.
        return next(cb.beta for cb in self.callback_handler.callbacks if isinstance(cb, BetaSchedule))

    def train(self, *args, **kwargs):
        self._totals, self._num_records = {}, 0
        return super().train(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: TensorDataset | None = None) -> Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        mask = dataset.tensors.get("decoder_attention_mask")
        if mask is None:  # records of a table are of one length
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(mask.sum(1).tolist(), self.args.train_batch_size, self.args.data_seed or 0)

    def _get_eval_sampler(self, eval_dataset: TensorDataset) -> Iterable[int] | None:
        mask = eval_dataset.tensors.get("decoder_attention_mask")
        if mask is None:
            return super()._get_eval_sampler(eval_dataset)
        return mask.sum(1).argsort(descending=True, stable=True).tolist()  # little padding

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        allowed = None
        if self.grammar is not None and "labels" in inputs:
            allowed = self.grammar.allowed(inputs["decoder_input_ids"], inputs["decoder_attention_mask"])
        outputs = model(**inputs, allowed=allowed, beta=self.beta, free_bits=self.args.free_bits)
        num_records = len(inputs["input_ids"])
        for name in ("reconstruction_loss", "kl_loss"):
            self._totals[name] = self._totals.get(name, 0) + getattr(outputs, name).detach() * num_records
        self._num_records += num_records
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _pop_means(self) -> dict[str, float]:
        means = {name: float(total) / self._num_records for name, total in self._totals.items()}
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


@dataclass
class LatentDiffusionTrainingArguments(_TrainingArguments):
    """
    `TrainingArguments`, and two of the latent diffusion.

    Args:
        hub_subfolder (`str`, *optional*): Where in the repository the model is, with `push_to_hub`.
        sample_posterior (`bool`, defaults to `True`):
            Draw latents from the records' posteriors, anew each time, rather than take the means of these. The decoder
            is trained on such draws, so that it writes the truest records from them.
        ema_decay (`float`, defaults to 0.999): Largest decay; it warms up from 0.
    """

    sample_posterior: bool = field(default=True, metadata={"help": "Train on posterior samples, not their means."})
    ema_decay: float = field(default=0.999, metadata={"help": "Largest decay of the weights' moving average."})


class LatentDiffusionTrainer(_Trainer):
    """
    Trains a [`DiffLMDenoiser`] on latents with the EDM loss (arXiv 2206.00364, eq. 8), the second phase.

    It evaluates, selects and ends with the moving average of the weights.

    Args:
        model (`DiffLMDenoiser`): The denoiser, whose `latent_mean` and `latent_std` fit the latents.
        args (`LatentDiffusionTrainingArguments`): The arguments.
        scheduler (`LatentEDMScheduler`): Noise levels, preconditioning and loss weights.
        kwargs (*optional*):
            Those of `transformers.Trainer`. Datasets yield `mean` and `std`, both of shape
            `(batch_size, latent_size)`: a latent is drawn from N(mean, std²) each time, and is the mean itself where
            std is 0.
    """

    args: LatentDiffusionTrainingArguments
    EMA_FILE = "ema.safetensors"

    def __init__(
        self,
        model: DiffLMDenoiser,
        args: LatentDiffusionTrainingArguments,
        scheduler: LatentEDMScheduler,
        **kwargs,
    ):
        super().__init__(model, args, **kwargs)
        self.noise_scheduler = scheduler
        self.ema = EMAModel(
            model.parameters(),
            decay=args.ema_decay,
            use_ema_warmup=True,
            power=3 / 4,
        )
        self.add_callback(_EMAStep(self))

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        scheduler, mean, std = self.noise_scheduler, inputs["mean"], inputs["std"]
        denoiser = self.accelerator.unwrap_model(model)
        latents = denoiser.normalize_latents(mean + std * torch.randn_like(mean))
        sigmas = scheduler.sample_sigmas(len(latents), device=latents.device)
        noisy = latents + sigmas[:, None] * torch.randn_like(latents)
        output = model(scheduler.precondition_inputs(noisy, sigmas), scheduler.precondition_noise(sigmas))
        denoised = scheduler.precondition_outputs(noisy, output.float(), sigmas)
        loss = (scheduler.loss_weight(sigmas) * (denoised - latents).square().mean(1)).mean()
        return (loss, {"denoised": denoised}) if return_outputs else loss

    @contextmanager
    def final_weights(self) -> Iterator[None]:
        parameters = list(self.model.parameters())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def evaluation_loop(self, *args, **kwargs):
        with self.final_weights():
            return super().evaluation_loop(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        names = (name for name, _ in self.model.named_parameters())
        save_file(
            dict(zip(names, self.ema.shadow_params)),
            Path(output_dir or self.args.output_dir) / self.EMA_FILE,
            metadata={"optimization_step": str(self.ema.optimization_step)},
        )

    def _load_ema(self, checkpoint: str) -> None:
        with safe_open(Path(checkpoint) / self.EMA_FILE, "pt", device=str(self.args.device)) as file:
            self.ema.shadow_params = [file.get_tensor(name) for name, _ in self.model.named_parameters()]
            self.ema.optimization_step = int(file.metadata()["optimization_step"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_ema(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_ema(self.state.best_model_checkpoint)
        self.ema.copy_to(self.model.parameters())


class _EMAStep(TrainerCallback):
    """Updates the average after each step, and leaves it in the model at the end."""

    def __init__(self, trainer: LatentDiffusionTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.ema.step(self.trainer.model.parameters())

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.ema.copy_to(self.trainer.model.parameters())
