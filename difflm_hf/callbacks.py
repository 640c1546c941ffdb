"""What the user sees of training, and how it keeps to its time."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from .distributed import of_first


logger = logging.get_logger(__name__)


class LossProgressCallback(ProgressCallback):
    """A progress bar that shows the latest losses."""

    SHOWN = ("loss", "kl_loss", "beta", "eval_loss", "eval_bound")

    def __init__(self, description: str):
        super().__init__()
        self.description = description
        self.losses: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.description)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        """No bar of its own for the few batches of a validation."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.losses |= {name: f"{logs[name]:.3f}" for name in self.SHOWN if name in (logs or {})}
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.losses)


class TensorBoardLog(TrainerCallback):
    """
    Writes losses for TensorBoard. (That of transformers needs models whose configuration is one of transformers.)

    Args:
        folder (`str` or `Path`): Where to.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.writer = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            # TensorBoard reads files in the order of their names, which start with the second that they are made in.
            while any(self.folder.glob(f"events.out.tfevents.{int(time.time()):010}.*")):
                time.sleep(0.05)
            # What a killed run logged after its last checkpoint comes once more.
            self.writer = SummaryWriter(self.folder, purge_step=state.global_step + 1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.writer is None:
            return
        for name, value in (logs or {}).items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, state.global_step)
        self.writer.flush()

    def on_train_end(self, args, state, control, **kwargs):
        if self.writer is not None:
            self.writer.close()


class Stopwatch(TrainerCallback, ExportableState):
    """
    Measures the time of training, that before an interruption included.

    Args:
        seconds (`float`, defaults to 0.0): The time so far.
    """

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self.start = None

    @property
    def elapsed(self) -> float:
        return self.seconds + (0.0 if self.start is None else time.monotonic() - self.start)

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds, self.start = self.elapsed, None

    def state(self) -> dict:
        return {"args": {"seconds": self.elapsed}, "attributes": {}}


class TimeLimit(TrainerCallback):
    """
    Ends training, after one more validation, when its time is up.

    Args:
        deadline (`float`): When, by `time.monotonic()`.
    """

    def __init__(self, deadline: float):
        self.deadline = deadline

    def on_step_end(self, args, state, control, **kwargs):
        if of_first(time.monotonic() > self.deadline) and state.global_step < state.max_steps:
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = control.should_training_stop = True


class Preemption(TrainerCallback):
    """
    Ends the process at SIGTERM, by which schedulers take machines back, after one more checkpoint. Within it as a
    context the signal waits for the end of a step.

    Raises:
        `SystemExit`: of the status 143, which shells have for that signal.
    """

    def __init__(self):
        self.is_asked, self.handler = False, None

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():  # others hear no signals
            self.handler = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handler is not None:
            signal.signal(signal.SIGTERM, self.handler)

    def _ask(self, *_: object) -> None:
        self.is_asked = True

    def on_step_end(self, args, state, control, **kwargs):
        if of_first(self.is_asked):
            self.is_asked = control.should_log = control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self.is_asked:
            logger.warning(f"ended by SIGTERM after step {state.global_step}, with a checkpoint; resume goes on there")
            raise SystemExit(128 + signal.SIGTERM)
