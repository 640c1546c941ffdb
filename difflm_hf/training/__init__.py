from ..batches import TensorDataset
from .arguments import (
    DataArguments,
    DiffLMTrainingArguments,
    HubArguments,
    LatentDiffusionTrainingArguments,
    ModelArguments,
)
from .beta_schedule import BetaSchedule
from .diffusion_lm import DIFFUSION_LM_RECIPES, DiffusionLMRecipe, DiffusionLMTrainer, train_diffusion_lm
from .recipes import DOCUMENT_RECIPES, RECIPES, Recipe
from .train import train
from .trainers import DiffLMTrainer, LatentDiffusionTrainer


__all__ = [
    "DIFFUSION_LM_RECIPES",
    "DOCUMENT_RECIPES",
    "RECIPES",
    "BetaSchedule",
    "DataArguments",
    "DiffLMTrainer",
    "DiffLMTrainingArguments",
    "DiffusionLMRecipe",
    "DiffusionLMTrainer",
    "HubArguments",
    "LatentDiffusionTrainer",
    "LatentDiffusionTrainingArguments",
    "ModelArguments",
    "Recipe",
    "TensorDataset",
    "train",
    "train_diffusion_lm",
]
