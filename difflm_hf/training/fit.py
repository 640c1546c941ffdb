"""Fits the autoencoder and the denoiser: in steps that fit the time, from the last checkpoint, to the best weights."""

from __future__ import annotations

import copy
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size
from safetensors.torch import load_file
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..batches import TensorDataset
from ..callbacks import LossProgressCallback, Preemption, Stopwatch, TensorBoardLog, TimeLimit
from ..checks import is_number, shown
from ..denoiser import DiffLMDenoiser
from ..distributed import num_processes, of_first, process_index, wait_for_all
from ..files import atomic_write, is_whole
from ..latents import encode_latents, pool_states
from ..modeling_difflm import DiffLMModel
from ..posterior import StandardizedPosterior
from ..privacy.budget import PrivacyBudget
from ..scheduling_latent_edm import LatentEDMScheduler
from ..utils import default_device, is_quantized, no_progress_bars, supports_bf16
from .arguments import DiffLMTrainingArguments, LatentDiffusionTrainingArguments, PrivacyArguments
from .base_trainer import BaseTrainer
from .output_dir import save_whole
from .prepare import PreparedRecords
from .private import PRIVATE_TRAINERS, PrivateTrainer
from .recipes import (
    BATCH_ITEM_TOKENS,
    BATCH_LOGITS,
    COMMON_ARGUMENTS,
    EARLY_STOPPING_PATIENCE,
    NOISE_LEVELS,
    NUM_EVALUATIONS,
    PRIVATE_ARGUMENTS,
    VAE_ARGUMENTS,
    VAE_SHARE,
    Recipe,
)
from .summary import summarize_phase
from .trainers import DiffLMTrainer, LatentDiffusionTrainer


# Tokens of a record, below which the backward pass of fused attention takes longer in bf16 than a plain one on CPUs
SHORT = 256
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
BATCH_SIZES = {"per_device_train_batch_size", "per_device_eval_batch_size"}
MAX_STATES = 2**32  # bytes of states that are kept of records
NUM_LOGS = 4  # of private training
# Of the time, at most, for encoding records. A pretrained LM's step takes some three times as long for a record: as
# many as are encoded in a fifth of the time are also read about once by the training.
ENCODING_SHARE = 1 / 5
SAMPLE_FILE = "num_records.json"
FEW = 1 / 4  # of the steps of a recipe, of which a user is told where a time limit leaves no more

T = TypeVar("T")

logger = logging.get_logger(__name__)


