"""Diffusion-LM (arXiv 2205.14217): diffusion over word embeddings, steered by plug-and-play classifiers."""

from ..lazy import lazy_names


_NAMES = {
    "configuration_diffusion_lm": ["DiffusionLMConfig"],
    "constraints": ["GAP", "MASK"],
    "modeling_diffusion_lm": ["DiffusionLMModel", "DiffusionLMOutput"],
    "pipeline_diffusion_lm": ["DiffusionLMPipeline", "DiffusionLMPipelineOutput"],
    "steering": ["Steering"],
    "schedule": ["make_scheduler"],
    "word_tokenizer": ["train_word_tokenizer"],
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
