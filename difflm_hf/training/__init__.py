from ..batches import TensorDataset
from .beta_schedule import BetaSchedule
from .recipes import DOCUMENT_RECIPES, RECIPES, Recipe
from .train import train
from .trainers import (
    DiffLMTrainer,
    DiffLMTrainingArguments,
    LatentDiffusionTrainer,
    LatentDiffusionTrainingArguments,
)


__all__ = [
    "DOCUMENT_RECIPES",
    "RECIPES",
    "BetaSchedule",
    "DiffLMTrainer",
    "DiffLMTrainingArguments",
    "LatentDiffusionTrainer",
    "LatentDiffusionTrainingArguments",
    "Recipe",
    "TensorDataset",
    "train",
]
