"""What the trainers of both phases have in common."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..batches import collate_records
from ..hub.upload import commit_files, explain_hub_errors, folder_files
from .arguments import BaseTrainingArguments


logger = logging.get_logger(__name__)

# What resuming does without: arguments, among which the token may be, and a processor, which names rare categories.
PRIVATE = (TRAINING_ARGS_NAME, "processor_config.json", "*tokenizer*")

EVAL_SEED = 0  # validation draws the same noise each time, so that its losses compare


class BaseTrainer(Trainer):
    """
    A Trainer of records, whose evaluations draw the same random numbers each time, and whose pushes to the Hub are
    commits of a model that loads.
    """

    args: BaseTrainingArguments

    def __init__(self, model: torch.nn.Module, args: BaseTrainingArguments, data_collator=collate_records, **kwargs):
        super().__init__(model, args, data_collator=data_collator, **kwargs)
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


def _forget_paths(path: Path) -> None:
    """Leaves of the best checkpoint, in the state of a Trainer, the name alone."""
    state = json.loads(path.read_text(encoding="utf-8"))
    state["best_model_checkpoint"] = state["best_model_checkpoint"] and Path(state["best_model_checkpoint"]).name
    path.write_text(json.dumps(state, indent=2), encoding="utf-8")
