"""DiffLM in the Hugging Face ecosystem: learn the distribution of records, and generate new ones."""

from importlib import import_module
from importlib.util import find_spec
from threading import RLock
from typing import Any


__version__ = "0.1.0"

# Each name is looked for, and its module imported, when it is first used: the package itself takes no time to import.
_NAMES = {
    "configuration_difflm": ["DiffLMConfig"],
    "denoiser": ["DiffLMDenoiser"],
    "hub.datasets": ["push_dataset"],
    "modeling_difflm": ["DiffLMModel", "DiffLMOutput"],
    "modeling_latent_lm": ["DiffLMForCausalLM"],
    "pipeline_difflm": ["DiffLMPipeline", "DiffLMPipelineOutput"],
    "processing_difflm": ["DiffLMProcessor"],
    "record_generation": ["RecordGenerationPipeline", "register"],
    "records": ["CompactCodec", "Field", "JSONCodec", "RecordSchema", "TextCodec"],
    "scheduling_latent_edm": ["LatentEDMScheduler"],
    "training": [
        "BetaSchedule",
        "DataArguments",
        "DiffLMTrainer",
        "DiffLMTrainingArguments",
        "HubArguments",
        "LatentDiffusionTrainer",
        "LatentDiffusionTrainingArguments",
        "ModelArguments",
        "Recipe",
        "train",
    ],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


_importing = RLock()  # transformers does not bear being imported by several threads at once


def __getattr__(name: str) -> Any:
    with _importing:
        if name in _MODULES:
            globals()[name] = value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
            return value
        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *__all__]
