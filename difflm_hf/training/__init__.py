from ..batches import TensorDataset
from .arguments import (
    DataArguments,
    DiffLMTrainingArguments,
    HubArguments,
    LatentDiffusionTrainingArguments,
    ModelArguments,
    PrivacyArguments,
)
from .beta_schedule import BetaSchedule
from .diffusion_lm import DIFFUSION_LM_RECIPES, DiffusionLMRecipe, DiffusionLMTrainer, train_diffusion_lm
from .recipes import DOCUMENT_RECIPES, PRIVATE_RECIPES, RECIPES, Recipe
from .train import train
from .trainers import DiffLMTrainer, LatentDiffusionTrainer


__all__ = [
    "DIFFUSION_LM_RECIPES",
    "DOCUMENT_RECIPES",
    "PRIVATE_RECIPES",
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
    "PrivacyArguments",
    "Recipe",
    "TensorDataset",
    "train",
    "train_diffusion_lm",
]
