"""Schedules of β, the weight of the KL term."""

from __future__ import annotations

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


class BetaSchedule(TrainerCallback, ExportableState):
    """
    Keeps `beta` up to date during training, and across an interruption.

    Args:
        schedule (`str`, defaults to `"constant"`):
            - `"constant"`: β = `beta_max`.
            - `"decreasing"` (arXiv 2411.03250, section 3.2): starts at `beta_max`; whenever the validation
              reconstruction loss has not improved for `patience` evaluations, β ← `decay` · β, down to `beta_min`.
            - `"cyclical"` (arXiv 1903.10145): in each of `num_cycles` cycles β rises linearly from `beta_min` to
              `beta_max` over the first half, and stays there over the second.
        beta_max, beta_min (`float`, defaults to 0.5 and 0.001): Bounds of β.
        decay (`float`, defaults to 0.7): λ of the paper.
        patience (`int`, defaults to 2): k of the paper.
        num_cycles (`int`, defaults to 4): Cycles of `"cyclical"`.

    Raises:
        `ValueError`: for an unknown schedule or bounds out of order.
    """

    SCHEDULES = ("constant", "decreasing", "cyclical")

    def __init__(
        self,
        schedule: str = "constant",
        beta_max: float = 0.5,
        beta_min: float = 0.001,
        decay: float = 0.7,
        patience: int = 2,
        num_cycles: int = 4,
    ):
        if schedule not in self.SCHEDULES:
            raise ValueError(f"beta_schedule={schedule!r} is not one of {', '.join(map(repr, self.SCHEDULES))}")
        if not 0 <= beta_min <= beta_max:
            raise ValueError(f"beta_min={beta_min} and beta_max={beta_max} must satisfy 0 <= beta_min <= beta_max")
        self.schedule = schedule
        self.beta_max, self.beta_min = beta_max, beta_min
        self.decay, self.patience, self.num_cycles = decay, patience, num_cycles
        self.beta = beta_min if schedule == "cyclical" else beta_max
        self.best_reconstruction = float("inf")
        self.num_stalled = 0

    def on_step_begin(self, args, state, control, **kwargs):
        if self.schedule == "cyclical":
            phase = state.global_step * self.num_cycles / max(state.max_steps, 1) % 1
            self.beta = self.beta_min + (self.beta_max - self.beta_min) * min(1.0, 2 * phase)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        reconstruction = metrics.get("eval_reconstruction_loss")
        if reconstruction is None:  # an evaluation under another name
            return
        self.num_stalled = 0 if reconstruction < self.best_reconstruction else self.num_stalled + 1
        self.best_reconstruction = min(reconstruction, self.best_reconstruction)
        if self.schedule == "decreasing" and self.num_stalled >= self.patience:
            self.beta = max(self.beta_min, self.decay * self.beta)
            self.num_stalled = 0

    def state(self) -> dict:
        return {
            "args": {
                "schedule": self.schedule,
                "beta_max": self.beta_max,
                "beta_min": self.beta_min,
                "decay": self.decay,
                "patience": self.patience,
                "num_cycles": self.num_cycles,
            },
            "attributes": {
                "beta": self.beta,
                "best_reconstruction": self.best_reconstruction,
                "num_stalled": self.num_stalled,
            },
        }
