from .beta_schedule import BetaSchedule
from .recipes import RECIPES, Recipe
from .train import train
from .trainers import (
    DiffLMTrainer,
    DiffLMTrainingArguments,
    LatentDiffusionTrainer,
    LatentDiffusionTrainingArguments,
    TensorDataset,
)


__all__ = [
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
