"""Training of Diffusion-LM: texts → words → embeddings, and the network that takes noise from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, set_seed
from transformers.utils import logging

from ..batches import TensorDataset
from ..diffusion_lm import (
    DiffusionLMConfig,
    DiffusionLMModel,
    DiffusionLMPipeline,
    make_scheduler,
    train_word_tokenizer,
)
from ..diffusion_lm.measures import likelihood_bound, rounding_accuracy
from ..diffusion_lm.pipeline_diffusion_lm import NUM_INFERENCE_STEPS
from ..diffusion_lm.schedule import check_scheduler, fitting_steps
from ..diffusion_lm.word_tokenizer import encode_texts
from ..evaluation.documents.text import evaluate_text
from ..hub.text_cards import text_model_card
from ..records import read_table
from .arguments import BaseTrainingArguments
from .base_trainer import BaseTrainer
from .fit import Run, deadline_of, eager_attention, fit, same_weights, steps_of_epochs
from .output_dir import claim_output_dir, hold_output_dir, save_pipeline
from .summary import energy_meter, fingerprint_examples, fingerprint_records, summarize_run


logger = logging.get_logger(__name__)

PHASE = "diffusion"
NUM_MEASURED = 128  # texts that a model writes for its card
NUM_BOUNDED, NUM_DRAWS = 256, 8  # held-out texts whose likelihood stands there, and noise levels of each


@dataclass
class DiffusionLMRecipe:
    """
    Sizes and hyper-parameters of Diffusion-LM.

    Args:
        config (`dict`): Fields of [`DiffusionLMConfig`].
        arguments (`dict`): Fields of `TrainingArguments`, and `ema_decay`.
        min_frequency (`int`, defaults to 2): Of a word in all texts, below which it is unknown.
        scheduler (`dict`): The name of a scheduler for [`make_scheduler`], and fields of its configuration.
    """

    config: dict[str, Any]
    arguments: dict[str, Any]
    min_frequency: int = 2
    scheduler: dict[str, Any] = field(default_factory=lambda: {"name": "ddpm"})


DIFFUSION_LM_RECIPES = {
    # Section 5 and appendix: of E2E d = 16 and 200,000 steps
    "paper": DiffusionLMRecipe(
        config={},
        arguments={
            "learning_rate": 1e-4,
            "lr_scheduler_type": "linear",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "adam_beta2": 0.999,
            "max_steps": 200_000,
            "per_device_train_batch_size": 64,
            "ema_decay": 0.9999,
        },
        min_frequency=11,
    ),
    # For an hour of two processor cores
    "small": DiffusionLMRecipe(
        config={
            "embedding_size": 32,
            "max_sequence_length": 48,
            "encoder_config": {
                # Norms before, and positions relative to each other, without which hundreds of steps teach nothing
                "model_type": "modernbert",
                "hidden_size": 256,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "intermediate_size": 768,
                "embedding_dropout": 0.1,
                "mlp_dropout": 0.1,
                "initializer_range": 0.05,
            },
            "noise_factor": 2.0,
            "normalize_embeddings": True,
            "noisy_embeddings": False,
            "self_conditioning": True,
            "weighted_embeddings": True,
            "output_prior": True,
            "cross_entropy_weight": 1.0,
            "pad_weight": 0.2,
        },
        arguments={
            "learning_rate": 1e-3,
            "warmup_steps": 200,
            "weight_decay": 0.01,
            "num_train_epochs": 100,
            "per_device_train_batch_size": 128,
            "per_device_eval_batch_size": 256,
            "ema_decay": 0.999,
            "max_grad_norm": 1.0,
        },
    ),
}


class DiffusionLMTrainer(BaseTrainer):
    """
    Trains a [`DiffusionLMModel`] end to end.

    Args:
        model ([`DiffusionLMModel`]): The model.
        args ([`BaseTrainingArguments`]): The arguments.
        kwargs (*optional*): Those of `transformers.Trainer`. Datasets yield `input_ids`, of one length.
    """

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(input_ids=inputs["input_ids"])
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def train_diffusion_lm(
    data: Any,
    output_dir: str | os.PathLike,
    validation: Any = None,
    text_column: str = "text",
    recipe: str | DiffusionLMRecipe = "small",
    tokenizer: PreTrainedTokenizerFast | None = None,
    config: dict[str, Any] | None = None,
    max_minutes: float | None = None,
    seed: int = 0,
    resume: bool = False,
) -> DiffusionLMPipeline:
    """
    Trains Diffusion-LM on texts (arXiv 2205.14217).

    `output_dir` then holds the pipeline and its card, with TensorBoard logs under `logs/` and the checkpoints under
    `checkpoints/`.

    Args:
        data (`list[str]`, `pandas.DataFrame`, `datasets.Dataset`, `str` or `Path`): The texts, or their file.
        output_dir (`str` or `Path`): A new or empty folder.
        validation (the same types, *optional*): Texts to select weights by; a tenth of the data when not given.
        text_column (`str`, defaults to `"text"`): The column of the texts, of tables.
        recipe (`str` or [`DiffusionLMRecipe`], defaults to `"small"`): `"small"`, `"paper"`, or one of your own.
        tokenizer (`PreTrainedTokenizerFast`, *optional*):
            Of [`train_word_tokenizer`]; made of the texts when not given.
        config (`dict`, *optional*): Fields of [`DiffusionLMConfig`] in place of those of the recipe.
        max_minutes (`float`, *optional*):
            Time that training may take. Measures for the card come on top, up to a minute.
        seed (`int`, defaults to 0): Seed of everything.
        resume (`bool`, defaults to `False`): Go on where a run into the same folder was cut off.

    Returns:
        [`DiffusionLMPipeline`], which is also saved in `output_dir`.

    Raises:
        `ValueError`: for texts that cannot be learnt from, unknown names, and a folder that is not empty.

        `RuntimeError`: when another process writes into the folder.
    Example:

    ```python
    >>> from difflm_hf import train_diffusion_lm

    >>> pipe = train_diffusion_lm("sentences.jsonl", "my-diffusion-lm", max_minutes=30)
    ```
    """
    output_dir = Path(output_dir)
    if isinstance(recipe, str) and recipe not in DIFFUSION_LM_RECIPES:
        raise ValueError(f"recipe={recipe!r} is not one of {', '.join(map(repr, DIFFUSION_LM_RECIPES))}")
    deadline = deadline_of(max_minutes)
    named = recipe if isinstance(recipe, str) else asdict(recipe)
    recipe = deepcopy(DIFFUSION_LM_RECIPES[recipe] if isinstance(recipe, str) else recipe)
    with hold_output_dir(output_dir, resume):
        texts = read_texts(data, text_column)
        held_out = None if validation is None else read_texts(validation, text_column)
        check_fields(config or {})
        fields = {**recipe.config, **(config or {})}
        length = DiffusionLMConfig(**fields).max_sequence_length
        scheduler = make_scheduler(DiffusionLMConfig(**fields), **recipe.scheduler)
        check_scheduler(scheduler, DiffusionLMConfig(**fields))
        if tokenizer is None:
            tokenizer = train_word_tokenizer(texts, recipe.min_frequency, length)
        if held_out is None:
            order = np.random.default_rng(seed).permutation(len(texts))
            size = min(2000, max(1, len(texts) // 10))
            held_out, texts = [texts[k] for k in order[:size]], [texts[k] for k in order[size:]] or texts
        if len(texts) < 2:
            raise ValueError(f"there is {len(texts)} text to train on, beside those held out; give two or more")
        train, evaluation = (
            TensorDataset(input_ids=encode_texts(part, tokenizer, length)[0]) for part in (texts, held_out)
        )
        counts = torch.bincount((train.tensors["input_ids"] != tokenizer.pad_token_id).sum(1) - 2, minlength=length)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
        fields |= {"vocab_size": len(tokenizer), "length_counts": counts.tolist(), **ids}

        table = pd.DataFrame({"text": texts + held_out})
        arguments = {
            "recipe": named,
            "config": {k: v.to_dict() if isinstance(v, PreTrainedConfig) else v for k, v in (config or {}).items()},
            "text_column": text_column,
            "seed": seed,
            "max_minutes": max_minutes,
        }
        hashes = {
            "data": fingerprint_records(table),
            "words": fingerprint_records(pd.DataFrame({"word": list(tokenizer.get_vocab())})),
            "examples": fingerprint_examples(train, evaluation),
        }
        claim_output_dir(output_dir, arguments | hashes)
        set_seed(seed)
        model = DiffusionLMModel(DiffusionLMConfig(**fields))
        run = Run(output_dir, seed, deadline)
        training_arguments = run.arguments(BaseTrainingArguments, PHASE, recipe.arguments)
        if training_arguments.max_steps <= 0:
            training_arguments.max_steps = steps_of_epochs(training_arguments, len(train))
        with energy_meter() as energy_kwh:
            trainer = DiffusionLMTrainer(
                same_weights(model), training_arguments, train_dataset=train, eval_dataset=evaluation
            )
            with eager_attention(model) if training_arguments.use_cpu else nullcontext():
                phases = [fit(trainer, "diffusion", deadline)]
            energy = None if resume else energy_kwh()
        facts = {
            "num_records": len(train),
            "num_validation_records": len(evaluation),
            "num_dropped_records": len(texts) - len(train),
        }
        training = summarize_run(data, hashes["data"], facts, arguments, phases, energy)
        pipe = DiffusionLMPipeline(model.eval(), scheduler, tokenizer)
        pipe.register_to_config(training=training | {"measures": _measure(pipe, texts, evaluation, seed)})
        save_pipeline(pipe, text_model_card(pipe), output_dir)
        pipe.register_to_config(_name_or_path=str(output_dir))
        return pipe


def _measure(
    pipe: DiffusionLMPipeline, texts: list[str], held_out: TensorDataset, seed: int
) -> dict[str, float | int]:
    """What the card says of the model."""
    logger.info("measuring the model for its card")
    generator, ids = torch.Generator().manual_seed(seed), held_out.tensors["input_ids"][:NUM_BOUNDED]
    num_words = (ids != pipe.tokenizer.pad_token_id).sum() - len(ids)  # with </s>, and without <s>
    pipe.set_progress_bar_config(disable=True)
    written = pipe(NUM_MEASURED, fitting_steps(NUM_INFERENCE_STEPS, pipe.model.config), generator=generator).texts
    pipe.set_progress_bar_config(disable=False)
    bounds = likelihood_bound(pipe.model, ids, NUM_DRAWS, generator=generator)
    return {
        "num_texts": len(written),
        "nats_per_word": float(bounds.sum() / num_words),
        "rounding_accuracy": rounding_accuracy(pipe.model, ids, generator),
        **evaluate_text(written, texts, seed),
    }


def check_fields(config: dict[str, Any]) -> None:
    """Raises a `ValueError` for what is no field of [`DiffusionLMConfig`], and for fields that the texts decide."""
    known = set(signature(DiffusionLMConfig).parameters) - {"kwargs"}
    for name in config:
        if name not in known:
            raise ValueError(f"config has {name!r}, which is no field of DiffusionLMConfig; it has {sorted(known)}")
        if name in ("vocab_size", "length_counts") or name.endswith("_token_id"):
            raise ValueError(f"config has {name!r}, which tokenizer and texts decide; leave it out")


def read_texts(data: Any, text_column: str = "text") -> list[str]:
    """
    The texts of a list, a table or a file.

    Raises:
        `ValueError`: where there are none, or what is in their place is no text.
    """
    if isinstance(data, pd.Series | np.ndarray):
        data = data.tolist()
    if isinstance(data, Sequence) and not isinstance(data, str) and not any(isinstance(row, Mapping) for row in data):
        texts = list(data)
    else:
        table = read_table(data)
        if table.empty:
            raise ValueError("the data has no texts")
        if text_column not in table:
            raise ValueError(f"the data has no column {text_column!r}; name that of the texts among {list(table)}")
        texts = table[text_column].tolist()
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"row {row} of {text_column!r} holds {text!r}, and no text; drop it")
    if not texts:
        raise ValueError("the data has no texts")
    return texts
