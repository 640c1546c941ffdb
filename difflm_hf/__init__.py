"""DiffLM in the Hugging Face ecosystem: learn the distribution of records, and generate new ones."""

from .configuration_difflm import DiffLMConfig
from .denoiser import DiffLMDenoiser
from .hub.datasets import push_dataset
from .modeling_difflm import DiffLMModel, DiffLMOutput
from .modeling_latent_lm import DiffLMForCausalLM
from .pipeline_difflm import DiffLMPipeline, DiffLMPipelineOutput
from .processing_difflm import DiffLMProcessor
from .record_generation import RecordGenerationPipeline
from .records import CompactCodec, Field, JSONCodec, RecordSchema, TextCodec
from .scheduling_latent_edm import LatentEDMScheduler
from .training import (
    BetaSchedule,
    DiffLMTrainer,
    DiffLMTrainingArguments,
    LatentDiffusionTrainer,
    LatentDiffusionTrainingArguments,
    train,
)


__version__ = "0.1.0"

__all__ = [
    "BetaSchedule",
    "CompactCodec",
    "DiffLMConfig",
    "DiffLMDenoiser",
    "DiffLMForCausalLM",
    "DiffLMModel",
    "DiffLMOutput",
    "DiffLMPipeline",
    "DiffLMPipelineOutput",
    "DiffLMProcessor",
    "DiffLMTrainer",
    "DiffLMTrainingArguments",
    "Field",
    "JSONCodec",
    "LatentDiffusionTrainer",
    "LatentDiffusionTrainingArguments",
    "LatentEDMScheduler",
    "RecordGenerationPipeline",
    "RecordSchema",
    "TextCodec",
    "push_dataset",
    "train",
]
