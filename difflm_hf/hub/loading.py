"""What is looked at, and loaded, before a saved pipeline is put together."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..base_model import HUB_ARGUMENTS, check_vocabulary
from ..checks import short
from ..configuration_difflm import DiffLMConfig
from ..denoiser import DiffLMDenoiser
from ..modeling_difflm import DiffLMModel
from ..processing_difflm import DiffLMProcessor
from .damage import ADVICE, check_file, check_model
from .upload import check_reach, explain_hub_errors


if TYPE_CHECKING:
    from ..pipeline_difflm import DiffLMPipeline


HANDED_ON = ("device_map", "max_memory", "offload_folder", "trust_remote_code")  # to the model with a base LM
REACHING = ("revision", "cache_dir", "token")
DIFFLM_FILES = (  # of a saved pipeline
    "model_index.json",
    "vae/config.json",
    "vae/model*.safetensors",
    "denoiser/config.json",
    "denoiser/diffusion_pytorch_model*.safetensors",
    "scheduler/scheduler_config.json",
    "processor/processor_config.json",
    "processor/tokenizer_config.json",
    "processor/tokenizer.*",
    "processor/encoder_tokenizer/tokenizer_config.json",
    "processor/encoder_tokenizer/tokenizer.*",
)


def pipeline_folder(
    name: str,
    download: Callable[..., str],
    models: Mapping[str, type[nn.Module]],
    files: Sequence[str] = DIFFLM_FILES,
    **kwargs,
) -> Path:
    """
    The folder of a saved pipeline, in which no file is missing or damaged.

    Args:
        name (`str`): A folder, or a Hub id.
        download (`Callable`): `DiffusionPipeline.download`, for a Hub id.
        models (`Mapping[str, type]`): The components that have weights, by name.
        files (`Sequence[str]`, *optional*): Patterns of the files that it needs; those of [`DiffLMPipeline`].
        kwargs (*optional*): Those of `DiffusionPipeline.from_pretrained`. Components among them need no files.

    Returns:
        `Path`: The folder, or the snapshot of the Hub in the cache.

    Raises:
        `OSError`: when there is no such pipeline, or a file of it is missing or damaged. The message names it.
    """
    if not name:
        raise ValueError("the name of the model is empty; give a folder, or the id of a model of the Hub")
    if os.path.isdir(name):
        folder = Path(name)
    else:
        with explain_hub_errors(name, is_upload=False):
            try:
                if not kwargs.get("local_files_only"):
                    check_reach(name, files[0], **{key: kwargs[key] for key in REACHING if key in kwargs})
                folder = Path(download(name, **kwargs))
            except (OSError, ValueError) as error:
                reason = str(error).replace(str(name), short(str(name)))
                raise OSError(
                    f"{short(str(name))} is neither a folder nor a model that the Hub gives: {reason}"
                ) from error
    _check_files(folder, files, given=kwargs)
    for component, cls in models.items():
        if component not in kwargs:
            check_model(folder / component, cls)
    return folder


def load_vae_with_base(
    folder: Path, base_model: str | os.PathLike | None, attn_implementation: str | None, kwargs: dict[str, Any]
) -> dict[str, DiffLMModel]:
    """
    The autoencoder of a pipeline whose base LM is elsewhere, by the pipeline's `kwargs`; none where there is no such
    base. diffusers, which would load it, hands on neither a token nor a cache.
    """
    if base_model is None and DiffLMConfig.from_pretrained(folder / "vae").base_model is None:
        if attn_implementation is not None:
            raise ValueError(
                f"attn_implementation={attn_implementation!r} is of a base LM, and {folder} was trained without one; "
                "leave it out"
            )
        return {}
    if kwargs.get("quantization_config") is not None:
        raise ValueError(
            "quantization_config does not reach the base model; load it by DiffLMModel.from_pretrained(..., "
            "subfolder='vae', quantization_config=BitsAndBytesConfig(...)), and pass it as vae"
        )
    where = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    if base_model is not None:
        processor = kwargs.get("processor") or DiffLMProcessor.from_pretrained(folder / "processor")
        check_vocabulary(processor.tokenizer, base_model, **where)
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    if isinstance(dtype, dict):
        dtype = dtype.get("vae", dtype.get("default"))
    vae = DiffLMModel.from_pretrained(
        folder / "vae",
        base_model=base_model,
        attn_implementation=None if attn_implementation is None else {"decoder_config": attn_implementation},
        dtype="auto" if dtype is None else dtype,
        **{name: kwargs[name] for name in HANDED_ON if name in kwargs},
        **where,
    )
    return {"vae": vae}


def check_fit(vae: DiffLMModel, denoiser: DiffLMDenoiser, processor: DiffLMProcessor) -> None:
    """Raises a `ValueError` for components of different models, or of different trainings."""
    parts = {"vae": vae.config, "denoiser": denoiser.config, "processor": processor}
    ids = {name: getattr(part, "training_id", None) for name, part in parts.items()}
    (first, of_first), *others = [(name, of) for name, of in ids.items() if of is not None] or [(None, None)]
    for name, of in others:
        if of != of_first:
            raise ValueError(
                f"{first} and {name} are of different trainings ({of_first} and {of}), and one does not know the "
                "latents of the other; take all components of one training"
            )
    said = {"denoiser": {"latent_size": denoiser.config.latent_size}}
    if denoiser.config.condition_size:  # another one may be told nothing
        said["denoiser"]["condition_size"] = denoiser.config.condition_size
    if processor.codec.has_fixed_layout:
        said["processor"] = processor.codec.config_fields(processor.max_length)
    configs = [getattr(part, "levels", None) for part in (vae.config.decoder_config, vae.config.encoder_config)]
    if len({json.dumps(levels, sort_keys=True) for levels in [*configs, processor.codec.levels]}) > 1:
        raise ValueError("vae and processor are of different models: their records have lists in other places")
    for component, fields in said.items():
        for name, value in fields.items():
            if json.dumps(getattr(vae.config, name)) != json.dumps(value):  # lists of tuples, and of lists
                raise ValueError(
                    f"vae and {component} are of different models: {name} of the one is "
                    f"{reprlib.repr(getattr(vae.config, name))}, of the other {reprlib.repr(value)}"
                )


@torch.no_grad()
def try_components(pipe: DiffLMPipeline) -> None:
    """Two steps of the denoiser and one of the causal LM, which show what their configurations lead to."""
    latents = pipe.generate_latents(1, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    decoder, bos = pipe.vae.decoder, pipe.processor.special_ids[0]
    if pipe.processor.codec.has_fixed_layout:
        for name, expected in zip(("bos", "eos", "pad"), pipe.processor.special_ids):
            if (token := getattr(decoder.lm.config, f"{name}_token_id")) != expected:
                raise ValueError(f"{name}_token_id of the causal LM is {token!r}, and of the processor {expected}")
    latents = decoder.with_condition(latents.to(decoder.device))
    hidden, _ = decoder.hidden_states(torch.tensor([[bos]], device=decoder.device), latents)
    if not hidden.isfinite().all():
        raise ValueError("the states of the causal LM are not finite")


def _check_files(folder: Path, files: Sequence[str], given: Container[str]) -> None:
    """Raises an `OSError` for the first file that is missing or cut short, but for components that are given."""
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no pipeline: model_index.json is missing; if its training was cut off, resume it"
        )
    for pattern in files:
        if pattern.split("/")[0] in given:
            continue
        paths = sorted(folder.glob(pattern))
        if not paths:
            raise FileNotFoundError(f"{folder / pattern} is missing; {ADVICE}")
        for path in paths:
            check_file(path)
