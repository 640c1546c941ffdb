"""DiffLM in the Hugging Face ecosystem: learn the distribution of records, and generate new ones."""

from .lazy import lazy_names


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
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
