"""Sizes and hyper-parameters: what `train` uses when nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Recipe:
    """
    Sizes and hyper-parameters that work together.

    Args:
        hidden_size, num_layers, num_heads (`int`): Of encoder and decoder, where they are trained from scratch.
        vae (`dict`): Fields of [`DiffLMTrainingArguments`].
        denoiser_config (`dict`): Fields of [`DiffLMDenoiser`].
        denoiser (`dict`): Fields of [`LatentDiffusionTrainingArguments`].
        latent_size, num_latent_tokens (`int`, defaults to 8 and 4): Of the latents.
        min_steps (`int`, defaults to 600): Steps of the VAE where `num_train_epochs` are fewer.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    vae: dict[str, Any]
    denoiser_config: dict[str, Any]
    denoiser: dict[str, Any]
    latent_size: int = 8
    num_latent_tokens: int = 4
    min_steps: int = 600


RECIPES = {
    "small": Recipe(
        hidden_size=128,
        num_layers=2,
        num_heads=4,
        vae={"learning_rate": 2e-3, "num_train_epochs": 14, "per_device_train_batch_size": 256},
        denoiser_config={"width": 192, "num_layers": 3},
        denoiser={"learning_rate": 2e-3, "max_steps": 6000, "per_device_train_batch_size": 512},
    ),
    "base": Recipe(
        hidden_size=256,
        num_layers=4,
        num_heads=8,
        vae={"learning_rate": 1e-3, "num_train_epochs": 20, "per_device_train_batch_size": 256},
        denoiser_config={"width": 512, "num_layers": 4},
        denoiser={"learning_rate": 1e-3, "max_steps": 20000, "per_device_train_batch_size": 1024},
        latent_size=16,
    ),
}

# Both phases
COMMON_ARGUMENTS = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "weight_decay": 0.05,
    "adam_beta2": 0.99,
    "optim": "adamw_torch_fused",
    "per_device_eval_batch_size": 1024,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "restore_callback_states_from_checkpoint": True,
    "remove_unused_columns": False,
    "report_to": "none",
    "disable_tqdm": False,
}
NUM_EVALUATIONS = 16
EARLY_STOPPING_PATIENCE = 5  # evaluations
VAE_SHARE = 0.8  # of the time

# Free bits keep every dimension of z in use; with β = 1 beyond them, it carries no more than the denoiser can learn.
VAE_ARGUMENTS = {"beta_schedule": "constant", "beta_max": 1.0, "free_bits": 0.5}

# 98 % of the noise levels that training draws. EDM's own range, made for images, spends most steps where latents are
# either all noise or none: 20 Heun steps over it widen a Gaussian's deviation by 5 %, against 0.3 % here.
NOISE_LEVELS = {"sigma_min": 0.02, "sigma_max": 5.0}

# Records that are generated together: of the compact codec, and written by a pretrained LM
COMPACT_BLOCK_SIZE, JSON_BLOCK_SIZE = 2048, 64
