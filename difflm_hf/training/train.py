"""Both phases of training in one call."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import EDMDPMSolverMultistepScheduler
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    EarlyStoppingCallback,
    PreTrainedConfig,
    ProgressCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..batches import TensorDataset
from ..configuration_difflm import DiffLMConfig, document_initializer_range
from ..denoiser import DiffLMDenoiser
from ..latents import encode_latents, to_dataset
from ..modeling_difflm import DiffLMModel
from ..pipeline_difflm import DiffLMPipeline
from ..processing_difflm import KEY_ORDERS, DiffLMProcessor
from ..records import RecordSchema, read_table
from ..records.readers import OPTIONAL
from ..scheduling_latent_edm import LatentEDMScheduler
from ..utils import atomic_write, no_progress_bars, supports_bf16
from .callbacks import LossProgressCallback, Stopwatch, TensorBoardLog, TimeLimit
from .recipes import (
    BATCH_LOGITS,
    COMMON_ARGUMENTS,
    COMPACT_BLOCK_SIZE,
    CPU_BATCH_LOGITS,
    DECODER_CONFIG,
    DOCUMENT_BLOCK_SIZE,
    DOCUMENT_RECIPES,
    EARLY_STOPPING_PATIENCE,
    ENCODER_CONFIG,
    NOISE_LEVELS,
    NUM_EVALUATIONS,
    NUMERIC_SHARE,
    RECIPES,
    SAMPLER_CONFIG,
    TUNINGS,
    VAE_ARGUMENTS,
    VAE_SHARE,
    Recipe,
)
from .summary import energy_meter, fingerprint_records, summarize_phase, summarize_training
from .trainers import (
    DiffLMTrainer,
    DiffLMTrainingArguments,
    LatentDiffusionTrainer,
    LatentDiffusionTrainingArguments,
)


logger = logging.get_logger(__name__)

CHOICES = {  # of arguments
    "tuning": tuple(TUNINGS),
    "quantization": (None, "8bit", "4bit"),
    "overlong": ("raise", "drop"),
    "key_order": KEY_ORDERS,
}


def train(
    data: Any,
    output_dir: str | os.PathLike,
    validation: Any = None,
    schema: RecordSchema | None = None,
    categorical: Sequence[str] = (),
    recipe: str = "small",
    base_model: str | None = None,
    base_encoder: str | None = None,
    tuning: str = "frozen",
    quantization: str | None = None,
    activation_checkpointing: bool = False,
    injection: str = "soft_prompt",
    max_length: int = 1024,
    overlong: str = "raise",
    key_order: str = "schema",
    max_minutes: float | None = None,
    min_category_count: int = 1,
    seed: int = 0,
    resume: bool = False,
    push_to_hub: bool = False,
    hub_model_id: str | None = None,
    hub_strategy: str = "every_save",
    hub_private_repo: bool | None = None,
    hub_token: str | None = None,
    hub_revision: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    include_code: bool = False,
    include_base_weights: bool = False,
    allow_rare_categories: bool = False,
) -> DiffLMPipeline:
    """
    Trains DiffLM on records: first the VAE, then the latent diffusion.

    `output_dir` then holds the pipeline and its card, with TensorBoard logs under `logs/` and the checkpoints under
    `checkpoints/`.

    Args:
        data (`pandas.DataFrame`, `datasets.Dataset`, `list[dict]`, `str` or `Path`): The records, or their file.
        output_dir (`str` or `Path`): A new or empty folder.
        validation (the same types, *optional*):
            Records to select the best checkpoint by. Not given, a tenth of the data, at most 2,000 records.
        schema (`RecordSchema`, *optional*): Inferred when not given.
        categorical (`Sequence[str]`, defaults to none): Columns that inference is to take as categories.
        recipe (`str`, defaults to `"small"`): Sizes and hyper-parameters that work together: `"small"` or `"base"`.
        base_model (`str`, *optional*):
            Hub id or folder of a pretrained causal LM, which then writes records, as JSON or as the texts that they
            are. Not given, a small one is trained from scratch: on documents (texts, and records with nested values)
            likewise, on rows of tables in the compact format.
        base_encoder (`str`, *optional*):
            Hub id or folder of a pretrained encoder, with `base_model`. Not given, the base model encodes, too.
        tuning (`str`, defaults to `"frozen"`):
            What of `base_model` is trained: nothing by `"frozen"`, LoRA layers by `"lora"`, or all of it by `"full"`.
        quantization (`str`, *optional*):
            Load a `base_model` that is not trained itself in `"8bit"` or `"4bit"`, by bitsandbytes.
        activation_checkpointing (`bool`, defaults to `False`):
            Compute activations anew in the backward pass: less memory, about a third more time.
        injection (`str`, defaults to `"soft_prompt"`): One of the four ways of [`DiffLMConfig`].
        max_length (`int`, defaults to 1024):
            Tokens that a document may take, a row's texts, or a whole row with `base_model`.
        overlong (`str`, defaults to `"raise"`):
            What becomes of records that take more: an error, or by `"drop"` they are left out, and counted in a
            warning and the model card.
        key_order (`str`, defaults to `"schema"`):
            That of JSON records in training: that of the schema, which inference takes from the data, or `"shuffled"`.
        max_minutes (`float`, *optional*): Time that training may take, both phases together.
        min_category_count (`int`, defaults to 1):
            Leave out records with categories of fewer records than this: the schema, which is a part of the model,
            names all categories, and so may give people away. Pieces of text that fewer records have get no id in the
            vocabulary.
        seed (`int`, defaults to 0): Seed of everything.
        resume (`bool`, defaults to `False`): Go on where a run into the same folder was cut off.
        push_to_hub (`bool`, defaults to `False`): Push the pipeline and its card to the Hub at the end.
        hub_model_id (`str`, *optional*): The repository; the name of `output_dir` if not given.
        hub_strategy (`str`, defaults to `"every_save"`):
            What to push before: nothing by `"end"`, by `"every_save"` the latest weights into `checkpoints/vae` and
            `checkpoints/denoiser`, and by `"checkpoint"` and `"all_checkpoints"` also the Trainer's checkpoints. The
            pipeline that a repository holds stays as it is until the end.
        hub_private_repo, hub_token, hub_revision (*optional*): As those of `TrainingArguments`.
        license, datasets, include_code, include_base_weights, allow_rare_categories (*optional*):
            As those of [`DiffLMPipeline.push_to_hub`].

    Returns:
        [`DiffLMPipeline`], which is also saved in `output_dir`.

    Raises:
        `ValueError`:
            for data that cannot be learnt from, unknown names, a folder that is not empty, and, before training, for
            what may not be pushed.
    """
    arguments = {
        "recipe": recipe,
        # Of folders the names: their paths say nothing elsewhere.
        "base_model": base_model and (Path(base_model).name if os.path.isdir(base_model) else base_model),
        "base_encoder": base_encoder and (Path(base_encoder).name if os.path.isdir(base_encoder) else base_encoder),
        "tuning": tuning,
        "quantization": quantization,
        "activation_checkpointing": activation_checkpointing,
        "injection": injection,
        "max_length": max_length,
        "overlong": overlong,
        "key_order": key_order,
        "max_minutes": max_minutes,
        "min_category_count": min_category_count,
        "seed": seed,
    }
    for name, choices in CHOICES.items():
        if arguments[name] not in choices:
            raise ValueError(f"{name}={arguments[name]!r} is not one of {', '.join(map(repr, choices))}")
    if base_model is None and (tuning != "frozen" or quantization is not None):
        raise ValueError("tuning and quantization are of a base_model; give one, or leave them out")
    if tuning == "full" and quantization is not None:
        raise ValueError("a quantized LM cannot be trained; choose tuning='lora', or leave quantization out")
    if include_base_weights and quantization is not None:
        raise ValueError(
            "include_base_weights is for the base's own weights, and a quantized base has lost them; leave it out, "
            "and push what is trained by "
            "DiffLMPipeline.from_pretrained(output_dir).push_to_hub(..., include_base_weights=True)"
        )
    if base_encoder is not None and base_model is None:
        raise ValueError("base_encoder goes with base_model; give both, or neither")
    output_dir = Path(output_dir)
    if output_dir.exists() and any(output_dir.iterdir()) and not resume:
        raise ValueError(f"{output_dir} is not empty; choose another folder, delete it, or resume the run in it")
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    both, order, num_train = _split(read_table(data), validation, seed)
    is_inferred = schema is None
    schema = RecordSchema.infer(both, categorical) if is_inferred else schema
    recipes = RECIPES if base_model is None and not schema.is_of_documents else DOCUMENT_RECIPES
    if recipe not in recipes:
        raise ValueError(f"recipe={recipe!r} is not one of {', '.join(map(repr, recipes))}")
    recipe = recipes[recipe]
    both = schema.conform(both)
    tokenizers = [base and AutoTokenizer.from_pretrained(base) for base in (base_model, base_encoder)]
    settings = (*tokenizers, max_length, min_category_count, key_order, overlong == "drop")
    num_rare, num_dropped = 0, 0
    while True:
        kept = np.ones(len(both), bool)
        if min_category_count > 1:
            schema, kept = schema.without_rare_categories(both, min_category_count)
            num_rare += int((~kept).sum())
        if kept.all():
            processor = DiffLMProcessor.from_records(both, schema, *settings)
            if overlong == "drop":
                kept = ~processor.too_long(both)
                num_dropped += int((~kept).sum())
        if kept.all():
            break
        # Anew, as nothing of what is left out is to be learnt: neither its words nor its bounds.
        both, order, num_train = _keep(kept, both, order, num_train)
        if len(both) == 0:
            raise ValueError(f"no record takes at most max_length={max_length} tokens; raise it")
        schema = _narrowed(schema, both) if is_inferred else schema
    if num_rare:
        logger.warning(f"{num_rare} records have categories of fewer than {min_category_count}, and are left out")
    if num_dropped:
        logger.warning(f"{num_dropped} records take more than {max_length} tokens, and are left out")
    if num_train == 0 and validation is not None:
        raise ValueError("all records but those for validation are left out; raise max_length, or give more")
    num_train = num_train or len(order)
    _ = processor.grammar  # says what it cannot do before hours of training
    # Encoded in the order in which they were given, which errors tell.
    encoded = to_dataset(processor, both)
    is_split = num_train < len(order)  # else nothing is left to hold out
    parts = (order[:num_train], order[num_train:]) if is_split else (order, order)
    records = [TensorDataset(**encoded[torch.from_numpy(part)]) for part in parts]

    set_seed(seed)
    if processor.is_compact:
        vae = build_model(processor, recipe, injection)
    elif base_model is None:
        vae = build_document_model(processor, recipe, injection, records)
    else:
        vae = adapt_model(base_encoder, base_model, processor, recipe, injection, records, tuning, quantization)
        recipe = replace(recipe, vae={**recipe.vae, "learning_rate": TUNINGS[tuning]})
    if activation_checkpointing:
        recipe = replace(recipe, vae={**recipe.vae, "activation_checkpointing": True})
        vae.activation_checkpointing_enable()  # says whether it can
    hub = {}
    if push_to_hub:
        if not allow_rare_categories:
            processor.check_publishable()
        if not include_base_weights:
            vae.check_publishable()
        hub = {
            "push_to_hub": True,
            "hub_model_id": hub_model_id or output_dir.absolute().name,
            "hub_strategy": hub_strategy,
            "hub_private_repo": hub_private_repo,
            "hub_token": hub_token,
            "hub_revision": hub_revision,
        }
    _claim(output_dir / "checkpoints", arguments, processor, both)
    with energy_meter() as energy_kwh:
        vae, autoencoder = _train_vae(vae, processor, records, recipe, output_dir, seed, deadline, hub)
        set_seed(seed)  # a run that resumes from here has drawn no random numbers
        scheduler = LatentEDMScheduler(**NOISE_LEVELS)
        denoiser, diffusion = _train_denoiser(vae, scheduler, records, recipe, output_dir, seed, deadline, hub)
        # Of all of the training, or unknown.
        energy = None if resume else energy_kwh()

    training = summarize_training(
        data, both, len(order) - num_train, num_dropped, processor.schema, arguments, [autoencoder, diffusion], energy
    )
    block_size = COMPACT_BLOCK_SIZE if processor.is_compact else DOCUMENT_BLOCK_SIZE
    sampler = EDMDPMSolverMultistepScheduler.from_config(scheduler.config, **SAMPLER_CONFIG)
    pipe = DiffLMPipeline(vae, denoiser, sampler, processor, block_size, training)
    save_pipeline(pipe, output_dir)
    pipe.register_to_config(_name_or_path=str(output_dir))
    if push_to_hub:
        pipe.push_to_hub(
            hub["hub_model_id"],
            private=hub_private_repo,
            token=hub_token,
            revision=hub_revision,
            commit_message="End of training",
            license=license,
            datasets=datasets,
            include_code=include_code,
            include_base_weights=include_base_weights,
            allow_rare_categories=allow_rare_categories,
        )
    return pipe


def _claim(folder: Path, arguments: dict[str, Any], processor: DiffLMProcessor, table: pd.DataFrame) -> None:
    """Writes what the checkpoints in a folder are of, or compares it with what they were of."""
    codec = json.dumps(processor.codec.to_dict(), default=str)
    run = {name: value for name, value in arguments.items() if name != "max_minutes"}
    run |= {"data": fingerprint_records(table), "schema": hashlib.sha256(codec.encode()).hexdigest()}
    path = folder / "run.json"
    if path.exists():
        given = json.loads(path.read_text(encoding="utf-8"))
        for name, value in run.items():
            if given.get(name) != value:
                raise ValueError(
                    f"{folder.parent} holds a run with {name}={given.get(name)!r}, which {value!r} cannot go on with; "
                    "resume with the same data and arguments, or train into another folder"
                )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _train_vae(
    vae: DiffLMModel,
    processor: DiffLMProcessor,
    records: list[TensorDataset],
    recipe: Recipe,
    output_dir: Path,
    seed: int,
    deadline: float | None,
    hub: dict[str, Any],
) -> tuple[DiffLMModel, dict[str, Any]]:
    folder = output_dir / "checkpoints" / "vae"
    fields = COMMON_ARGUMENTS | VAE_ARGUMENTS | recipe.vae | hub
    if "decoder_input_ids" in records[0].tensors:
        # Logits over the vocabulary take most of the memory.
        num_logits = records[0].tensors["decoder_input_ids"].shape[1] * vae.config.get_text_config().vocab_size
        most = max(1, (BATCH_LOGITS if torch.cuda.is_available() else CPU_BATCH_LOGITS) // num_logits)
        sizes = ("per_device_train_batch_size", "per_device_eval_batch_size")
        fields |= {name: min(fields[name], most) for name in sizes}
    arguments = _arguments(DiffLMTrainingArguments, folder, seed, fields)
    if arguments.max_steps <= 0:
        arguments.max_steps = max(recipe.min_steps, _steps_of_epochs(arguments, len(records[0])))
    trainer = DiffLMTrainer(vae, arguments, processor.grammar, train_dataset=records[0], eval_dataset=records[1])
    if deadline is not None and not (folder / "best").is_dir():
        # Between the phases, all records are encoded.
        deadline -= _seconds_to_encode(vae, records[0], max_seconds=(deadline - time.monotonic()) / 60)
        now = time.monotonic()
        deadline = now + VAE_SHARE * (deadline - now)
    return _run(trainer, "autoencoder", deadline)


def _train_denoiser(
    vae: DiffLMModel,
    scheduler: LatentEDMScheduler,
    records: list[TensorDataset],
    recipe: Recipe,
    output_dir: Path,
    seed: int,
    deadline: float | None,
    hub: dict[str, Any],
) -> tuple[DiffLMDenoiser, dict[str, Any]]:
    folder = output_dir / "checkpoints" / "denoiser"
    arguments = _arguments(LatentDiffusionTrainingArguments, folder, seed, recipe.denoiser | hub)
    if arguments.max_steps <= 0:
        arguments.max_steps = _steps_of_epochs(arguments, len(records[0]))
    latents = [encode_latents(vae, dataset, arguments.sample_posterior) for dataset in records]
    denoiser = DiffLMDenoiser(latent_size=vae.config.latent_size, **recipe.denoiser_config)
    mean, std = latents[0].tensors["mean"], latents[0].tensors["std"]
    denoiser.latent_mean.copy_(mean.mean(0))
    # Of μ + σε over all records: its variance is that of μ plus the mean of σ².
    denoiser.latent_std.copy_((mean.var(0, correction=0) + std.square().mean(0)).sqrt() / scheduler.config.sigma_data)
    trainer = LatentDiffusionTrainer(denoiser, arguments, scheduler, train_dataset=latents[0], eval_dataset=latents[1])
    return _run(trainer, "latent diffusion", deadline)


def _steps_of_epochs(arguments: TrainingArguments, num_records: int) -> int:
    """Optimizer steps, of which epochs may be a fraction."""
    batch_size = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return max(1, int(arguments.num_train_epochs * -(-num_records // batch_size)))


def build_model(processor: DiffLMProcessor, recipe: Recipe, injection: str = "soft_prompt") -> DiffLMModel:
    """
    A DiffLM from scratch for the records of a processor with the compact codec.

    The embeddings of numbers' tokens start as smooth functions of their rank: that neighbouring bins are alike is
    something that a few thousand records are too few to teach.
    """
    codec = processor.codec
    tokens = {
        "vocab_size": codec.vocab_size,
        "max_position_embeddings": codec.max_length + 64,  # room for virtual tokens
        "bos_token_id": processor.tokenizer.bos_token_id,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
    }
    is_numeric = sum(f.is_numeric for f in codec.schema) > NUMERIC_SHARE * len(codec.schema)
    decoder_config = recipe.decoder_config | (recipe.numeric_decoder_config if is_numeric else {})
    model_config = processor.model_config(
        encoder_config=AutoConfig.for_model("bert", **tokens, **ENCODER_CONFIG, **recipe.encoder_config),
        decoder_config=AutoConfig.for_model("gpt2", **tokens, **DECODER_CONFIG, **decoder_config),
        latent_size=recipe.latent_size,
        num_latent_tokens=recipe.num_latent_tokens,
        injection=injection,
        posterior="linear",
    )
    model = DiffLMModel(model_config)
    for embeddings, scale in (
        (model.encoder.get_input_embeddings(), 0.5),
        (model.decoder.get_input_embeddings(), 0.5),
        (model.decoder.get_output_embeddings(), 0.1),
    ):
        smooth_embeddings(embeddings.weight, codec.ordered_ranges, scale)
    return model


def build_document_model(
    processor: DiffLMProcessor, recipe: Recipe, injection: str, records: list[TensorDataset]
) -> DiffLMModel:
    """A DiffLM from scratch for documents: a Llama, which encodes, too."""
    longest = max(dataset.tensors["decoder_input_ids"].shape[1] for dataset in records)
    length = 2 * longest + 64  # room for records longer than any seen, and for virtual tokens
    bos, eos, pad = processor.special_ids
    decoder_config = AutoConfig.for_model(
        "llama",
        vocab_size=len(processor.tokenizer),
        max_position_embeddings=length,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        tie_word_embeddings=True,
        **recipe.decoder_config,
    )
    return DiffLMModel(
        DiffLMConfig(
            decoder_config=decoder_config,
            latent_size=recipe.latent_size,
            num_latent_tokens=recipe.num_latent_tokens,
            injection=injection,
            injection_initializer_range=document_initializer_range(recipe.latent_size, injection),
            posterior="standardized",
            encode_with_decoder=True,
            max_record_length=length - 64,
        )
    )


def adapt_model(
    encoder: str | None,
    decoder: str,
    processor: DiffLMProcessor,
    recipe: Recipe,
    injection: str,
    records: list[TensorDataset],
    tuning: str = "frozen",
    quantization: str | None = None,
) -> DiffLMModel:
    """
    A DiffLM of a pretrained decoder, and a pretrained encoder where that is not the decoder, too. `tuning` and
    `quantization` are those of [`train`].

    Raises:
        `ValueError`: when one of them cannot read records as long as these.
    """
    lengths = {name: max(d.tensors[name].shape[1] for d in records) for name in ("input_ids", "decoder_input_ids")}
    fields = {}
    if tuning == "lora":
        fields["lora"] = recipe.lora
    if quantization is not None:
        bits = {"load_in_8bit": True} if quantization == "8bit" else {"load_in_4bit": True}
        fields["quantization_config"] = BitsAndBytesConfig(**bits)
    model = DiffLMModel.from_encoder_decoder_pretrained(
        encoder,
        decoder,
        **fields,
        freeze_decoder=tuning != "full",
        latent_size=recipe.latent_size,
        num_latent_tokens=recipe.num_latent_tokens,
        injection=injection,
        max_record_length=lengths["decoder_input_ids"],
        bos_token_id=processor.special_ids[0],
        eos_token_id=processor.special_ids[1],
    )
    if model.encoder is not None:
        _check_length(model.encoder.config, lengths["input_ids"])
    num_virtual = model.decoder.injection.num_virtual_tokens
    limit = _check_length(model.decoder.lm.config, lengths["decoder_input_ids"] + num_virtual)
    # Room for records longer than any seen, and for those that the LM spells in smaller tokens.
    model.config.max_record_length = min(2 * lengths["decoder_input_ids"] + 64, limit - num_virtual)
    return model


@torch.no_grad()
def smooth_embeddings(
    embeddings: torch.Tensor, ranges: list[tuple[int, int]], scale: float, num_waves: int = 8
) -> None:
    """
    Draws the embeddings of ordered ids as smooth random functions of their rank, in place.

    Args:
        embeddings (`torch.Tensor` of shape `(vocab_size, hidden_size)`): Input embeddings, or the rows of a head.
        ranges (`list[tuple[int, int]]`): The ids `[start, end)` of each ordered vocabulary.
        scale (`float`): Standard deviation of the result.
        num_waves (`int`, defaults to 8): Cosines, of 0 to `num_waves − 1` half periods, that each function is made of.
    """
    waves = torch.arange(num_waves)
    for start, end in ranges:
        ranks = torch.linspace(0, 1, end - start)[:, None]
        basis = torch.cos(torch.pi * waves * ranks) / (1 + waves)
        basis = basis / basis.square().sum(1).mean().sqrt()
        embeddings[start:end] = scale * basis @ torch.randn(num_waves, embeddings.shape[1])


def save_pipeline(pipeline: DiffLMPipeline, output_dir: Path) -> None:
    """Saves beside the final place first, and model_index.json last, so that what can be loaded is complete."""
    # Cards take plots and templates, which nothing before the end does.
    from ..hub.cards import model_card

    temporary = output_dir / "complete"
    shutil.rmtree(temporary, ignore_errors=True)
    _save_whole(pipeline, temporary)
    model_card(pipeline).save(temporary / "README.md")
    (output_dir / "model_index.json").unlink(missing_ok=True)
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == "model_index.json"):
        target = output_dir / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    temporary.rmdir()


def _keep(
    mask: np.ndarray, table: pd.DataFrame, order: np.ndarray, num_train: int
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """What [`_split`] returns, of some of the records."""
    is_kept = mask[order]
    positions = np.cumsum(mask) - 1
    return table[mask], positions[order[is_kept]], int(is_kept[:num_train].sum())


def _narrowed(schema: RecordSchema, table: pd.DataFrame) -> RecordSchema:
    """A schema that was inferred, with the bounds of what is left of the records: they tell of these, too."""
    # A dtype lists categories that no record has any longer.
    used = {name: table[name].cat.remove_unused_categories() for name in table.select_dtypes("category")}
    left = RecordSchema.infer(table.assign(**used), [f.name for f in schema if f.type == "category"])
    return RecordSchema([left[f.name] if left[f.name].type == f.type else f for f in schema])


def _split(table: pd.DataFrame, validation: Any, seed: int) -> tuple[pd.DataFrame, np.ndarray, int]:
    """All records, the order to take them in, and how many of those are for training; the others are held out."""
    if validation is None and len(table) != 1:
        order = np.random.default_rng(seed).permutation(len(table))
        size = min(2000, max(1, len(table) // 10))
        return table, np.roll(order, -size), len(table) - size
    validation = table if validation is None else read_table(validation)  # of a single record, that record
    for name, part in (("table", table), ("validation table", validation)):
        if len(part) == 0:
            raise ValueError(f"the {name} has no rows")
    odd = sorted(map(str, set(table.columns) ^ set(validation.columns)))
    if odd and OPTIONAL in table.attrs and OPTIONAL in validation.attrs:
        # Objects of JSON may lack keys, and all of a part may lack the same one.
        table, validation = (
            part.assign(**{name: None for name in odd if name not in part}) for part in (table, validation)
        )
        table.attrs[OPTIONAL] = [*table.attrs[OPTIONAL], *odd]
    elif odd:
        raise ValueError(f"column {odd[0]!r} is in only one of data and validation; both need the same columns")
    both = pd.concat([table, validation], ignore_index=True)
    both.attrs[OPTIONAL] = sorted({name for part in (table, validation) for name in part.attrs.get(OPTIONAL, ())})
    return both, np.arange(len(both)), len(table)


def _check_length(config: PreTrainedConfig, length: int) -> float:
    """The tokens that a model reads at most. Raises a `ValueError` when `length` is more."""
    limit = getattr(config, "max_position_embeddings", None) or math.inf
    if length > limit:
        raise ValueError(
            f"the longest record takes {length} tokens and {config.name_or_path} reads at most {limit}; shorten or "
            "drop long records, or choose another model"
        )
    return limit


def _arguments(cls: type[TrainingArguments], folder: Path, seed: int, fields: dict[str, Any]) -> TrainingArguments:
    return cls(
        output_dir=str(folder),
        seed=seed,
        data_seed=seed,
        bf16=supports_bf16(),
        use_cpu=not torch.cuda.is_available(),
        hub_subfolder=f"checkpoints/{folder.name}",
        **{**COMMON_ARGUMENTS, **fields},
    )


def _run(trainer: Trainer, description: str, deadline: float | None) -> tuple[torch.nn.Module, dict[str, Any]]:
    """
    Trains to the end, the deadline, or where validation no longer improves, from the last checkpoint if there is one.

    Returns:
        The model with the best weights, which are also saved in the folder `best`: once that is there, the phase is
        complete. And the record of the phase.
    """
    folder = Path(trainer.args.output_dir)
    best, record = folder / "best", folder / "phase.json"
    if best.is_dir():
        weights = {name: weight for path in best.glob("*.safetensors") for name, weight in load_file(path).items()}
        trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
        if lost := trained - weights.keys():
            raise OSError(f"{best} lacks weights, such as {min(lost)}; delete that folder, and resume")
        trainer.model.load_state_dict(weights, strict=False)  # those of a frozen base are there
    else:
        with no_progress_bars():
            _train(trainer, description, deadline, folder)
            summary = summarize_phase(description, trainer)
            record.write_text(json.dumps(summary, indent=2), encoding="utf-8")
            _save_whole(trainer.model, best)
    # The model itself rather than another copy, for which there may be no room, nor a quantized base.
    return trainer.finished_model(), json.loads(record.read_text(encoding="utf-8"))


def _train(trainer: Trainer, description: str, deadline: float | None, folder: Path) -> None:
    args = trainer.args
    # The Trainer writes its state after all else: a checkpoint that lacks it is one that was cut off.
    states = {p.parent: TrainerState.load_from_json(p) for p in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")}
    checkpoint = max(states, key=lambda path: states[path].global_step, default=None)
    if checkpoint is not None:
        state = states[checkpoint]
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            trainer.add_callback(Stopwatch(**state.stateful_callbacks["Stopwatch"]["args"]))
            state.best_model_checkpoint = str(folder / f"checkpoint-{state.best_global_step}")
            trainer.state = state
            return trainer._load_best_model()
        args.max_steps, args.logging_steps = state.max_steps, state.logging_steps
    else:
        num_evaluations = NUM_EVALUATIONS
        if deadline is not None:
            num_steps, num_evaluations = _plan(deadline, trainer)
            args.max_steps = max(1, min(args.max_steps, num_steps))
        # Evaluations, which checkpoints follow, fall on steps that log: no sums of losses are left over then.
        args.logging_steps = -(-args.max_steps // (4 * num_evaluations))
    args.eval_steps = args.save_steps = 4 * args.logging_steps
    args.warmup_steps = min(args.warmup_steps, args.max_steps // 10)
    trainer.pop_callback(ProgressCallback)
    trainer.add_callback(LossProgressCallback(description))
    trainer.add_callback(TensorBoardLog(folder.parents[1] / "logs" / folder.name))
    trainer.add_callback(Stopwatch())
    trainer.add_callback(EarlyStoppingCallback(EARLY_STOPPING_PATIENCE))
    if deadline is not None:
        trainer.add_callback(TimeLimit(deadline))
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))


def _plan(deadline: float, trainer: Trainer, num_batches: int = 32) -> tuple[int, int]:
    """
    The steps that fit, and the validations between them. Measures, for a fifteenth of the time, without changing
    anything.
    """
    args, moments = trainer.args, [(buffer, buffer.clone()) for buffer in trainer.model.buffers()]
    max_seconds = (deadline - time.monotonic()) / 30
    trainer.model.train()

    def seconds_per_batch() -> float:
        start, times = time.monotonic(), []
        for batch in itertools.islice(loader, num_batches):
            with trainer.accelerator.autocast():  # which training wraps the model in
                loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
            loss.backward()
            loss.item()  # waits for an accelerator
            times.append(time.monotonic() - start)
            if times[-1] > max_seconds:
                break
        return times[-1] / len(times)

    with torch.random.fork_rng():
        loader = trainer.get_train_dataloader()
        seconds_per_batch()  # the first time, each length of a batch takes longer
        seconds = seconds_per_batch()
    trainer.model.zero_grad()
    for buffer, before in moments:
        buffer.copy_(before)
    step = (1.1 * seconds + 0.002) * args.gradient_accumulation_steps  # with the optimizer's part, and the Trainer's
    # Without a backward pass, records take half of the time.
    evaluation = seconds / 2 * len(trainer.eval_dataset) / args.train_batch_size
    left = deadline - time.monotonic()
    num_evaluations = max(1, min(NUM_EVALUATIONS, int(left / 4 / evaluation)))
    return int((left - num_evaluations * evaluation) / step), num_evaluations


def _seconds_to_encode(vae: DiffLMModel, records: TensorDataset, max_seconds: float) -> float:
    """Measures for three times `max_seconds` at most."""
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))
    begin = time.monotonic()
    for size in (8, 16, 32, 64, 128, 256):  # the first ones take longer
        start = time.monotonic()
        encode_latents(vae, TensorDataset(**records[order[:size]]))
        end = time.monotonic()
        if end - begin > max_seconds:
            break
    return (end - start) * len(records) / min(size, len(records))


def _save_whole(component: Any, folder: Path) -> None:
    """Saves a component so that its folder appears only when it is complete."""
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    component.save_pretrained(temporary)
    os.replace(temporary, folder)
