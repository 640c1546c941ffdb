"""What the trainers of both phases have in common."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from diffusers.training_utils import EMAModel
from huggingface_hub import CommitInfo, HfApi
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset, RandomSampler, Sampler
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..batches import collate_records, record_lengths
from ..distributed import SharedSampler
from ..hub.upload import commit_files, explain_hub_errors, folder_files
from .arguments import BaseTrainingArguments
from .samplers import LengthGroupedSampler
from .sharded_trainer import ShardedTrainer, part_of, whole


logger = logging.get_logger(__name__)

# What resuming does without: arguments, among which the token may be, and a processor, which names rare categories.
PRIVATE = (TRAINING_ARGS_NAME, "processor_config.json", "*tokenizer*")

EVAL_SEED = 0  # validation draws the same noise each time, so that its losses compare


class BaseTrainer(ShardedTrainer):
    """
    A Trainer of records, whose evaluations draw the same random numbers each time, and whose pushes to the Hub are
    commits of a model that loads. With `ema_decay` it evaluates, selects and ends with the moving average of the
    weights.
    """

    args: BaseTrainingArguments
    EMA_FILE = "ema.safetensors"

    def __init__(self, model: torch.nn.Module, args: BaseTrainingArguments, data_collator=collate_records, **kwargs):
        super().__init__(model, args, data_collator=data_collator, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.ema: EMAModel | None = None
        if args.ema_decay is not None:
            options = {"use_ema_warmup": True, "power": 3 / 4, "foreach": self.model is self.whole}  # not of shards
            self.ema = EMAModel(self.model.parameters(), decay=args.ema_decay, **options)
            self.add_callback(_EMAStep(self))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset, args = self.train_dataset if train_dataset is None else train_dataset, self.args
        sampler = super()._get_train_sampler(train_dataset)
        seed = args.seed if args.data_seed is None else args.data_seed
        if (lengths := record_lengths(dataset)) is not None:
            sampler = LengthGroupedSampler(lengths, args.world_size * args.train_batch_size, seed)
        elif isinstance(sampler, RandomSampler):
            sampler = SeedableRandomSampler(dataset, data_seed=seed)  # as accelerate would make of it
        return sampler and SharedSampler(sampler, args.train_batch_size)

    def compute_gradients(self, inputs: dict[str, torch.Tensor]) -> None:
        """Adds the gradients of a batch to those of the weights: a step without the optimizer's part."""
        with self.accelerator.autocast():  # which training wraps the model in
            loss = self.compute_loss(self.model, self._prepare_inputs(inputs))
        loss.backward()
        loss.item()  # waits for an accelerator

    @property
    def record(self) -> dict[str, Any]:
        """What the record of a phase has besides."""
        return {}

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        for name, value in logs.items():
            if name.endswith("loss") and not math.isfinite(value):
                rates = {rate: getattr(self.args, rate, None) for rate in ("learning_rate", "posterior_learning_rate")}
                given = " and ".join(f"{rate}={value:g}" for rate, value in rates.items() if value is not None)
                raise RuntimeError(
                    f"training has diverged: at step {self.state.global_step}, {name} is {value}; lower {given} of "
                    f"{Path(self.args.output_dir).name}"
                )
        super().log(logs, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            raise ValueError(
                f"the optimizer of {checkpoint} has other groups of weights, as another version made them: {error}; "
                "train into a new folder"
            ) from error

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def evaluation_loop(self, *args, **kwargs):
        with torch.random.fork_rng(), self.final_weights():
            torch.manual_seed(EVAL_SEED)
            return super().evaluation_loop(*args, **kwargs)

    @contextmanager
    def final_weights(self) -> Iterator[None]:
        """Within it, the model has the weights that training is after."""
        if self.ema is None:
            yield
            return
        parameters = list(self.model.parameters())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # The arguments are saved as they are.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        if self.ema is not None:
            weights = {n: whole(mean) for (n, _), mean in zip(self.model.named_parameters(), self.ema.shadow_params)}
            if self.args.should_save:
                save_file(
                    weights,
                    Path(output_dir or self.args.output_dir) / self.EMA_FILE,
                    metadata={"optimization_step": str(self.ema.optimization_step)},
                )

    def _load_ema(self, checkpoint: str) -> None:
        with safe_open(Path(checkpoint) / self.EMA_FILE, "pt") as file:
            weights = self.model.named_parameters()
            self.ema.shadow_params = [part_of(file.get_tensor(name), weight) for name, weight in weights]
            self.ema.optimization_step = int(file.metadata()["optimization_step"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.ema is not None:
            self._load_ema(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.ema is None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            self._load_ema(self.state.best_model_checkpoint)
            self.ema.copy_to(self.model.parameters())

    def init_hf_repo(self, *args, **kwargs) -> None:
        with explain_hub_errors(self.args.hub_model_id or self.args.output_dir):
            super().init_hf_repo(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        args, job = self.args, self.push_in_progress
        if args.hub_strategy == HubStrategy.END:
            return
        with self.final_weights():
            model = self.gather_weights()
            is_busy = job is not None and not job.is_done() and not args.hub_always_push
            if not self.is_world_process_zero() or is_busy:
                return
            if os.path.isabs(getattr(model.config, "base_model", None) or ""):
                logger.warning_once("No pushes before the end: the base model is a folder, which others do not have")
                return
            self.callback_handler.on_push_begin(args, self.state, self.control)
            # A copy, since checkpoints come and go while it is sent.
            folder = Path(tempfile.mkdtemp())
            model.save_pretrained(folder / (args.hub_subfolder or ""))
        stale = []
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            is_last = args.hub_strategy == HubStrategy.CHECKPOINT
            name = "last-checkpoint" if is_last else Path(checkpoint_folder).name
            checkpoint = Path(args.hub_subfolder or "", name)
            shutil.copytree(checkpoint_folder, folder / checkpoint, ignore=shutil.ignore_patterns(*PRIVATE))
            _forget_paths(folder / checkpoint / TRAINER_STATE_NAME)
            stale = [f"{checkpoint.as_posix()}/*"]
        # The arguments have no token while they are saved.
        message, token = f"Training in progress, step {self.state.global_step}", args.hub_token

        def push() -> None:
            try:
                commit_files(
                    folder_files(folder),
                    self.hub_model_id,
                    token=token,
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
        model = self.gather_weights()
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        push = partial(
            model.push_to_hub,
            self.hub_model_id,
            subfolder=args.hub_subfolder,
            commit_message=commit_message,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            **kwargs,
        )
        return push() if blocking else HfApi().run_as_future(push)


def _forget_paths(path: Path) -> None:
    """Leaves of the best checkpoint, in the state of a Trainer, the name alone."""
    state = json.loads(path.read_text(encoding="utf-8"))
    state["best_model_checkpoint"] = state["best_model_checkpoint"] and Path(state["best_model_checkpoint"]).name
    path.write_text(json.dumps(state, indent=2), encoding="utf-8")


class _EMAStep(TrainerCallback):
    """Updates the average after each step, and leaves it in the model at the end."""

    def __init__(self, trainer: BaseTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.ema.step(self.trainer.model.parameters())

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.ema.copy_to(self.trainer.model.parameters())
