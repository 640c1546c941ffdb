"""Both phases of training in one call."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusers import EDMDPMSolverMultistepScheduler
from transformers import PreTrainedTokenizerBase, set_seed

from ..base_model import load_tokenizer, naming_gguf, source_of
from ..distributed import process_index
from ..hub.cards import model_card
from ..hub.upload import check_reach, explain_hub_errors
from ..latents import encode_latents, latent_moments
from ..pipeline_difflm import DiffLMPipeline
from ..records import RecordSchema
from ..scheduling_latent_edm import LatentEDMScheduler
from .arguments import DataArguments, HubArguments, ModelArguments, PrivacyArguments, check_types
from .build import build_autoencoder, build_denoiser
from .fit import Run, deadline_of, fit_autoencoder, fit_denoiser
from .output_dir import claim_output_dir, hold_output_dir, mark_components, save_pipeline
from .prepare import prepare_records
from .private import check_private, prepare_private_records, private_moments
from .recipes import (
    COMPACT_BLOCK_SIZE,
    DOCUMENT_BLOCK_SIZE,
    NOISE_LEVELS,
    SAMPLER_CONFIG,
    Recipe,
    check_recipe,
    find_recipe,
)
from .summary import energy_meter, fingerprint_base, fingerprint_examples, fingerprint_records, summarize_training


def train(
    data: Any,
    output_dir: str | os.PathLike,
    validation: Any = None,
    schema: RecordSchema | None = None,
    recipe: str | Recipe = "small",
    data_args: DataArguments | None = None,
    model_args: ModelArguments | None = None,
    hub_args: HubArguments | None = None,
    privacy_args: PrivacyArguments | None = None,
    max_minutes: float | None = None,
    seed: int = 0,
    resume: bool = False,
) -> DiffLMPipeline:
    """
    Trains DiffLM on records (arXiv 2411.03250): first the autoencoder, then the diffusion of its latents.

    `output_dir` then holds the pipeline and its card, with TensorBoard logs under `logs/` and the checkpoints under
    `checkpoints/`.

    Args:
        data (`pandas.DataFrame`, `datasets.Dataset`, `list[dict]`, `str` or `Path`):
            The records, or their file. Of a `datasets.IterableDataset` a sample is learnt from, see [`DataArguments`].
        output_dir (`str` or `Path`): A new or empty folder.
        validation (the same types, *optional*):
            Records to select the best checkpoint by. Not given, a tenth of the data, at most 2,000 records.
        schema ([`RecordSchema`], *optional*): Inferred when not given.
        recipe (`str` or [`Recipe`], defaults to `"small"`):
            Sizes and hyper-parameters that work together: `"small"`, `"base"`, or one of your own.
        data_args ([`DataArguments`], *optional*): How to take the records.
        model_args ([`ModelArguments`], *optional*): What to train: from scratch, or on which pretrained LM.
        hub_args ([`HubArguments`], *optional*): Push the model to the Hub. Not given, nothing leaves this machine.
        privacy_args ([`PrivacyArguments`], *optional*):
            How little the model may tell of a single record. It takes a `schema` that says all bounds and categories.
        max_minutes (`float`, *optional*): Time that training may take, both phases together.
        seed (`int`, defaults to 0): Seed of everything.
        resume (`bool`, defaults to `False`): Go on where a run into the same folder was cut off.

    Returns:
        [`DiffLMPipeline`], which is also saved in `output_dir`.

    Raises:
        `ValueError`:
            for data that cannot be learnt from, unknown names, a folder that is not empty, and, before training, for
            what may not be pushed.
        `RuntimeError`: when another process writes into the folder, or a loss is no number any more.

    Example:

    ```python
    >>> from difflm_hf import ModelArguments, train

    >>> pipe = train("table.csv", "my-model", max_minutes=8)
    >>> pipe = train("table.csv", "my-lm-model", model_args=ModelArguments(base_model="HuggingFaceTB/SmolLM2-135M"))
    ```
    """
    data_args, model_args, output_dir = data_args or DataArguments(), model_args or ModelArguments(), Path(output_dir)
    check_types(
        schema=schema,
        data_args=data_args,
        model_args=model_args,
        hub_args=hub_args,
        privacy_args=privacy_args,
        seed=seed,
    )
    deadline = deadline_of(max_minutes)
    check_recipe(recipe)
    if hub_args is not None:
        hub_args.check(model_args)
    with hold_output_dir(output_dir, resume):
        bases = (model_args.base_model, model_args.base_encoder)
        tokenizers = [base and _load_tokenizer(base, model_args.trust_remote_code) for base in bases]
        budget = privacy_args and privacy_args.budget()
        if budget is None:
            records = prepare_records(data, validation, schema, data_args, *tokenizers, seed=seed)
        else:
            check_private(validation, recipe, model_args)
            records = prepare_private_records(data, schema, data_args, budget, output_dir / "checkpoints")
        processor = records.processor

        arguments = {
            "recipe": recipe if isinstance(recipe, str) else asdict(recipe),
            **asdict(data_args),
            **model_args.to_record(),
            **(asdict(privacy_args) if privacy_args else {}),
            "max_minutes": max_minutes,
            "seed": seed,
        }
        recipe = find_recipe(recipe, not processor.codec.has_fixed_layout, model_args, is_private=budget is not None)
        hub = hub_args.training_fields(output_dir) if hub_args else {}
        run = Run(output_dir, seed, deadline, hub, privacy_args, budget)
        run.check(recipe)

        set_seed(seed)
        vae = build_autoencoder(records, recipe, model_args)
        if hub_args is not None:
            hub_args.check_publishable(processor, vae)
        codec = json.dumps(processor.codec.to_dict(), default=str)
        hashes = {
            "data": fingerprint_records(records.table),
            "schema": hashlib.sha256(codec.encode()).hexdigest(),
        }
        if budget is None:
            hashes["examples"] = fingerprint_examples(records.train, records.validation)
        if model_args.base_model is not None:
            hashes["base"] = fingerprint_base(vae)
        claim_output_dir(output_dir, arguments | hashes)
        with energy_meter() as energy_kwh:
            phases = [fit_autoencoder(vae, records, recipe, run)]
            set_seed(seed)  # a run that resumes from here has drawn no random numbers
            sample_posterior = recipe.denoiser.get("sample_posterior", True)
            parts = [part for part in (records.train, records.validation) if part is not None]
            latents = [encode_latents(vae, part, sample_posterior) for part in parts]
            scheduler = LatentEDMScheduler(**NOISE_LEVELS | recipe.scheduler)
            known = {}
            if vae.config.condition_size:
                position_fields = processor.codec.position_fields
                for part, posteriors in zip(parts, latents):
                    posteriors.tensors["known_ids"] = part.tensors["input_ids"][:, 1 : 1 + len(position_fields)]
                known = {"known_fields": vae.decoder.known_fields, "position_fields": position_fields}
            moments = latent_moments(latents[0]) if budget is None else private_moments(latents[0], budget)
            denoiser = build_denoiser(moments, recipe, scheduler.config.sigma_data, vae.config.condition_size)
            phases.append(fit_denoiser(denoiser, scheduler, latents, recipe, run, **known))
            # Of all of the training, or unknown.
            energy = None if resume else energy_kwh()

        sampler = scheduler
        if recipe.solver == "dpm":
            sampler = EDMDPMSolverMultistepScheduler.from_config(scheduler.config, **SAMPLER_CONFIG)
        block_size = COMPACT_BLOCK_SIZE if processor.codec.has_fixed_layout else DOCUMENT_BLOCK_SIZE
        training = summarize_training(data, records, arguments, phases, energy)
        if budget is not None:
            training["privacy"] = {**asdict(privacy_args), "spent_epsilon": budget.spent_epsilon}
        mark_components(vae, denoiser, processor, arguments | hashes)
        pipe = DiffLMPipeline(vae, denoiser, sampler, processor, block_size, training)
        save_pipeline(pipe, model_card(pipe), output_dir)
        pipe.register_to_config(_name_or_path=str(output_dir))
        if hub_args is not None and process_index() == 0:
            pipe.push_to_hub(commit_message="End of training", **hub_args.push_fields(output_dir))
        return pipe


def _load_tokenizer(base: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    source, file = source_of(base)
    try:
        with explain_hub_errors(base, is_upload=False):
            with naming_gguf(base):
                check_reach(source, file.get("gguf_file", "config.json"))
            return load_tokenizer(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, RecursionError) as error:
        raise OSError(f"{base} is no base model with a tokenizer: {error}") from error
