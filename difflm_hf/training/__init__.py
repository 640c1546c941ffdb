from ..batches import TensorDataset
from .arguments import (
    DataArguments,
    DiffLMTrainingArguments,
    HubArguments,
    LatentDiffusionTrainingArguments,
    ModelArguments,
)
from .beta_schedule import BetaSchedule
from .recipes import DOCUMENT_RECIPES, RECIPES, Recipe
from .train import train
from .trainers import DiffLMTrainer, LatentDiffusionTrainer


__all__ = [
    "DOCUMENT_RECIPES",
    "RECIPES",
    "BetaSchedule",
    "DataArguments",
    "DiffLMTrainer",
    "DiffLMTrainingArguments",
    "HubArguments",
    "LatentDiffusionTrainer",
    "LatentDiffusionTrainingArguments",
    "ModelArguments",
    "Recipe",
    "TensorDataset",
    "train",
]
