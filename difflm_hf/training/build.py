"""The models of a run: the autoencoder from scratch or on pretrained LMs, and the denoiser."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedConfig, PreTrainedTokenizerBase

from ..configuration_difflm import DiffLMConfig, document_initializer_range
from ..denoiser import DiffLMDenoiser
from ..injection import build_injection
from ..modeling_difflm import DiffLMModel
from ..processing_difflm import DiffLMProcessor
from ..utils import supports_bf16
from .arguments import ModelArguments
from .prepare import PreparedRecords
from .recipes import Recipe


def build_autoencoder(records: PreparedRecords, recipe: Recipe, args: ModelArguments) -> DiffLMModel:
    """
    The autoencoder for records: on a pretrained LM where the arguments name one, else from scratch.

    Raises:
        `ValueError`: when a pretrained model cannot read records as long as these, and for activation checkpointing
            that an injection does not support.
    """
    if args.base_model is not None:
        model = adapt_base_model(records, recipe, args)
    elif records.processor.codec.has_fixed_layout:
        model = build_row_model(records.processor, recipe, args.injection)
    else:
        model = build_document_model(records, recipe, args.injection)
    if args.activation_checkpointing:
        model.activation_checkpointing_enable()
    return model


def build_denoiser(
    moments: tuple[torch.Tensor, torch.Tensor], recipe: Recipe, sigma_data: float, condition_size: int = 0
) -> DiffLMDenoiser:
    """
    A denoiser for latents of these moments, which it brings to mean 0 and deviation `sigma_data`.

    Args:
        moments (`tuple` of two `torch.Tensor` of shape `(latent_size,)`): Mean and deviation in each dimension.
        recipe ([`Recipe`]): Its sizes.
        sigma_data (`float`): That of the scheduler.
        condition_size (`int`, defaults to 0): Of the vector that it is told of each record.
    """
    mean, std = moments
    denoiser = DiffLMDenoiser(latent_size=len(mean), condition_size=condition_size, **recipe.denoiser_config)
    denoiser.latent_mean.copy_(mean)
    denoiser.latent_std.copy_(std / sigma_data)
    return denoiser


@torch.no_grad()
def build_row_model(processor: DiffLMProcessor, recipe: Recipe, injection: str = "soft_prompt") -> DiffLMModel:
    """
    A DiffLM from scratch for the records of a processor with the compact codec.

    The embeddings of numbers' tokens start as smooth functions of their rank: that neighbouring bins are alike is
    something that a few thousand records are too few to teach.
    """
    tokens = {
        "vocab_size": len(processor.tokenizer),
        "bos_token_id": processor.tokenizer.bos_token_id,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
    }
    if processor.codec.texts:
        encoder, decoder = recipe.text_encoder_config, recipe.text_decoder_config
    else:
        encoder, decoder = recipe.encoder_config, recipe.decoder_config
    config = processor.model_config(
        encoder_config=AutoConfig.for_model(**encoder, **tokens),
        decoder_config=AutoConfig.for_model(**decoder, **tokens),
        latent_size=recipe.latent_size,
        num_latent_tokens=recipe.num_latent_tokens,
        injection=injection,
        posterior="linear",
        condition_size=recipe.condition_size if processor.codec.position_fields else 0,
    )
    # A running sum that encodes has one state, and else an encoder reads all.
    config.encoder_config.max_position_embeddings = config.max_record_length
    # The last token of a record is written, and not read.
    num_virtual = build_injection(config).num_virtual_tokens
    config.decoder_config.max_position_embeddings = config.max_record_length - 1 + num_virtual
    if processor.codec.levels:
        config.encoder_config.levels = config.decoder_config.levels = processor.codec.levels
    if hasattr(config.decoder_config, "num_silent_positions"):
        config.decoder_config.num_silent_positions = num_virtual
    model = DiffLMModel(config)
    scales = [
        (model.encoder.get_input_embeddings(), 1.0),
        (model.decoder.get_input_embeddings(), 1.0),
        (model.decoder.get_output_embeddings(), 0.3),
    ]
    if config.condition_size:
        # A decoder that starts almost deaf to what it is told learns to go by z alone.
        known, injection = model.decoder.known_fields, model.decoder.injection.projection
        for weight in (known.embedding.weight, known.position_embedding.weight):
            nn.init.normal_(weight, 0, 0.5)
        nn.init.normal_(injection.weight[:, recipe.latent_size :], 0, config.condition_size**-0.5)
        scales.append((known.embedding, 0.5))
    for embeddings, scale in scales:
        smooth_embeddings(embeddings.weight, processor.codec.ordered_ranges, scale)
    return model


def build_document_model(records: PreparedRecords, recipe: Recipe, injection: str = "soft_prompt") -> DiffLMModel:
    """A DiffLM from scratch for documents, whose causal LM encodes, too."""
    processor = records.processor
    length = 2 * records.longest("decoder_input_ids") + 64  # room for records longer than any seen, and virtual tokens
    bos, eos, pad = processor.special_ids
    decoder_config = AutoConfig.for_model(
        **recipe.decoder_config,
        vocab_size=len(processor.tokenizer),
        max_position_embeddings=length,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        tie_word_embeddings=True,
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


def adapt_base_model(records: PreparedRecords, recipe: Recipe, args: ModelArguments) -> DiffLMModel:
    """
    A DiffLM of a pretrained decoder, and a pretrained encoder where that is not the decoder, too.

    Raises:
        `ValueError`: when one of them cannot read records as long as these.
    """
    length = records.longest("decoder_input_ids")
    fields = {}
    if args.tuning == "lora":
        fields["lora"] = recipe.lora
    if args.quantization is None and args.tuning != "full" and supports_bf16():
        fields["dtype"] = torch.bfloat16  # else each step would make weights in bfloat16 of others, anew
    if args.quantization is not None:
        fields["quantization_config"] = BitsAndBytesConfig(**{f"load_in_{args.quantization}": True})
    bos, eos, _ = records.processor.special_ids
    model = DiffLMModel.from_encoder_decoder_pretrained(
        args.base_encoder,
        args.base_model,
        **fields,
        freeze_decoder=args.tuning != "full",
        latent_size=recipe.latent_size,
        num_latent_tokens=recipe.num_latent_tokens,
        injection=args.injection,
        max_record_length=length,
        bos_token_id=bos,
        eos_token_id=eos,
        attn_implementation=args.attn_implementation,
        trust_remote_code=args.trust_remote_code,
    )
    processor = records.processor
    _check_vocabulary(args.base_model, processor.tokenizer, model.decoder.get_input_embeddings())
    if model.encoder is not None:
        _check_vocabulary(args.base_encoder, processor.encoder_tokenizer, model.encoder.get_input_embeddings())
        _check_length(model.encoder.config, records.longest("input_ids"))
    num_virtual = model.decoder.injection.num_virtual_tokens
    limit = _check_length(model.decoder.lm.config, length + num_virtual)
    # Room for records longer than any seen, and for those that the LM spells in smaller tokens.
    model.config.max_record_length = min(2 * length + 64, limit - num_virtual)
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


def _check_vocabulary(base: str, tokenizer: PreTrainedTokenizerBase, embeddings: nn.Embedding) -> None:
    """Raises a `ValueError` for a tokenizer with ids that its model has no embeddings for."""
    if len(tokenizer) > embeddings.num_embeddings:
        raise ValueError(
            f"the tokenizer of {base} has {len(tokenizer)} tokens, and the model embeddings of "
            f"{embeddings.num_embeddings}: they are not of one another; take the tokenizer that it was trained with"
        )


def _check_length(config: PreTrainedConfig, length: int) -> float:
    """The tokens that a model reads at most. Raises a `ValueError` when `length` is more."""
    limit = getattr(config, "max_position_embeddings", None) or math.inf
    if length > limit:
        raise ValueError(
            f"the longest record takes {length} tokens and {config.name_or_path} reads at most {limit}; shorten or "
            "drop long records, or choose another model"
        )
    return limit
