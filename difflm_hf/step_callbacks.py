"""What a pipeline's `callback_on_step_end` is shown, and what becomes of what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from .checks import shown


def step_callback(
    callback: Callable | None, tensor_inputs: Sequence[str], known: Sequence[str]
) -> Callable[[DiffusionPipeline, int, torch.Tensor, dict[str, torch.Tensor]], Any] | None:
    """
    The `callback_on_step_end` of a call, which is then shown the tensors that it asks for, and no others.

    Args:
        callback (`Callable`, *optional*): As the call has it; a `PipelineCallback` of diffusers says itself what it
            asks for.
        tensor_inputs (`Sequence[str]`): Names of tensors.
        known (`Sequence[str]`): Those that the pipeline has.

    Raises:
        `ValueError`: for what cannot be called, and for other names.
    """
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end={shown(callback)} is no function")
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        tensor_inputs = callback.tensor_inputs
    is_list = isinstance(tensor_inputs, list | tuple)
    if not is_list or not all(isinstance(name, str) and name in known for name in tensor_inputs):
        raise ValueError(
            f"callback_on_step_end_tensor_inputs={shown(tensor_inputs)} is no list of names out of {', '.join(known)}"
        )
    if callback is None:
        return None

    def call(pipe: DiffusionPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> Any:
        return callback(pipe, step, timestep, {name: tensors[name] for name in tensor_inputs})

    return call


def latents_after_step(
    callback: Callable,
    pipe: DiffusionPipeline,
    step: int,
    timestep: torch.Tensor,
    tensors: dict[str, torch.Tensor],
) -> torch.Tensor:
    """
    The latents that a callback leaves.

    Args:
        callback (`Callable`): The callback.
        pipe, step, timestep, tensors: What it is called with; `tensors["latents"]` are those of the step.

    Raises:
        `ValueError`: for what it returns in place of latents of their shape. The message names the step.
    """
    latents = tensors["latents"]
    returned = callback(pipe, step, timestep, tensors)
    if not isinstance(returned, Mapping | None):
        raise ValueError(
            f'callback_on_step_end, step {step}: return {{"latents": latents}} or None, and not a '
            f"{type(returned).__name__}"
        )
    changed = (returned or {}).get("latents", latents)
    if not isinstance(changed, torch.Tensor) or changed.shape != latents.shape:
        found = tuple(changed.shape) if isinstance(changed, torch.Tensor) else type(changed).__name__
        raise ValueError(
            f"callback_on_step_end, step {step}: latents of shape {tuple(latents.shape)} are needed, not {found}"
        )
    return changed.to(latents)
