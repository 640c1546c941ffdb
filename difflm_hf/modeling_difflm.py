"""DiffLM: a variational autoencoder whose decoder is a causal LM that latents are injected into."""

from __future__ import annotations

import os
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput, is_peft_available
from transformers.utils.hub import resolve_revision
from transformers.utils.quantization_config import QuantizationConfigMixin

from .base_model import load_causal_lm, source_of
from .configuration_difflm import DiffLMConfig, document_initializer_range
from .distributed import mean_of_all, randn_like
from .lora import lora_fields, without_lora
from .modeling_latent_lm import DiffLMForCausalLM
from .posterior import StandardizedPosterior, build_posterior
from .pretrained_model import DiffLMPreTrainedModel
from .records.grammar import ChoiceSets


# With a call of this name, loaders of remote code do not take the import for a requirement.
if TYPE_CHECKING and is_peft_available():
    from peft import LoraConfig


@dataclass
class DiffLMOutput(ModelOutput):
    """
    Output of [`DiffLMModel`].

    Args:
        loss (`torch.FloatTensor` of shape `()`): Reconstruction + β · KL, in nats per record, mean over the batch.
        reconstruction_loss (`torch.FloatTensor` of shape `()`): −log p(x|z), in nats per record.
        kl_loss (`torch.FloatTensor` of shape `()`): KL(q(z|x) ‖ N(0, I)), in nats per record.
        latents (`torch.FloatTensor` of shape `(batch_size, latent_size)`): The z that the loss is for.
        posterior_mean (`torch.FloatTensor` of shape `(batch_size, latent_size)`): μ(x).
        posterior_logvar (`torch.FloatTensor` of shape `(batch_size, latent_size)`): log σ²(x).
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    kl_loss: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    posterior_mean: torch.FloatTensor | None = None
    posterior_logvar: torch.FloatTensor | None = None


class DiffLMModel(DiffLMPreTrainedModel):
    """
    The variational autoencoder of DiffLM (arXiv 2411.03250, section 3.2): q(z|x) from a transformer's mean-pooled
    state, p(x|z) by a [`DiffLMForCausalLM`]. With `config.encode_with_decoder` that transformer is the causal LM,
    which knows the language of the records: its states are read without LoRA layers and without gradients.

    Args:
        config ([`DiffLMConfig`]): The configuration.
        encoder (`PreTrainedModel`, *optional*):
            A model of `config.encoder_config`; a new one when not given. Of an encoder-decoder, the encoder is used.
        lm (`PreTrainedModel`, *optional*): A causal LM of `config.decoder_config`; a new one when not given.
    """

    lm_module = "decoder.lm"
    _keys_to_ignore_on_load_unexpected = [r"^encoder\.pooler\."]  # which some checkpoints have, and nothing reads

    def __init__(
        self, config: DiffLMConfig, encoder: PreTrainedModel | None = None, lm: PreTrainedModel | None = None
    ):
        super().__init__(config)
        self.encoder = None
        if not config.encode_with_decoder:
            encoder = AutoModel.from_config(config.encoder_config) if encoder is None else encoder
            config.encoder_config = encoder.config
            self.encoder = encoder.get_encoder() if hasattr(encoder, "decoder") else encoder
            if "add_pooling_layer" in signature(type(self.encoder).__init__).parameters:
                # It would be of the first token alone, and posteriors are of the mean of all.
                self.encoder.pooler = None
        size = (config if self.encoder is None else self.encoder.config).get_text_config().hidden_size
        self.to_posterior = build_posterior(config.posterior, size, config.latent_size)
        self.decoder = DiffLMForCausalLM(config, lm)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(self.to_posterior, StandardizedPosterior):
            self.to_posterior.init_weights(module)

    def _set_lm(self, lm: PreTrainedModel) -> None:
        self.decoder._set_lm(lm)
        self._keys_to_ignore_on_save = {f"decoder.{name}" for name in self.decoder._keys_to_ignore_on_save}

    def _freeze(self) -> None:
        self.decoder._freeze()

    def get_input_embeddings(self) -> nn.Module:
        return (self.encoder or self.decoder).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        (self.encoder or self.decoder).set_input_embeddings(value)

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder: str | None,
        decoder: str,
        freeze_decoder: bool = True,
        revision: str = "main",
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        lora: LoraConfig | dict[str, Any] | None = None,
        dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
        trust_remote_code: bool = False,
        **kwargs,
    ) -> DiffLMModel:
        """
        Puts two pretrained models together; what lies between them starts from scratch. Checkpoints of the result hold
        a frozen causal LM by its name and commit alone, and its LoRA layers whole.

        What will be trained is loaded in float32, in which small updates do not get lost; a frozen causal LM in the
        dtype that it was saved in.

        Args:
            encoder (`str`, *optional*):
                Hub id or folder of a model that `AutoModel` loads. Not given, the causal LM encodes, too.
            decoder (`str`):
                Hub id or folder of a model that `AutoModelForCausalLM` loads, or a GGUF file of one, whose weights
                are then dequantized.
            freeze_decoder (`bool`, defaults to `True`): Leave the causal LM as it is, as the paper does.
            revision (`str`, defaults to `"main"`): Revision of the decoder.
            bos_token_id, eos_token_id (`int`, *optional*):
                Ids that records start and end with, where they are not those of the decoder's configuration.
            lora ([`~peft.LoraConfig`] or `dict`, *optional*):
                LoRA layers for the frozen causal LM, to be trained, or their fields: `{"r": 8}`. They are in all
                linear layers but the head where `target_modules` does not say otherwise.
            dtype (`str` or `torch.dtype`, *optional*): Of the causal LM, in place of the one above.
            attn_implementation (`str`, *optional*):
                How the causal LM computes attention: `"eager"`, `"sdpa"` or `"flash_attention_2"`.
            quantization_config (`QuantizationConfigMixin`, *optional*):
                Loads the frozen causal LM in fewer bits: a `BitsAndBytesConfig`, say, where bitsandbytes is installed.
            trust_remote_code (`bool`, defaults to `False`):
                Run code that the repositories of both bring with them.
            kwargs (*optional*):
                Further fields of [`DiffLMConfig`]. Not given, `posterior` is `"standardized"`, and
                `injection_initializer_range` 0.3/√d_z, but for `injection="input_embed"`.

        Raises:
            `ValueError`: for LoRA layers or quantization of a causal LM that is not frozen.
        """
        if not freeze_decoder:
            for name, value in (("lora", lora), ("quantization_config", quantization_config)):
                if value is not None:
                    raise ValueError(f"{name} is for a frozen causal LM; leave it out, or set freeze_decoder=True")
        if lora is not None:
            kwargs["lora"] = lora_fields(lora)
        if encoder is None:
            kwargs["encode_with_decoder"] = True
        else:
            encoder = AutoModel.from_pretrained(
                encoder, dtype=torch.float32, use_safetensors=True, trust_remote_code=trust_remote_code
            )
            kwargs["encoder_config"] = encoder.config
        revision = resolve_revision(source_of(decoder)[0], revision)
        lm = load_causal_lm(
            decoder,
            revision=revision,
            dtype=dtype or ("auto" if freeze_decoder else torch.float32),
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
            trust_remote_code=trust_remote_code,
        )
        for name, token_id in (("bos_token_id", bos_token_id), ("eos_token_id", eos_token_id)):
            if token_id is not None:
                setattr(lm.config, name, token_id)
        if freeze_decoder:
            is_here = os.path.exists(decoder)
            kwargs["base_model"] = os.path.abspath(decoder) if is_here else decoder
            # The commit, unless the Hub was out of reach and the revision came from the cache.
            kwargs["base_revision"] = None if is_here else getattr(revision, "resolved", revision)
        kwargs.setdefault("posterior", "standardized")
        config = DiffLMConfig(decoder_config=lm.config, freeze_decoder=freeze_decoder, **kwargs)
        if "injection_initializer_range" not in kwargs:
            config.injection_initializer_range = document_initializer_range(config.latent_size, config.injection)
        # transformers puts quantized models on the GPU.
        return cls(config, encoder, lm).to(lm.device).eval()

    @property
    def reads_frozen_states(self) -> bool:
        """Whether records are encoded from states that training leaves as they are: those of a frozen causal LM."""
        return self.encoder is None and self.config.freeze_decoder

    def pooled_states(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        The mean of each record's states, in float32: the small differences between the means of long records would
        get lost in bfloat16.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Records, in the encoder's ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, hidden_size)`.
        """
        if self.encoder is None:
            # What reading takes, an LM knows that writes. LoRA layers learn to write, and states that move with them
            # leave the posterior behind.
            with torch.no_grad(), without_lora(self.decoder.lm):
                lm = self.decoder.lm.base_model
                hidden = lm(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        else:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        hidden = hidden.float()
        if attention_mask is None:
            return hidden.mean(1)
        weights = attention_mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)

    def encode(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        pooled_states: torch.Tensor | None = None,
    ) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        """
        The posterior q(z|x) = N(μ(x), diag σ²(x)).

        Args:
            input_ids, attention_mask: As of [`~DiffLMModel.pooled_states`].
            pooled_states (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*):
                What it returns for these records, where that is known.

        Returns:
            μ(x) and log σ²(x), each `torch.FloatTensor` of shape `(batch_size, latent_size)`.
        """
        if pooled_states is None:
            pooled_states = self.pooled_states(input_ids, attention_mask)
        return self.to_posterior(pooled_states).float().chunk(2, dim=-1)

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        allowed: ChoiceSets | None = None,
        is_known: torch.BoolTensor | None = None,
        pooled_states: torch.FloatTensor | None = None,
        beta: float = 1.0,
        free_bits: float = 0.0,
    ) -> DiffLMOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Records, in the encoder's ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.
            decoder_input_ids (`torch.LongTensor` of shape `(batch_size, decoder_sequence_length)`, *optional*):
                The same records in the decoder's ids, where its vocabulary is another.
            decoder_attention_mask (`torch.Tensor` of the same shape, *optional*): 0 for padding.
            labels (`torch.LongTensor` of the same shape, *optional*):
                The decoder's ids that count, −100 for those that do not.
            allowed ([`~difflm_hf.records.grammar.ChoiceSets`], *optional*):
                The ids that a grammar allows in the places of labels, as [`DiffLMForCausalLM.negative_log_likelihood`]
                takes them.
            is_known (`torch.BoolTensor` of shape `(num_told, num_positions)`, *optional*):
                The ids that the decoder is told, as it takes them.
            pooled_states (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*):
                Those of the records, where they are known.
            beta (`float`, defaults to 1.0): Weight of the KL term.
            free_bits (`float`, defaults to 0.0):
                Nats of each latent dimension's mean KL that cost nothing (arXiv 1606.04934, section 4).
        """
        if decoder_input_ids is None:
            decoder_input_ids, decoder_attention_mask = input_ids, attention_mask
        mean, logvar = self.encode(input_ids, attention_mask, pooled_states)
        latents = mean + randn_like(mean) * (0.5 * logvar).exp()
        nll = self.decoder.negative_log_likelihood(
            decoder_input_ids, latents, decoder_attention_mask, labels, allowed, is_known
        )
        kl = kl_of_posterior(mean, logvar).mean(0)
        if self.training:
            kl = mean_of_all(kl)  # free bits are of the whole batch
        reconstruction = nll.mean()
        return DiffLMOutput(
            loss=reconstruction + beta * kl.clamp(min=free_bits).sum(),
            reconstruction_loss=reconstruction,
            kl_loss=kl.sum(),
            latents=latents,
            posterior_mean=mean,
            posterior_logvar=logvar,
        )


def kl_of_posterior(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = (μ² + σ² − 1 − ln σ²) / 2 of each dimension, in nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


AutoModel.register(DiffLMConfig, DiffLMModel)
