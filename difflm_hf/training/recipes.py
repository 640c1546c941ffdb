"""Sizes and hyper-parameters: what `train` uses when nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from transformers import CONFIG_MAPPING

from ..checks import check_choices, check_positive, shown
from ..lora import lora_fields


if TYPE_CHECKING:
    from .arguments import ModelArguments


@dataclass
class Recipe:
    """
    Sizes and hyper-parameters that work together.

    Args:
        decoder_config (`dict`):
            The `model_type` of a causal LM that is trained from scratch, and fields of its configuration.
        encoder_config (`dict`): The same of the encoder, of rows of tables.
        text_decoder_config, text_encoder_config (`dict`): The same for rows with texts, which are of no fixed length.
        vae (`dict`): Fields of [`DiffLMTrainingArguments`].
        denoiser_config (`dict`): Fields of [`DiffLMDenoiser`].
        denoiser (`dict`): Fields of [`LatentDiffusionTrainingArguments`].
        lora (`dict`): Fields of `peft.LoraConfig`, where a pretrained LM gets such layers.
        scheduler (`dict`): Fields of [`LatentEDMScheduler`] that are not `NOISE_LEVELS`.
        solver (`str`, defaults to `"dpm"`):
            What the pipeline generates latents with: `"dpm"` for `EDMDPMSolverMultistepScheduler`, `"heun"` for
            [`LatentEDMScheduler`].
        latent_size, num_latent_tokens (`int`, defaults to 8 and 1): Of the latents.
        condition_size (`int`, defaults to 0): Of the vector that says what is known of a row; 0 for none.
        min_steps (`int`, defaults to 600): Steps of the autoencoder where `num_train_epochs` are fewer.
    """

    decoder_config: dict[str, Any]
    vae: dict[str, Any]
    denoiser_config: dict[str, Any]
    denoiser: dict[str, Any]
    encoder_config: dict[str, Any] = field(default_factory=dict)
    text_decoder_config: dict[str, Any] = field(default_factory=dict)
    text_encoder_config: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    solver: str = "dpm"
    latent_size: int = 8
    condition_size: int = 0
    num_latent_tokens: int = 1
    min_steps: int = 600

    def __post_init__(self):
        sizes = ("latent_size", "num_latent_tokens", "min_steps")
        check_positive(**{name: getattr(self, name) for name in sizes})
        check_choices(self, solver=("dpm", "heun"))
        for name in (part.name for part in fields(self) if str(part.type).startswith("dict")):
            given = getattr(self, name)
            if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
                raise ValueError(f"{name}={shown(given)} of the recipe is no dict of fields by their names")


# Of rows with texts. GPT-2 takes a third of the operations of a Llama for a layer, and learned positions suit rows, in
# which each position is of its own kind.
BERT = {"model_type": "bert", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {
    "model_type": "gpt2",
    "activation_function": "relu",
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "tie_word_embeddings": False,
}

# Of rows of tables, with decoders from scratch
RECIPES = {
    "small": Recipe(
        encoder_config={
            "model_type": "running_sum",
            "is_decoder": False,
            "embedding_size": 128,
            "hidden_size": 128,
            "intermediate_size": 512,
        },
        decoder_config={
            "model_type": "running_sum",
            "embedding_size": 256,
            "hidden_size": 96,
            "intermediate_size": 192,
            "token_dropout": 0.5,
        },
        text_encoder_config={
            **BERT,
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 384,
        },
        text_decoder_config={**GPT2, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_inner": 512},
        vae={
            "learning_rate": 3e-3,
            "num_train_epochs": 16,
            "per_device_train_batch_size": 256,
            "ema_decay": 0.995,
        },
        denoiser_config={"width": 64, "num_layers": 2},
        condition_size=128,
        denoiser={"learning_rate": 8e-3, "max_steps": 1500, "per_device_train_batch_size": 2048},
        min_steps=1500,
    ),
    "base": Recipe(
        encoder_config={
            "model_type": "running_sum",
            "is_decoder": False,
            "embedding_size": 256,
            "hidden_size": 256,
            "intermediate_size": 1024,
        },
        decoder_config={
            "model_type": "running_sum",
            "embedding_size": 512,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_blocks": 3,
            "token_dropout": 0.5,
        },
        text_encoder_config={
            **BERT,
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "intermediate_size": 768,
        },
        text_decoder_config={**GPT2, "n_embd": 256, "n_layer": 4, "n_head": 8, "n_inner": 1024},
        vae={
            "learning_rate": 1e-3,
            "num_train_epochs": 20,
            "per_device_train_batch_size": 256,
            "ema_decay": 0.998,
        },
        denoiser_config={"width": 512, "num_layers": 4},
        denoiser={"learning_rate": 1e-3, "max_steps": 20000, "per_device_train_batch_size": 1024},
        latent_size=16,
        condition_size=256,
    ),
}

# An LM that writes well without latents makes use of them only where they are cheap: β is that of the paper's start.
DOCUMENT_VAE = {"beta_schedule": "constant", "beta_max": 0.1, "free_bits": 0.0}

# Of documents, and of pretrained LMs, whose records are documents to them
DOCUMENT_RECIPES = {
    "small": Recipe(
        decoder_config={
            "model_type": "llama",
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 704,
        },
        vae={**DOCUMENT_VAE, "learning_rate": 2e-3, "num_train_epochs": 10, "per_device_train_batch_size": 8},
        denoiser_config={"width": 256, "num_layers": 3},
        denoiser={"learning_rate": 1e-3, "max_steps": 6000, "per_device_train_batch_size": 512},
        lora={"r": 16, "lora_alpha": 32},
        latent_size=32,
        num_latent_tokens=8,
    ),
    "base": Recipe(
        decoder_config={
            "model_type": "llama",
            "hidden_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "intermediate_size": 1408,
        },
        vae={**DOCUMENT_VAE, "learning_rate": 1e-3, "num_train_epochs": 10, "per_device_train_batch_size": 32},
        denoiser_config={"width": 512, "num_layers": 4},
        denoiser={"learning_rate": 1e-3, "max_steps": 20000, "per_device_train_batch_size": 1024},
        lora={"r": 32, "lora_alpha": 64},
        latent_size=64,
        num_latent_tokens=16,
    ),
    # That of the paper (arXiv 2411.03250, section 4.1), for BERT-base and Mistral-7B-Instruct. Checkpoints compare by
    # the bound, as the loss falls whenever β does; of the denoiser's training the paper says no more than its size.
    "paper": Recipe(
        decoder_config={},
        vae={
            "beta_schedule": "decreasing",
            "beta_max": 0.1,
            "beta_min": 0.001,
            "beta_decay": 0.7,
            "free_bits": 0.0,
            "metric_for_best_model": "eval_bound",
            "greater_is_better": False,
            "learning_rate": 1e-5,
            "num_train_epochs": 200,
            "per_device_train_batch_size": 8,
        },
        denoiser_config={"width": 4096, "num_layers": 5},
        denoiser={
            "learning_rate": 1e-4,
            "max_steps": 20000,
            "per_device_train_batch_size": 1024,
            "sample_posterior": False,
        },
        lora={"r": 32, "lora_alpha": 64},
        scheduler={"sigma_min": 0.002, "sigma_max": 80.0, "s_churn": 1.0},
        solver="heun",
        latent_size=1024,
        num_latent_tokens=32,
    ),
}

# Of private training: noise grows with the number of weights, and falls with the size of batches.
PRIVATE_RECIPES = {
    "small": replace(
        RECIPES["small"],
        encoder_config={
            **RECIPES["small"].encoder_config,
            "embedding_size": 64,
            "hidden_size": 64,
            "intermediate_size": 128,
        },
        decoder_config={
            **RECIPES["small"].decoder_config,
            "embedding_size": 64,
            "hidden_size": 48,
            "intermediate_size": 96,
        },
        vae={"learning_rate": 1e-2, "num_train_epochs": 24, "per_device_train_batch_size": 1024, "ema_decay": 0.98},
        denoiser={"learning_rate": 1e-2, "max_steps": 600, "per_device_train_batch_size": 1024, "ema_decay": 0.98},
        condition_size=0,
        min_steps=600,
    ),
}

# How a pretrained LM is trained beside encoder and injection, and the learning rate. What is frozen bears a high one.
TUNINGS = {"frozen": 3e-3, "lora": 2e-3, "full": 1e-4}
# The most that the map to posteriors bears: states of rows that are written alike move all of it the same way.
POSTERIOR_LEARNING_RATE = 3e-4

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
    "report_to": "none",
    "disable_tqdm": False,
}
# Of private training, which clips gradients one by one, has nothing to validate by, and draws batches anew
PRIVATE_ARGUMENTS = {
    "bf16": False,
    "max_grad_norm": 0.0,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "ignore_data_skip": True,
}
NUM_EVALUATIONS = 16
EARLY_STOPPING_PATIENCE = 5  # evaluations
VAE_SHARE = 0.8  # of the time

# Free bits keep every dimension of z in use; with β = 1 beyond them, it carries no more than the denoiser can learn.
VAE_ARGUMENTS = {"beta_schedule": "constant", "beta_max": 1.0, "free_bits": 0.55}

# 98 % of the noise levels that training draws. EDM's own range, made for images, spends most steps where latents are
# either all noise or none: 20 Heun steps over it widen a Gaussian's deviation by 4.4 %, against 0.8 % here.
NOISE_LEVELS = {"sigma_min": 0.02, "sigma_max": 5.0}

# With 12 evaluations, of order 3, as near to the exact solution as Heun's method with 39.
SAMPLER_CONFIG = {"solver_order": 3}

# Of documents, in a batch of the longest: in float32 a GiB, of which training takes several. Beside a pretrained LM,
# steps of two records at a time take half as long again for a record as those of eight.
BATCH_LOGITS = 2**28

# Of records with lists: with as many tokens a batch of long records learns no less than one of as many rows
BATCH_ITEM_TOKENS = 2**14

# Records that are generated together: rows by the compact codec, and documents
COMPACT_BLOCK_SIZE, DOCUMENT_BLOCK_SIZE = 4096, 64


def check_recipe(recipe: str | Recipe) -> None:
    """Raises a `ValueError` for what is no recipe, whatever the records."""
    names = RECIPES.keys() | DOCUMENT_RECIPES.keys()
    if not isinstance(recipe, Recipe) and recipe not in names:
        raise ValueError(f"recipe={recipe!r} is not one of {', '.join(map(repr, RECIPES))}, nor a Recipe")


def find_recipe(recipe: str | Recipe, of_documents: bool, args: ModelArguments, is_private: bool = False) -> Recipe:
    """
    The recipe of a run.

    Args:
        recipe (`str` or [`Recipe`]): A recipe, or the name of one.
        of_documents (`bool`): Whether records are documents, to the causal LM, rather than rows.
        args ([`ModelArguments`]): What is trained: the learning rate of a pretrained LM follows its tuning.
        is_private (`bool`, defaults to `False`): Whether training is differentially private.

    Raises:
        `ValueError`: for an unknown name.
    """
    if isinstance(recipe, str):
        recipes = DOCUMENT_RECIPES if of_documents else PRIVATE_RECIPES if is_private else RECIPES
        if recipe not in recipes:
            hint = "" if recipe not in DOCUMENT_RECIPES else ", or is for a base_model"
            raise ValueError(f"recipe={recipe!r} is not one of {', '.join(map(repr, recipes))}{hint}")
        recipe = recipes[recipe]
    if args.base_model is None:
        _check_configs(recipe, of_documents)
    if args.tuning == "lora":
        try:
            lora_fields(recipe.lora)
        except (TypeError, ValueError) as error:
            raise ValueError(f"lora of the recipe: {error}") from error
    vae, posterior = {}, {}
    if args.base_model is not None and recipe.decoder_config:  # else it is for pretrained LMs alone
        vae["learning_rate"] = TUNINGS[args.tuning]
        posterior["posterior_learning_rate"] = min(TUNINGS[args.tuning], POSTERIOR_LEARNING_RATE)
    if args.activation_checkpointing:
        vae["activation_checkpointing"] = True
    return replace(recipe, vae=posterior | recipe.vae | vae)


def _check_configs(recipe: Recipe, of_documents: bool) -> None:
    """Raises a `ValueError` for configurations that records of this kind are not learnt by."""
    if of_documents and not recipe.decoder_config:
        raise ValueError("the recipe has no decoder_config, as those for pretrained LMs; give a base_model as well")
    advice = f"recipes {'of documents start from DOCUMENT_RECIPES' if of_documents else 'of rows start from RECIPES'}"
    for name in ("encoder_config", "decoder_config", "text_encoder_config", "text_decoder_config"):
        config = getattr(recipe, name)
        is_needed = name == "decoder_config" or not of_documents
        if is_needed != bool(config):
            raise ValueError(f"{name} of the recipe is {config or 'missing'}; {advice}")
        if not is_needed:
            continue
        if config.get("model_type") not in CONFIG_MAPPING:
            raise ValueError(f"{name} of the recipe has no model_type that transformers knows; {advice}")
        known = CONFIG_MAPPING[config["model_type"]]()
        # A configuration takes any field, and a model of default sizes is trained where one is misspelled.
        if unknown := [field for field in config if not hasattr(known, field)]:
            raise ValueError(
                f"{name} of the recipe has {unknown[0]!r}, which {type(known).__name__} does not know; {advice}"
            )
