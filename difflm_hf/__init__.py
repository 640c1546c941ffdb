"""DiffLM in the Hugging Face ecosystem: learn the distribution of records, and generate new ones."""

from importlib import import_module
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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
