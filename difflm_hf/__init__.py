"""DiffLM in the Hugging Face ecosystem: learn the distribution of records, and generate new ones."""

import os

from .lazy import lazy_names


__version__ = "0.1.0"

# Threads of GNU OpenMP spin for milliseconds while they wait for each other. Beside another job on the same cores, a
# step of a small model then takes six times as long as alone. Threads that soon go to sleep lose nothing alone, and
# beside another job twice the time is enough. It is read when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Each name is looked for, and its module imported, when it is first used: the package itself takes no time to import.
_NAMES = {
    "configuration_difflm": ["DiffLMConfig"],
    "configuration_running_sum": ["RunningSumConfig"],
    "denoiser": ["DiffLMDenoiser"],
    "diffusion_lm": ["DiffusionLMConfig", "DiffusionLMModel", "DiffusionLMPipeline"],
    "hub.datasets": ["push_dataset"],
    "modeling_difflm": ["DiffLMModel", "DiffLMOutput"],
    "modeling_latent_lm": ["DiffLMForCausalLM"],
    "modeling_running_sum": ["RunningSumForCausalLM", "RunningSumModel"],
    "pipeline_difflm": ["DiffLMPipeline", "DiffLMPipelineOutput"],
    "processing_difflm": ["DiffLMProcessor"],
    "record_generation": ["RecordGenerationPipeline", "register"],
    "records": ["CompactCodec", "Field", "JSONCodec", "NestedCodec", "RecordSchema", "TextCodec"],
    "scheduling_latent_edm": ["LatentEDMScheduler"],
    "synthesizer": ["DiffLMSynthesizer"],
    "training": [
        "BetaSchedule",
        "DataArguments",
        "DiffLMTrainer",
        "DiffLMTrainingArguments",
        "HubArguments",
        "LatentDiffusionTrainer",
        "LatentDiffusionTrainingArguments",
        "ModelArguments",
        "PrivacyArguments",
        "Recipe",
        "train",
        "train_diffusion_lm",
    ],
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
