"""Training in shards, by FSDP: each process has its part of a model's weights, gradients and optimizer states."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ..distributed import is_sharded, num_processes
from ..utils import default_device, is_quantized


class ShardedTrainer(Trainer):
    """
    A Trainer that, where the launcher asks for FSDP, trains a copy of the model in shards. Checkpoints are those of
    training without: whole, weights as safetensors.

    Args:
        model (`torch.nn.Module`): The model. Trained in shards, it is as it was until [`gather_weights`].
        args (`TrainingArguments`): The arguments.
        kwargs (*optional*): Those of `transformers.Trainer`.

    Raises:
        `ValueError`: for a quantized model that is to be sharded.
    """

    def __init__(self, model: torch.nn.Module, args: TrainingArguments, **kwargs):
        self.whole = model
        super().__init__(in_shards(model) if is_sharded() else model, args, **kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if is_sharded():
            # Weights in shards are for no DDP; of preparing, what evaluation takes remains: the mixed precision.
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    @torch.no_grad()
    def gather_weights(self) -> torch.nn.Module:
        """The model that was given, with the weights as they are now. All processes have to ask for it."""
        if self.model is not self.whole:
            shards = self.model.state_dict()
            for name, weight in self.whole.state_dict().items():
                weight.copy_(whole(shards[name]))
        return self.whole

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.model is not self.whole:
            state_dict = self.gather_weights().state_dict()
        super()._save(output_dir, state_dict)

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, self.whole)
        if self.model is not self.whole:
            weights = self.whole.state_dict()
            for name, shard in self.model.state_dict().items():
                shard.copy_(part_of(weights[name], shard))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.model is self.whole:
            return super()._save_optimizer_and_scheduler(output_dir)
        state, states = self.optimizer.state_dict(), {}
        for index, values in state["state"].items():
            values = {name: whole(value) for name, value in values.items()}
            if self.args.should_save:
                states[index] = {name: value.cpu() for name, value in values.items()}
        if self.args.should_save:
            torch.save({**state, "state": states}, Path(output_dir, OPTIMIZER_NAME))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.model is self.whole or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        state, schedule = (
            torch.load(Path(checkpoint, name), map_location="cpu", weights_only=True, mmap=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for index, values in state["state"].items():
            shard = weights[index]
            values.update({n: part_of(value, shard) for n, value in values.items() if value.shape == shard.shape})
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(schedule)


def in_shards(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a model, of whose weights each process has a part. The model itself is left in main memory."""
    if is_quantized(model):
        raise ValueError("a quantized model cannot be sharded: leave quantization out, or FSDP")
    # Of outputs that are views, which nothing changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    model = copy.deepcopy(model.cpu())
    mesh = init_device_mesh(default_device().type, (num_processes(),))
    layers = getattr(model, "_no_split_modules", None) or ()
    # All but the layers is whole during a forward pass of the model: embeddings may be the head as well, whose rows
    # are looked up.
    for module in [m for m in reversed(list(model.modules())) if m is model or type(m).__name__ in layers]:
        # And never after it: what the optimizer then changes are the shards.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return model


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor from the shards that all processes have of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: torch.Tensor, shard: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor, sharded as another one; all of it where that is whole."""
    tensor = tensor.to(shard.device)
    if not isinstance(shard, DTensor):
        return tensor
    return distribute_tensor(tensor, shard.device_mesh, shard.placements, src_data_rank=None)
