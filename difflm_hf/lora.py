"""LoRA layers (arXiv 2106.09685) of a frozen causal LM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_peft_available

from .checks import check_positive, is_number, shown


# With a call of this name, loaders of remote code do not take the import for a requirement.
if TYPE_CHECKING and is_peft_available():
    from peft import LoraConfig

# Fields of a LoRA that checkpoints always state, since a later peft may have other defaults.
LORA_FIELDS = ("r", "lora_alpha", "lora_dropout", "target_modules")


def lora_fields(lora: LoraConfig | dict[str, Any]) -> dict[str, Any]:
    """
    A LoRA as plain fields, for [`DiffLMConfig`].

    Args:
        lora ([`~peft.LoraConfig`] or `dict`): The LoRA; where it does not name `target_modules`, it is for all linear
            layers but the head.

    Raises:
        `ImportError`: when peft is not installed.
        `TypeError`: for a field that a LoRA does not have.
        `ValueError`: for one that would change the base itself, and for numbers that are out of bounds.
    """
    LoraConfig = _peft().LoraConfig
    config = lora if isinstance(lora, LoraConfig) else LoraConfig(**lora)
    check_positive(r=config.r)
    if not is_number(config.lora_alpha) or not math.isfinite(config.lora_alpha):
        raise ValueError(f"lora_alpha={shown(config.lora_alpha)} is no finite number")
    if not is_number(config.lora_dropout) or not 0 <= config.lora_dropout < 1:
        raise ValueError(f"lora_dropout={shown(config.lora_dropout)} is no number from 0 on and below 1")
    initial = config.init_lora_weights
    if not isinstance(initial, bool) and initial not in ("gaussian", "orthogonal"):
        raise ValueError(
            f"init_lora_weights={initial!r} changes the base model, which checkpoints leave out; take True, "
            "'gaussian' or 'orthogonal'"
        )
    defaults = LoraConfig().to_dict()
    fields = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
        if key in LORA_FIELDS or (value != defaults[key] and key != "base_model_name_or_path")
    }
    return {**fields, "target_modules": fields["target_modules"] or "all-linear"}


def add_lora(lm: PreTrainedModel, lora: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """
    Puts new LoRA layers into a causal LM.

    Args:
        lm (`PreTrainedModel`): The causal LM; its own parameters are frozen.
        lora (`dict`): Fields of a [`~peft.LoraConfig`].
        dtype (`torch.dtype`, defaults to `torch.float32`):
            Of the new layers, whatever that of the LM. In float32 small updates do not get lost.

    Raises:
        `ValueError`: when more than LoRA layers would be trained, or embeddings or head would get some.
    """
    peft = _peft()
    lm.add_adapter(peft.LoraConfig(**lora_fields(lora)))
    new = lora_parameters(lm)
    for parameter in new.values():
        parameter.data = parameter.data.to(dtype)
        # Else transformers would give it random values. What is to be loaded has none yet.
        parameter._is_hf_initialized = not parameter.is_meta
    for layer in lm.modules():
        if type(layer) is peft.tuners.lora.Linear:
            layer.forward = MethodType(_forward, layer)
    lm.train(lm.training)  # for the new layers
    if others := [name for name, p in lm.named_parameters() if p.requires_grad and name not in new]:
        raise ValueError(
            f"lora={lora} would train {others[0]} as well, which checkpoints leave out; take LoRA layers alone, with "
            "no `bias` or `modules_to_save`"
        )
    layer = peft.tuners.tuners_utils.BaseTunerLayer
    if any(isinstance(module, layer) for module in (lm.get_input_embeddings(), lm.get_output_embeddings())):
        raise ValueError(f"lora={lora} is for the embeddings or the head as well; take other `target_modules`")


def lora_parameters(lm: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of LoRA layers, by name."""
    if not hasattr(lm, "peft_config"):  # which models have whose layers peft has changed
        return {}
    layer_type = _peft().tuners.lora.LoraLayer
    return {
        name: parameter
        for path, layer in lm.named_modules()
        if isinstance(layer, layer_type)
        for part in layer.adapter_layer_names
        for name, parameter in getattr(layer, part).named_parameters(prefix=f"{path}.{part}")
    }


@contextmanager
def without_lora(lm: PreTrainedModel) -> Iterator[None]:
    """Within it, a causal LM computes what it would without its LoRA layers, if it has any."""
    parameters = [(parameter, parameter.requires_grad) for parameter in lora_parameters(lm).values()]
    if parameters:
        lm.disable_adapters()
    try:
        yield
    finally:
        if parameters:
            lm.enable_adapters()
        for parameter, is_trained in parameters:  # which peft sets, too
            parameter.requires_grad_(is_trained)


def _forward(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """
    What peft computes for a linear layer. It takes the input in the dtype of the new weights, and all of the output
    three times: on processors that is as long as the layer itself.
    """
    if layer.disable_adapters or layer.merged or layer.lora_variant or any(layer.lora_bias.values()):
        return type(layer).forward(layer, x)
    result = layer.base_layer(x)
    for name in layer.active_adapters:
        if name not in layer.lora_A:  # an adapter of other layers
            continue
        down, up = (part[name].weight.to(result.dtype) for part in (layer.lora_A, layer.lora_B))
        small = F.linear(layer.lora_dropout[name](x).to(result.dtype), down).flatten(0, -2)
        result = torch.addmm(result.flatten(0, -2), small, up.t(), alpha=layer.scaling[name]).view(result.shape)
    return result


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA layers need peft: run `pip install peft`, or leave `lora` out") from error
    return peft
