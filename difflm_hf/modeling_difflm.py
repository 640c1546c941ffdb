"""DiffLM: a variational autoencoder whose decoder is a causal LM that latents are injected into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    LogitsProcessor,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .configuration_difflm import DiffLMConfig
from .injection import build_injection


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


class DiffLMPreTrainedModel(PreTrainedModel):
    config_class = DiffLMConfig
    base_model_prefix = "difflm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class DiffLMForCausalLM(DiffLMPreTrainedModel, GenerationMixin):
    """
    Any causal LM, with latents injected: p(x|z).

    It does all that `generate` does (sampling, beam search, static caches, left padding); `latents` are one more input.
    """

    def __init__(self, config: DiffLMConfig):
        super().__init__(config)
        self.lm = AutoModelForCausalLM.from_config(config.decoder_config)
        self.injection = build_injection(config)
        self.generation_config = self.lm.generation_config
        self.lm.requires_grad_(not config.freeze_decoder)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.lm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm.get_output_embeddings()

    def _inject(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.FloatTensor | None,
        latents: torch.FloatTensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        past_key_values: Cache | None,
    ) -> dict[str, Any]:
        """The LM's inputs, with virtual tokens before the real ones in embeddings, mask and positions."""
        if latents is None and (past_key_values is None or self.injection.every_token):
            raise ValueError("`latents` are missing: pass a tensor of shape (batch_size, latent_size)")
        num_virtual = self.injection.num_virtual_tokens
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        sequence_length = inputs_embeds.shape[1]
        if latents is not None:
            if latents.shape[-1] != self.config.latent_size or len(latents) != len(inputs_embeds):
                raise ValueError(
                    f"`latents` of shape {tuple(latents.shape)} do not fit {len(inputs_embeds)} sequences and "
                    f"latent_size={self.config.latent_size}"
                )
            inputs_embeds, past_key_values = self.injection(latents, inputs_embeds, past_key_values)
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (num_virtual, 0), value=1)
        if position_ids is not None:
            position_ids = position_ids + num_virtual
            if (num_new := inputs_embeds.shape[1] - sequence_length) > 0:
                virtual = torch.arange(num_new, device=position_ids.device).expand(len(position_ids), -1)
                position_ids = torch.cat([virtual, position_ids], dim=1)
        return {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
        }

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        latents: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): Real tokens.
            attention_mask (`torch.Tensor` of shape `(batch_size, past_length + sequence_length)`, *optional*):
                Of real tokens alone; virtual ones are always attended to.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Of real tokens, counted from 0.
            past_key_values (`Cache`, *optional*): As for any causal LM.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                In place of `input_ids`.
            latents (`torch.FloatTensor` of shape `(batch_size, latent_size)`, *optional*):
                Latents z, with the first tokens of a sequence; where tokens continue a cache that has seen them, leave
                them out (except with `injection="input_embed"`, which needs them for every token).
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Ids whose mean negative log-likelihood is the loss; −100 is ignored.
            use_cache (`bool`, *optional*): Whether to return `past_key_values`.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): Last positions to compute logits for; 0 means all.

        Returns:
            `CausalLMOutputWithPast`, with `logits` of shape `(batch_size, sequence_length, vocab_size)`: those of real
            tokens alone.

        Raises:
            `ValueError`: when latents are missing or of another shape.
        """
        inputs = self._inject(input_ids, inputs_embeds, latents, attention_mask, position_ids, past_key_values)
        outputs = self.lm(**inputs, use_cache=use_cache, logits_to_keep=logits_to_keep, return_dict=True, **kwargs)
        num_tokens = (inputs_embeds if inputs_embeds is not None else input_ids).shape[1]
        outputs.logits = outputs.logits[:, -num_tokens:]
        if labels is not None:
            outputs.loss = self.loss_function(
                logits=outputs.logits, labels=labels, vocab_size=outputs.logits.shape[-1]
            )
        return outputs

    # generate()

    def prepare_inputs_for_generation(self, input_ids, is_first_iteration=False, **kwargs):
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and inputs.get("use_cache", True) and not self.injection.every_token:
            inputs["latents"] = None
        return inputs

    @staticmethod
    def create_masks_for_generate(attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor | None:
        # For static caches `generate` would make the 4D mask here, without virtual tokens. The LM makes it itself.
        return attention_mask

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        length = max_cache_length + self.injection.num_virtual_tokens
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, length
        )

    # Records

    def _hidden_states(self, input_ids, latents, attention_mask=None, past_key_values=None, use_cache=False):
        """Last hidden states of real tokens, before the head, and the cache."""
        inputs = self._inject(input_ids, None, latents, attention_mask, None, past_key_values)
        outputs = self.lm.base_model(**inputs, use_cache=use_cache, return_dict=True)
        return outputs.last_hidden_state[:, -input_ids.shape[1] :], outputs.past_key_values

    def negative_log_likelihood(
        self, input_ids: torch.LongTensor, latents: torch.FloatTensor, attention_mask: torch.Tensor | None = None
    ) -> torch.FloatTensor:
        """
        −log p(x|z) of each record.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Records from BOS on, right-padded.
            latents (`torch.FloatTensor` of shape `(batch_size, latent_size)`): Latents z.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.

        Returns:
            `torch.FloatTensor` of shape `(batch_size,)`: nats per record. With `config.position_ranges`,
            probabilities are over the ids that the format allows at each position.
        """
        targets = input_ids[:, 1:]
        if attention_mask is not None:
            targets = targets.masked_fill(attention_mask[:, 1:] == 0, -100)
        if self.config.position_ranges is None:
            logits = self(input_ids, latents=latents, attention_mask=attention_mask, use_cache=False).logits
            return _token_nll(logits[:, :-1], targets).sum(1)
        # Padding is on the right, where causal attention never looks back at it.
        inputs = input_ids[:, :-1]
        if self.training and self.config.token_dropout:
            dropped = torch.rand(inputs.shape, device=inputs.device) < self.config.token_dropout
            dropped[:, 0] = False
            inputs = inputs.masked_fill(dropped, self.lm.config.pad_token_id)
        hidden, _ = self._hidden_states(inputs, latents)
        num_fixed = len(self.config.position_ranges) - (self.config.num_texts > 0)
        starts, ends = torch.tensor(self.config.position_ranges, device=input_ids.device).T[:, :num_fixed]
        ids = starts[:, None] + torch.arange((ends - starts).max(), device=input_ids.device)
        head = self.get_output_embeddings().weight
        # One batched product over positions, each with the head's rows for its own range.
        logits = torch.einsum("bph,pkh->bpk", hidden[:, :num_fixed], F.embedding(ids.clamp(max=len(head) - 1), head))
        logits = logits.float().masked_fill(ids >= ends[:, None], -torch.inf)
        nll = _token_nll(logits, targets[:, :num_fixed] - starts).sum(1)
        if self.config.num_texts:
            start, end = self.config.position_ranges[-1]
            texts = targets[:, num_fixed:]
            logits = F.linear(hidden[:, num_fixed:], head[start:end])
            nll = nll + _token_nll(logits, texts.where(texts < 0, texts - start)).sum(1)
        return nll

    @torch.no_grad()
    def sample_records(
        self,
        latents: torch.FloatTensor,
        uniforms: torch.FloatTensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> torch.LongTensor:
        """
        Samples records.

        With `config.position_ranges` an id is drawn from those that the format allows, so that every record is valid;
        else records end with EOS.

        Args:
            latents (`torch.FloatTensor` of shape `(batch_size, latent_size)`): Latents z.
            uniforms (`torch.FloatTensor` of shape `(batch_size, max_record_length - 1)`):
                Uniform random numbers in [0, 1), one for each id: all the randomness there is, so that a record does
                not depend on the batch it is in.
            temperature (`float`, defaults to 1.0): Divides the logits; 0 takes the likeliest id.
            top_p (`float`, defaults to 1.0): Samples from the likeliest ids that together have this probability.

        Returns:
            `torch.LongTensor` of shape `(batch_size, sequence_length)`: ids from BOS on, right-padded.
        """
        uniforms = uniforms.to(latents.device)
        if self.config.position_ranges is None:
            sampler = InverseTransformSampler(uniforms, temperature, top_p)
            return self.generate(
                latents=latents, max_new_tokens=uniforms.shape[1], do_sample=False, logits_processor=[sampler]
            )
        config, head = self.config, self.get_output_embeddings().weight
        bos, eos, pad = (getattr(self.lm.config, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        num_fixed = len(config.position_ranges) - (config.num_texts > 0)
        num_open = torch.full((len(latents),), config.num_texts, device=latents.device)
        ids = [torch.full((len(latents), 1), bos, device=latents.device)]
        cache = None
        for position in range(config.max_record_length - 1):
            first = position == 0 or self.injection.every_token
            hidden, cache = self._hidden_states(
                ids[-1], latents if first else None, past_key_values=cache, use_cache=True
            )
            start, end = config.position_ranges[min(position, len(config.position_ranges) - 1)]
            logits = F.linear(hidden[:, -1], head[start:end]).float()
            next_ids = start + _sample(logits, uniforms[:, position], temperature, top_p)
            if position >= num_fixed:
                next_ids = next_ids.where(num_open > 0, pad)
                num_open = num_open - (next_ids == eos)
            ids.append(next_ids[:, None])
            if position >= num_fixed - 1 and not (num_open > 0).any():
                break
        return torch.cat(ids, dim=1)


class DiffLMModel(DiffLMPreTrainedModel):
    """
    The variational autoencoder of DiffLM (arXiv 2411.03250, section 3.2): q(z|x) from a transformer's mean-pooled
    state, p(x|z) by a [`DiffLMForCausalLM`].
    """

    def __init__(self, config: DiffLMConfig):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder_config)
        self.to_posterior = nn.Linear(config.encoder_config.hidden_size, 2 * config.latent_size)
        self.decoder = DiffLMForCausalLM(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    @classmethod
    def from_encoder_decoder_pretrained(
        cls, encoder: str, decoder: str, freeze_decoder: bool = True, revision: str = "main", **kwargs
    ) -> DiffLMModel:
        """
        Puts two pretrained models together; what lies between them starts from scratch.

        Args:
            encoder (`str`): Hub id or folder of a model that `AutoModel` loads.
            decoder (`str`): Hub id or folder of a model that `AutoModelForCausalLM` loads.
            freeze_decoder (`bool`, defaults to `True`): Leave the causal LM as it is, as the paper does.
            revision (`str`, defaults to `"main"`): Revision of the decoder.
            kwargs (*optional*): Further fields of [`DiffLMConfig`].
        """
        config = DiffLMConfig(
            encoder_config=AutoConfig.from_pretrained(encoder),
            decoder_config=AutoConfig.from_pretrained(decoder, revision=revision),
            freeze_decoder=freeze_decoder,
            **kwargs,
        )
        model = cls(config)
        model.encoder = AutoModel.from_pretrained(encoder)
        model.decoder.lm = AutoModelForCausalLM.from_pretrained(decoder, revision=revision)
        model.decoder.generation_config = model.decoder.lm.generation_config
        model.decoder.lm.requires_grad_(not freeze_decoder)
        return model

    def encode(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        """
        The posterior q(z|x) = N(μ(x), diag σ²(x)).

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Records, in the encoder's ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.

        Returns:
            μ(x) and log σ²(x), each `torch.FloatTensor` of shape `(batch_size, latent_size)`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        mean, logvar = self.to_posterior(pooled).float().chunk(2, dim=-1)
        return mean, logvar

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
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
            beta (`float`, defaults to 1.0): Weight of the KL term.
            free_bits (`float`, defaults to 0.0):
                Nats of each latent dimension's mean KL that cost nothing (arXiv 1606.04934, section 4).
        """
        if decoder_input_ids is None:
            decoder_input_ids, decoder_attention_mask = input_ids, attention_mask
        mean, logvar = self.encode(input_ids, attention_mask)
        latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        nll = self.decoder.negative_log_likelihood(decoder_input_ids, latents, decoder_attention_mask)
        # KL(N(μ, σ²) ‖ N(0, 1)) = (μ² + σ² − 1 − ln σ²) / 2 for each dimension.
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)
        reconstruction = nll.mean()
        return DiffLMOutput(
            loss=reconstruction + beta * kl.clamp(min=free_bits).sum(),
            reconstruction_loss=reconstruction,
            kl_loss=kl.sum(),
            latents=latents,
            posterior_mean=mean,
            posterior_logvar=logvar,
        )


def _token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−log softmax(logits)[target] of each token, 0 where the target is negative."""
    return F.cross_entropy(
        logits.float().transpose(1, 2), targets.clamp(min=-100), reduction="none", ignore_index=-100
    )