@dataclass
class Run:
    """
    What both phases of a run share.

    Args:
        folder (`Path`): The output folder; phases have their checkpoints and logs below it.
        seed (`int`): Seed of everything.
        deadline (`float`, *optional*): When training has to end, by `time.monotonic()`.
        hub (`dict`, *optional*): Fields of `TrainingArguments` for pushes before the end.
        privacy ([`PrivacyArguments`], *optional*): How private training is to be.
        budget ([`PrivacyBudget`], *optional*): What it is paid from.
    """

    folder: Path
    seed: int = 0
    deadline: float | None = None
    hub: dict[str, Any] = field(default_factory=dict)
    privacy: PrivacyArguments | None = None
    budget: PrivacyBudget | None = None

    def check(self, recipe: Recipe) -> None:
        """Raises a `ValueError` for what a phase will not take, before the first one begins."""
        phases = {"vae": DiffLMTrainingArguments, "denoiser": LatentDiffusionTrainingArguments}
        for phase, cls in phases.items():
            try:
                self.arguments(cls, phase, getattr(recipe, phase))
            except TypeError as error:
                raise ValueError(f"{phase} of the recipe: {error}") from error
        try:
            with torch.device("meta"):
                DiffLMDenoiser(latent_size=recipe.latent_size, **recipe.denoiser_config)
        except TypeError as error:
            raise ValueError(f"denoiser_config of the recipe: {error}") from error
        for name, value in recipe.scheduler.items():
            if not is_number(value) or not math.isfinite(value):
                raise ValueError(f"scheduler of the recipe: {name}={shown(value)} is no finite number")
        try:
            LatentEDMScheduler(**NOISE_LEVELS | recipe.scheduler)
        except TypeError as error:
            raise ValueError(f"scheduler of the recipe: {error}") from error

    def checkpoints(self, phase: str) -> Path:
        """The folder of a phase's checkpoints."""
        return self.folder / "checkpoints" / phase

    def arguments(self, cls: type[TrainingArguments], phase: str, fields: dict[str, Any]) -> TrainingArguments:
        """The training arguments of a phase, by the recipe's fields."""
        fields = {"bf16": supports_bf16(), **COMMON_ARGUMENTS, **fields, **self.hub}
        if self.budget is not None:
            fields |= PRIVATE_ARGUMENTS
        for name in BATCH_SIZES & fields.keys():  # those of a recipe are of all processes together
            fields[name] = -(-fields[name] // num_processes())
        return cls(
            output_dir=str(self.checkpoints(phase)),
            hub_subfolder=f"checkpoints/{phase}",
            seed=self.seed,
            data_seed=self.seed,
            use_cpu=default_device().type == "cpu",
            **fields,
        )

    def trainer(
        self,
        cls: type[BaseTrainer],
        model: torch.nn.Module,
        arguments: TrainingArguments,
        *args,
        train_dataset: TensorDataset,
        eval_dataset: TensorDataset | None,
        **kwargs,
    ) -> BaseTrainer:
        """The trainer of a phase, which learns privately where there is a budget for it."""
        if self.budget is None:
            datasets = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
            return cls(same_weights(model), arguments, *args, **datasets, **kwargs)
        private, share = PRIVATE_TRAINERS[cls]
        kwargs |= {"budget": self.budget, "share": share, "max_grad_norm": self.privacy.max_grad_norm}
        return private(same_weights(model), arguments, *args, train_dataset=train_dataset, **kwargs)

    def fit(self, trainer: BaseTrainer, description: str, deadline: float | None) -> dict[str, Any]:
        """[`fit`], and what it takes of the budget."""
        record = fit(trainer, description, deadline)
        if self.budget is not None:
            self.budget.spend(*(record["privacy"][name] for name in ("noise_multiplier", "sample_rate", "num_steps")))
        return record


def fit_autoencoder(vae: DiffLMModel, records: PreparedRecords, recipe: Recipe, run: Run) -> dict[str, Any]:
    """
    Trains the autoencoder in place, the first phase.

    Returns:
        `dict`: The record of the phase, for the model card.
    """
    fields = VAE_ARGUMENTS | recipe.vae
    if "decoder_input_ids" in records.train.tensors:
        # Logits over the vocabulary take most of the memory.
        num_logits = records.train.tensors["decoder_input_ids"].shape[1] * vae.config.get_text_config().vocab_size
        fields |= _limited_batches(fields, BATCH_LOGITS // num_logits)
    elif records.processor.codec.levels:
        fields |= _limited_batches(fields, int(BATCH_ITEM_TOKENS / _mean_length(records.train)))
    arguments = run.arguments(DiffLMTrainingArguments, "vae", fields)
    if arguments.max_steps <= 0:
        arguments.max_steps = max(recipe.min_steps, steps_of_epochs(arguments, len(records.train)))
    _to_device(vae)  # before records are read: a Trainer would move it after that
    deadline, is_trained = run.deadline, (run.checkpoints("vae") / "best").is_dir()
    seconds = _limit_records(vae, records, run)
    if vae.reads_frozen_states and not is_trained:
        _keep_states(vae, records)
    if deadline is not None and not is_trained:
        if "pooled_states" not in records.train.tensors:
            deadline -= seconds
        now = time.monotonic()
        deadline = now + VAE_SHARE * (deadline - now)
    is_short = _mean_length(records.train) < SHORT
    with eager_attention(vae) if arguments.bf16 and arguments.use_cpu and is_short else nullcontext():
        trainer = run.trainer(
            DiffLMTrainer,
            vae,
            arguments,
            grammar=records.processor.grammar,
            position_fields=records.processor.codec.position_fields if vae.config.condition_size else None,
            train_dataset=records.train,
            eval_dataset=records.validation,
        )
        record = run.fit(trainer, "autoencoder", deadline)
    _to_device(vae)  # from main memory, where that which is trained in shards is left
    vae.eval()
    return record


def fit_denoiser(
    denoiser: DiffLMDenoiser,
    scheduler: LatentEDMScheduler,
    latents: list[TensorDataset],
    recipe: Recipe,
    run: Run,
    **known: Any,
) -> dict[str, Any]:
    """
    Trains the denoiser in place on the latents for training and for validation, the second phase.

    Returns:
        `dict`: The record of the phase, for the model card.
    """
    train, validation = (*latents, None)[:2]
    arguments = run.arguments(LatentDiffusionTrainingArguments, "denoiser", recipe.denoiser)
    if arguments.max_steps <= 0:
        arguments.max_steps = steps_of_epochs(arguments, len(train))
    trainer = run.trainer(
        LatentDiffusionTrainer,
        denoiser,
        arguments,
        scheduler,
        train_dataset=train,
        eval_dataset=validation,
        **known,
    )
    record = run.fit(trainer, "latent diffusion", run.deadline)
    denoiser.eval()
    return record


def _limit_records(vae: DiffLMModel, records: PreparedRecords, run: Run) -> float:
    """
    Leaves a sample of the records for training where to encode all of them would take the time of training. Of a
    frozen base they are encoded before the first step, else between the phases.

    Returns:
        `float`: Seconds that it takes to encode what is left; 0 without a time limit.
    """
    folder, num_records, seconds = run.checkpoints("vae"), len(records.train), 0.0
    file, is_trained = folder / SAMPLE_FILE, (folder / "best").is_dir()
    # A run of which steps are kept goes on with the same records, whatever time it is given.
    is_begun = of_first(is_trained or _last_checkpoint(folder)[0] is not None)
    if is_begun:
        num_records = of_first(json.loads(file.read_text(encoding="utf-8")) if file.exists() else num_records)
    if num_records < len(records.train):
        records.sample(num_records, run.seed)
    if run.deadline is not None and not is_trained:
        left = of_first(run.deadline - time.monotonic())
        seconds = _seconds_to_encode(vae, records.train, max_seconds=left / 60)
        if not is_begun and seconds > max(ENCODING_SHARE * left, 60):
            num_records = max(1, int(num_records * ENCODING_SHARE * left / seconds))
            logger.warning(
                f"to encode {len(records.train):,} records takes some {seconds / 60:.0f} of the {left / 60:.0f} "
                f"minutes that are left: {num_records:,} of them are learnt from; raise max_minutes for more"
            )
            seconds *= num_records / len(records.train)
            records.sample(num_records, run.seed)
    if process_index() == 0 and not is_begun:
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(num_records), encoding="utf-8")
    return seconds


def _to_device(model: PreTrainedModel) -> None:
    if not is_quantized(model):
        model.to(default_device())


def _keep_states(vae: DiffLMModel, records: PreparedRecords) -> None:
    """Reads all records, whose states are the same in every epoch and after the last one, as far as there is room."""
    for part in {id(part): part for part in (records.train, records.validation)}.values():
        if 4 * len(part) * vae.decoder.config.get_text_config().hidden_size <= MAX_STATES:
            part.tensors["pooled_states"] = pool_states(vae, part)
    states = records.train.tensors.get("pooled_states")
    if states is not None and isinstance(vae.to_posterior, StandardizedPosterior):
        vae.to_posterior.standardization.fix(states)


def same_weights(model: torch.nn.Module) -> torch.nn.Module:
    """The model for a trainer: accelerate gives what it prepares another `forward`, and leaves it there."""
    return copy.copy(model)


def _limited_batches(fields: dict[str, Any], most: int) -> dict[str, int]:
    return {name: max(1, min(most, (COMMON_ARGUMENTS | fields)[name])) for name in BATCH_SIZES}


def _mean_length(dataset: TensorDataset) -> float:
    ids = dataset.tensors["input_ids"]
    return dataset.tensors.get("attention_mask", torch.ones_like(ids)).sum(1).float().mean().item()


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within it, a model computes attention by plain products."""
    parts = {name: getattr(model.config, name) for name in model.config.sub_configs}
    given = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    given[""] = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(given)


def steps_of_epochs(arguments: TrainingArguments, num_records: int) -> int:
    """Optimizer steps, of which epochs may be a fraction."""
    batch_size = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return max(1, int(arguments.num_train_epochs * -(-num_records // batch_size)))


def deadline_of(max_minutes: float | None) -> float | None:
    """The moment, by `time.monotonic`, at which that time is over; `None` for no limit."""
    if max_minutes is None:
        return None
    if not is_number(max_minutes) or not 0 <= max_minutes < math.inf:
        given = shown(max_minutes)
        raise ValueError(f"max_minutes={given} is no number of minutes from 0 on; leave it out for no limit")
    return time.monotonic() + 60 * max_minutes


def fit(trainer: Trainer, description: str, deadline: float | None) -> dict[str, Any]:
    """
    Trains to the end, the deadline, or where validation no longer improves, from the last checkpoint if there is one.
    The trainer's model then has the best weights, which are also saved in the folder `best`: once that is there, the
    phase is complete.

    Returns:
        `dict`: The record of the phase.
    """
    folder = Path(trainer.args.output_dir)
    best, record = folder / "best", folder / "phase.json"
    if best.is_dir():
        weights = {name: weight for path in best.glob("*.safetensors") for name, weight in load_file(path).items()}
        trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
        if lost := trained - weights.keys():
            raise OSError(f"{best} lacks weights, such as {min(lost)}; delete that folder, and resume")
        trainer.whole.load_state_dict(weights, strict=False)  # those of a frozen base are there
    else:
        with no_progress_bars():
            _train(trainer, description, deadline, folder)
        model = trainer.gather_weights()
        if process_index() == 0:
            record.write_text(json.dumps(summarize_phase(description, trainer), indent=2), encoding="utf-8")
            save_whole(model, best)
        wait_for_all()
    return json.loads(record.read_text(encoding="utf-8"))


def _train(trainer: Trainer, description: str, deadline: float | None, folder: Path) -> None:
    args = trainer.args
    checkpoint, state = _last_checkpoint(folder)
    if checkpoint is not None:
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            trainer.add_callback(Stopwatch(**state.stateful_callbacks["Stopwatch"]["args"]))
            state.best_model_checkpoint = str(folder / f"checkpoint-{state.best_global_step or state.global_step}")
            trainer.state = state
            return trainer._load_best_model()
        args.max_steps, args.logging_steps = state.max_steps, state.logging_steps
    else:
        num_evaluations = NUM_EVALUATIONS
        if deadline is not None:
            num_steps, num_evaluations = _in_memory(trainer, lambda: _plan(deadline, trainer))
            if num_steps < FEW * args.max_steps:
                logger.warning(
                    f"only {max(1, num_steps)} of the {args.max_steps} steps of the {description} fit into the time "
                    "that is left, too few to learn all; raise max_minutes, or leave the processor to this training"
                )
            args.max_steps = max(1, min(args.max_steps, num_steps))
        # Evaluations, which checkpoints follow, fall on steps that log: no sums of losses are left over then.
        args.logging_steps = -(-args.max_steps // (4 * num_evaluations))
    args.eval_steps = args.save_steps = 4 * args.logging_steps
    if trainer.eval_dataset is None:
        args.logging_steps = -(-args.max_steps // NUM_LOGS)  # of ε alone, which takes half a second each time
    args.warmup_steps = min(args.warmup_steps, args.max_steps // 10)
    trainer.pop_callback(ProgressCallback)
    trainer.add_callback(LossProgressCallback(description))
    trainer.add_callback(TensorBoardLog(folder.parents[1] / "logs" / folder.name))
    trainer.add_callback(Stopwatch())
    if trainer.eval_dataset is not None:
        trainer.add_callback(EarlyStoppingCallback(EARLY_STOPPING_PATIENCE))
    if deadline is not None:
        trainer.add_callback(TimeLimit(deadline))
    with Preemption() as preemption:
        trainer.add_callback(preemption)
        _in_memory(trainer, lambda: _resume(trainer, folder))


def _resume(trainer: Trainer, folder: Path) -> None:
    checkpoint = _last_checkpoint(folder)[0]
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))


def _in_memory(trainer: Trainer, function: Callable[[], T]) -> T:
    """Trains in batches that fit: half as many records at a time, and twice as many times, where memory is short."""
    args = trainer.args
    while True:
        try:
            return function()
        except RuntimeError as error:
            size = args.per_device_train_batch_size
            is_bound = num_processes() > 1 or isinstance(trainer, PrivateTrainer)  # to batches of this size
            if not should_reduce_batch_size(error) or size == 1 or is_bound:
                raise
        args.per_device_train_batch_size = trainer._train_batch_size = -(-size // 2)
        args.gradient_accumulation_steps *= 2
        logger.warning(
            f"out of memory with {size} records at a time: it goes on with {args.per_device_train_batch_size}, and "
            f"{args.gradient_accumulation_steps} times that many in a step"
        )
        trainer.model.zero_grad()


def _last_checkpoint(folder: Path) -> tuple[Path, TrainerState] | tuple[None, None]:
    """The newest checkpoint of which nothing is cut off or damaged, and its state."""
    # The Trainer writes its state after all else: a checkpoint that lacks it is one that was cut off.
    checkpoints = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            state = TrainerState.load_from_json(checkpoint / TRAINER_STATE_NAME)
        except (ValueError, TypeError):
            state = None
        if state is not None and all(is_whole(path) for path in checkpoint.glob("*") if path.suffix in WEIGHTS):
            return checkpoint, state
        logger.warning(f"{checkpoint} is damaged, and passed over")
    return None, None


def _plan(deadline: float, trainer: Trainer, num_batches: int = 32) -> tuple[int, int]:
    """
    The steps that fit, and the validations between them. Measures, for a fifteenth of the time, without changing
    anything.
    """
    args, moments = trainer.args, [(buffer, buffer.clone()) for buffer in trainer.model.buffers()]
    max_seconds = of_first((deadline - time.monotonic()) / 30)
    trainer.model.train()

    def seconds_per_batch() -> float:
        start, times = time.monotonic(), []
        for batch in itertools.islice(loader, num_batches):
            trainer.compute_gradients(batch)
            times.append(of_first(time.monotonic() - start))
            if times[-1] > max_seconds:
                break
        return times[-1] / len(times)

    try:
        with torch.random.fork_rng():
            loader = trainer.get_train_dataloader()
            seconds_per_batch()  # the first time, each length of a batch takes longer
            seconds = seconds_per_batch()
    finally:
        trainer.model.zero_grad()
        for buffer, before in moments:
            buffer.copy_(before)
    step = (1.1 * seconds + 0.002) * args.gradient_accumulation_steps  # with the optimizer's part, and the Trainer's
    # Without a backward pass, records take half of the time.
    evaluation = seconds / 2 * len(trainer.eval_dataset or ()) / (args.train_batch_size * args.world_size)
    left = of_first(deadline - time.monotonic())
    num_evaluations = max(1, min(NUM_EVALUATIONS, int(left / 8 / max(evaluation, 1e-9))))
    return int((left - num_evaluations * evaluation) / step), num_evaluations


def _seconds_to_encode(vae: DiffLMModel, records: TensorDataset, max_seconds: float) -> float:
    """Measures for three times `max_seconds` at most."""
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))
    begin = time.monotonic()
    for size in (8, 16, 32, 64, 128, 256):  # the first ones take longer
        start = time.monotonic()
        encode_latents(vae, TensorDataset(**records[order[:size]]))
        end = time.monotonic()
        if of_first(end - begin > max_seconds):
            break
    return of_first((end - start) * len(records) / min(size, len(records)))
