"""A frozen base LM, which a checkpoint names rather than holds."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from operator import ne
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .checks import shown
from .configuration_difflm import DiffLMConfig
from .hub.upload import explain_hub_errors
from .lora import add_lora, lora_parameters


# What a user says about downloads and devices, which goes for the base as well.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
LOADING_ARGUMENTS = (
    "dtype",
    "torch_dtype",
    "max_memory",
    "offload_folder",
    "quantization_config",
    "trust_remote_code",
)
GGUF, GGUF_TOKENS = ".gguf", "tokenizer.ggml.tokens"
# Fields of a configuration that say nothing about the weights or their use.
INCIDENTAL = {"architectures", "dtype", "quantization_config", "transformers_version", "use_cache"}
# Those that a processor chooses.
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class BaseModelStub(nn.Module):
    """
    Stands in for the base while the rest of a checkpoint is loaded: transformers would fill weights that a checkpoint
    lacks with random numbers. Of the base's parameters it has those of LoRA layers, which a checkpoint holds.

    Args:
        lm (`PreTrainedModel`): The base.
    """

    def __init__(self, lm: PreTrainedModel):
        super().__init__()
        self.config = lm.config
        for name, parameter in lora_parameters(lm).items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(leaf, nn.Parameter(parameter.detach().clone()))

    def fill(self, lm: PreTrainedModel) -> None:
        """Gives what was loaded to the base."""
        for name, parameter in self.named_parameters():
            own = lm.get_parameter(name)
            own.data = parameter.data.to(own.device)

    def get_input_embeddings(self) -> None:
        return None

    def get_output_embeddings(self) -> None:
        return None


def source_of(base: str | os.PathLike) -> tuple[str, dict[str, str]]:
    """
    What `from_pretrained` takes for a pretrained LM: its folder or Hub id, and `gguf_file` where it is one in the
    GGUF format (`folder/model.gguf`, or `user/repository/model.gguf` on the Hub).
    """
    base = os.fspath(base)
    if not base.endswith(GGUF):
        return base, {}
    folder, file = os.path.split(base)
    # By its bare name, transformers would read a file of that name in the current folder.
    return folder or ".", {"gguf_file": os.path.abspath(base) if os.path.exists(base) else file}


def check_quantization(base: str | os.PathLike, quantization: Any) -> None:
    """Raises a `ValueError` for a GGUF file that is to be quantized."""
    if quantization is not None and os.fspath(base).endswith(GGUF):
        raise ValueError(
            f"{base} is dequantized when it is loaded; leave quantization out, or take a folder with safetensors"
        )


@contextmanager
def naming_gguf(base: str | os.PathLike) -> Iterator[None]:
    """Says of a GGUF file that it cannot be read, whatever its reader stumbles over."""
    try:
        yield
    except ImportError:  # which says what to install
        raise
    except Exception as error:
        if not os.fspath(base).endswith(GGUF) or isinstance(error, ConnectionError):
            raise
        raise OSError(
            f"{base} is no GGUF file of a causal LM with a tokenizer that transformers can read "
            f"({type(error).__name__}: {shown(str(error))}); fetch it anew, or take a folder with safetensors"
        ) from error


def load_causal_lm(base: str | os.PathLike, **kwargs) -> PreTrainedModel:
    """
    `AutoModelForCausalLM.from_pretrained`, of safetensors or of a GGUF file, whose weights are dequantized.

    Raises:
        `ValueError`: for a GGUF file that is to be quantized.
        `OSError`: for a file that cannot be read, and for a model of which weights are missing, as it would get others
            each time; or which sees the tokens that it is to predict.
    """
    check_quantization(base, kwargs.get("quantization_config"))
    source, file = source_of(base)
    with naming_gguf(base):
        if file:
            kwargs["quantization_config"] = GgufConfig(dequantize=True)
        lm, found = AutoModelForCausalLM.from_pretrained(
            source, **file, use_safetensors=True, output_loading_info=True, **kwargs
        )
    if missing := sorted(found["missing_keys"]):
        raise OSError(f"{base} is no causal LM: it lacks weights, such as {missing[0]} ({len(missing)} in all)")
    if not getattr(lm.config, "is_decoder", True) and lm.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise OSError(f"{base} is no causal LM: {type(lm).__name__} sees the tokens that it is to predict")
    if not file:
        return lm
    # transformers goes on taking it for quantized, and would neither save nor train it.
    config = copy.deepcopy(lm.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=lm.dtype)
    plain.load_state_dict(lm.state_dict())
    return plain.to(lm.device).eval()


def load_tokenizer(base: str | os.PathLike, **kwargs) -> PreTrainedTokenizerBase:
    """
    `AutoTokenizer.from_pretrained`, of a folder or of a GGUF file.

    Raises:
        `ValueError`: for a GGUF file beside the tokenizer of another model, which transformers prefers to its own.
    """
    source, file = source_of(base)
    with naming_gguf(base):
        tokenizer = AutoTokenizer.from_pretrained(source, **file, **kwargs)
    if os.path.exists(path := os.path.join(source, "tokenizer.json")) and os.path.exists(file.get("gguf_file", "")):
        from transformers.integrations.gguf.reader import read_gguf_metadata  # the package gguf is there by now

        tokens = read_gguf_metadata(file["gguf_file"], {GGUF_TOKENS})[0].get(GGUF_TOKENS, ())
        others = sum(map(ne, tokens, tokenizer.convert_ids_to_tokens(range(len(tokens)))))
        if others > len(tokens) // 100:  # names of tokens that nothing uses may differ
            raise ValueError(
                f"{path} is the tokenizer of another model than {base}: {others:,} of {len(tokens):,} tokens differ; "
                "move the GGUF file into a folder of its own"
            )
    return tokenizer


def load_base_model(
    config: DiffLMConfig, base_model: str | os.PathLike | None, module: str, /, device_map: Any, **kwargs
) -> PreTrainedModel:
    """
    Loads the base that a configuration names.

    Args:
        config ([`DiffLMConfig`]): The configuration of the checkpoint.
        base_model (`str` or `Path`, *optional*): A copy of the base to load in its place.
        module (`str`): The name that the base has among the modules of the model, of which `device_map` is.
        device_map (`str`, `int`, `torch.device` or `dict`, *optional*): Where the whole model is to be.
        kwargs (*optional*): Of the call of `from_pretrained` for the whole model. What is of use here is taken.

    Raises:
        `OSError`: when the base is not there.
        `ValueError`: when it is another than the one that the checkpoint was trained with; when it is offloaded, and
            the checkpoint has LoRA layers.
    """
    name = base_model or config.base_model
    if os.path.isabs(name) and not os.path.exists(name):
        raise FileNotFoundError(
            f"there is no {name}, where the base model should be that this checkpoint was trained with; pass a "
            "copy of that one as base_model"
        )
    arguments = {key: kwargs[key] for key in HUB_ARGUMENTS + LOADING_ARGUMENTS if key in kwargs}
    attention = kwargs.get("attn_implementation")
    if isinstance(attention, dict):  # one for each configuration inside that of the whole
        attention = attention.get("decoder_config")
    with explain_hub_errors(name, is_upload=False):
        lm = load_causal_lm(
            name,
            revision="main" if base_model else config.base_revision or "main",
            device_map=device_map_of(module, device_map),
            attn_implementation=attention,
            **arguments,
        )
    trained, given = _essentials(config.decoder_config), _essentials(lm.config)
    if differences := [
        f"{key} is {given.get(key)!r}, not {trained.get(key)!r}"
        for key in sorted(trained.keys() | given.keys())
        if given.get(key) != trained.get(key)
    ]:
        raise ValueError(
            f"{name} is not the base model that this checkpoint was trained with, "
            f"{named(config)}: {', '.join(differences)}; pass a copy of that one as base_model"
        )
    for key in SPECIAL_IDS:
        setattr(lm.config, key, getattr(config.decoder_config, key, None))
    if config.lora is not None:
        if any(parameter.is_meta for parameter in lm.parameters()):
            raise ValueError(
                f"device_map={device_map} offloads parts of {name}, beside which the LoRA layers of this checkpoint "
                "do not work; put all of it on devices"
            )
        dtype = arguments.get("dtype") or arguments.get("torch_dtype") or "auto"
        add_lora(lm, config.lora, torch.float32 if dtype == "auto" else lm.dtype)
    return lm


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, base_model: str | os.PathLike, **kwargs) -> None:
    """
    Compares a checkpoint's tokenizer with that of a copy of its base.

    Raises:
        `ValueError`: for the first id that stands for another token.
        `OSError`: when the copy has no tokenizer.
    """
    try:
        theirs = load_tokenizer(base_model, **kwargs).get_vocab()
    except (OSError, ValueError) as error:
        raise OSError(f"{base_model} has no tokenizer to compare with that of the checkpoint: {error}") from error
    ours = tokenizer.get_vocab()
    if different := sorted((token for token in ours if theirs.get(token) != ours[token]), key=ours.get):
        token = different[0]
        there = f"has the id {theirs[token]}" if token in theirs else "is unknown"
        raise ValueError(
            f"{base_model} has another vocabulary than the base model that this checkpoint was trained with: "
            f"{token!r}, of id {ours[token]}, {there} there ({len(different)} of {len(ours)} tokens differ); pass a "
            "copy of that one as base_model"
        )


def named(config: DiffLMConfig) -> str:
    """The base of a configuration, in words."""
    revision = f" at {config.base_revision}" if config.base_revision else ""
    return f"{config.base_model}{revision}"


def device_map_of(module: str, device_map: Any) -> str | int | torch.device | dict[str, Any] | None:
    """The part of a device map that is about a module: from entries below it, or from the nearest above."""
    if not isinstance(device_map, dict):
        return device_map
    below = {key.removeprefix(f"{module}."): at for key, at in device_map.items() if key.startswith(f"{module}.")}
    above = [key for key in device_map if f"{module}.".startswith(f"{key}." if key else "")]
    if not below and not above:
        raise ValueError(f"device_map={device_map} does not say where {module!r} is to be; add it, or the key ''")
    return ({"": device_map[max(above, key=len)]} if above else {}) | below


def _essentials(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith("_") and name not in INCIDENTAL and name not in SPECIAL_IDS
    }