def _sample(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.LongTensor:
    """One id for each row of logits: the cumulative distribution, inverted at a uniform number."""
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, _ = probs.sort(-1, descending=True)
        num_kept = (ordered.cumsum(-1) - ordered < top_p).sum(-1, keepdim=True)
        probs = probs.where(probs >= ordered.gather(-1, num_kept - 1), 0)
    cumulative = probs.cumsum(-1)
    # The last id with any probability, so that rounding cannot lead past it.
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    targets = uniforms[:, None].to(probs) * cumulative[:, -1:]
    return torch.minimum(torch.searchsorted(cumulative, targets, right=True).squeeze(-1), last)


class InverseTransformSampler(LogitsProcessor):
    """
    Sampling from given random numbers, inside `generate`: leaves one id for greedy decoding to take.

    Args:
        uniforms (`torch.FloatTensor` of shape `(batch_size, max_new_tokens)`): Uniform random numbers in [0, 1).
        temperature (`float`): Divides the logits; 0 takes the likeliest id.
        top_p (`float`): Samples from the likeliest ids that together have this probability.
    """

    def __init__(self, uniforms: torch.FloatTensor, temperature: float, top_p: float):
        self.uniforms = uniforms
        self.temperature, self.top_p = temperature, top_p
        self.step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        ids = _sample(scores, self.uniforms[:, self.step], self.temperature, self.top_p)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, ids[:, None], 0.0)


AutoConfig.register("difflm", DiffLMConfig)
AutoModel.register(DiffLMConfig, DiffLMModel)
AutoModelForCausalLM.register(DiffLMConfig, DiffLMForCausalLM)
