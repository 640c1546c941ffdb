"""A causal LM that latents are injected into: the decoder of DiffLM."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Cache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import (
    initialization as init,
)
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .base_model import BaseModelStub
from .configuration_difflm import DiffLMConfig
from .control.allowed import AllowedIds
from .injection import build_injection, layer_devices
from .known_fields import KnownFields
from .likelihood import choice_nll, limited_nll, row_nll, token_nll
from .lora import add_lora, lora_parameters
from .modeling_running_sum import RunningSumForCausalLM  # noqa: F401 (AutoModelForCausalLM learns of it)
from .pretrained_model import DiffLMPreTrainedModel
from .records.grammar import ChoiceSets, Grammar
from .records.layout import LevelLayout, RecordLayout
from .sampling import sample_by_grammar, sample_rows, sample_texts


class DiffLMForCausalLM(DiffLMPreTrainedModel, GenerationMixin):
    """
    Any causal LM, with latents injected: p(x|z).

    It does all that `generate` does: sampling, beam search, static caches, left padding. `latents` are one more input.

    Args:
        config ([`DiffLMConfig`]): The configuration.
        lm (`PreTrainedModel`, *optional*): A causal LM of `config.decoder_config`; a new one when not given.
    """

    lm_module = "lm"
    # Of a checkpoint of the whole autoencoder, the decoder is loaded.
    _keys_to_ignore_on_load_unexpected = [r"^encoder\.", r"^to_posterior\."]

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> DiffLMForCausalLM:
        """As [`DiffLMPreTrainedModel.from_pretrained`], also of a checkpoint of a whole [`DiffLMModel`]."""
        loaded = super().from_pretrained(*args, **{"key_mapping": {r"^decoder\.": ""}, **kwargs})
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.generation_config._from_model_config:
            model.generation_config = GenerationConfig.from_model_config(model.lm.config)
        return loaded

    def __init__(self, config: DiffLMConfig, lm: PreTrainedModel | None = None):
        super().__init__(config)
        if config.lora is not None and not config.freeze_decoder:
            raise ValueError(f"lora={config.lora} is for a frozen causal LM; set freeze_decoder=True, or lora=None")
        lm = AutoModelForCausalLM.from_config(config.decoder_config) if lm is None else lm
        if config.lora is not None and not isinstance(lm, BaseModelStub) and not lora_parameters(lm):
            add_lora(lm, config.lora)
        self._set_lm(lm)
        self.injection = build_injection(config)
        if config.condition_size:
            self.known_fields = KnownFields(config)
        # Not the LM's own, whose temperature and penalties are for chat: p(x|z) has none.
        self.generation_config = GenerationConfig.from_model_config(self.lm.config)
        self._freeze()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.injection_initializer_range
        if module is self.injection.projection and std is not None:
            init.normal_(module.weight, 0, std)

    def _set_lm(self, lm: PreTrainedModel) -> None:
        self.lm = lm
        self._is_head_plain: bool | None = None  # not known yet
        self.config.decoder_config = lm.config  # one object, which cannot get out of step
        for module in lm.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # For inference on CPUs bitsandbytes packs its 4 bits anew, and gradients are 0 from then on.
                module.support_avx512bf16_for_cpu = False
        if self.config.base_model is not None:
            own = lora_parameters(lm)
            self._keys_to_ignore_on_save = {f"lm.{name}" for name in lm.state_dict() if name not in own}

    def _freeze(self) -> None:
        if self.config.freeze_decoder:
            self.lm.requires_grad_(False)
            for parameter in lora_parameters(self.lm).values():
                parameter.requires_grad_(True)

    def get_input_embeddings(self) -> nn.Module:
        return self.lm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.lm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm.set_output_embeddings(new_embeddings)

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
        is_started = past_key_values is not None and past_key_values.is_initialized
        if latents is None and (self.injection.every_token or not is_started):
            raise ValueError("`latents` are missing: pass a tensor of shape (batch_size, latent_size)")
        num_virtual = self.injection.num_virtual_tokens
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        sequence_length = inputs_embeds.shape[1]
        if latents is not None:
            latents = self.with_condition(latents)
            if latents.shape != (len(inputs_embeds), self.config.injected_size):
                raise ValueError(
                    f"`latents` of shape {tuple(latents.shape)} do not fit {len(inputs_embeds)} sequences and "
                    f"latent_size={self.config.latent_size}"
                )
            # Found by a walk through the LM, which is too long for every token.
            devices = [] if self.injection.every_token else layer_devices(self.lm)
            inputs_embeds, past_key_values = self.injection(latents, inputs_embeds, past_key_values, devices)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            if position_ids is None:
                # Where padding is on the left, it lies between the virtual tokens and the real ones.
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -sequence_length:]
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

    @can_return_tuple
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
        num_tokens = (inputs_embeds if inputs_embeds is not None else input_ids).shape[1]
        if isinstance(logits_to_keep, torch.Tensor):
            logits_to_keep = logits_to_keep + inputs["inputs_embeds"].shape[1] - num_tokens
        else:
            logits_to_keep = min(logits_to_keep or num_tokens, num_tokens)
        outputs = self.lm(**inputs, use_cache=use_cache, logits_to_keep=logits_to_keep, **kwargs)
        logits = outputs.logits
        return CausalLMOutputWithPast(
            loss=None if labels is None else self.loss_function(logits, labels, logits.shape[-1], **kwargs),
            logits=logits,
            # A memory is in a cache even where the caller wants none.
            past_key_values=None if use_cache is False else outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    # generate()

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        past_key_values=None,
        inputs_embeds=None,
        is_first_iteration=False,
        **kwargs,
    ):
        is_started = past_key_values is not None and (not is_first_iteration or past_key_values.get_seq_length() > 0)
        if is_started and is_first_iteration and next_sequence_length is not None:
            # `generate` goes on from a cache of the caller's, and took its virtual tokens for real ones.
            next_sequence_length += self.injection.num_virtual_tokens
        if is_started and not self.injection.every_token:
            kwargs["latents"] = None
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def create_masks_for_generate(
        self, config, attention_mask: torch.Tensor | None, is_first_iteration: bool = False, **kwargs
    ) -> torch.Tensor | dict[str, torch.Tensor] | None:
        # For static caches `generate` makes 4D masks in advance. As long as the cache may lack the virtual tokens,
        # only the LM itself can.
        if is_first_iteration:
            return attention_mask
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (self.injection.num_virtual_tokens, 0), value=1)
        create = getattr(self.lm, "create_masks_for_generate", create_masks_for_generate)
        return create(self.lm.config, attention_mask=attention_mask, is_first_iteration=False, **kwargs)

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        length = max_cache_length + self.injection.num_virtual_tokens
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, length
        )

    # Records

    def with_condition(self, latents: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """
        Latents with what is known of each record, as they are injected.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, latent_size)`): Latents z. Such as have it already stay.
            condition (`torch.Tensor` of shape `(batch_size, condition_size)`, *optional*):
                What [`KnownFields`] says; nothing is known when not given.

        Returns:
            `torch.Tensor` of shape `(batch_size, latent_size + condition_size)`.
        """
        if condition is not None:
            return torch.cat([latents, condition.to(latents.dtype)], dim=1)
        is_bare = latents.ndim == 2 and latents.shape[1] == self.config.latent_size
        return F.pad(latents, (0, self.config.condition_size)) if is_bare else latents

    @torch.no_grad()
    def _has_plain_head(self) -> bool:
        """Whether logits are what the head makes of the last hidden states; some LMs scale or cap them."""
        if self._is_head_plain is None:
            ids = torch.arange(8, device=self.lm.device)[None]  # not padding alone, whose embeddings may be 0
            with torch.random.fork_rng():  # as if nothing had been
                outputs = self.lm(ids, output_hidden_states=True, use_cache=False)
            logits = self.get_output_embeddings()(outputs.hidden_states[-1])
            self._is_head_plain = torch.equal(logits, outputs.logits)
        return self._is_head_plain

    def hidden_states(self, input_ids, latents, past_key_values=None, use_cache=False, attention_mask=None):
        """Last hidden states of real tokens, before the head, and the cache."""
        inputs = self._inject(input_ids, None, latents, attention_mask, None, past_key_values)
        outputs = self.lm.base_model(**inputs, use_cache=use_cache)
        return outputs.last_hidden_state[:, -input_ids.shape[1] :], outputs.past_key_values

    def last_logits(
        self,
        input_ids: torch.LongTensor,
        latents: torch.Tensor | None,
        past_key_values: Cache,
        attention_mask: torch.Tensor,
        rows: list[int],
    ) -> torch.Tensor:
        """Logits of what follows the last of the given tokens, in some rows, of shape `(num_rows, vocab_size)`."""
        if self._has_plain_head():
            hidden, _ = self.hidden_states(input_ids, latents, past_key_values, True, attention_mask)
            # Of a batch of sequences the product would take a copy of the head for each.
            return self.get_output_embeddings()(hidden[rows, -1])
        inputs = {"latents": latents, "past_key_values": past_key_values, "attention_mask": attention_mask}
        return self(input_ids, **inputs, use_cache=True, logits_to_keep=1).logits[rows, -1]

    def range_logits(self, hidden: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Logits of the ids `[start, end)` alone."""
        head = self.get_output_embeddings()
        return F.linear(hidden, head.weight[start:end], None if head.bias is None else head.bias[start:end]).float()

    def negative_log_likelihood(
        self,
        input_ids: torch.LongTensor,
        latents: torch.FloatTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        allowed: ChoiceSets | None = None,
        is_known: torch.BoolTensor | None = None,
    ) -> torch.FloatTensor:
        """
        −log p(x|z) of each record, or of what is not known of it.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Records from BOS on, right-padded.
            latents (`torch.FloatTensor` of shape `(batch_size, latent_size)`): Latents z.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                The ids that count, −100 for those that do not, such as what a grammar forces. Not given, all count
                that are no padding.
            allowed ([`~difflm_hf.records.grammar.ChoiceSets`], *optional*):
                Which ids a grammar allows in the place of each label that counts, in their order, as
                [`Grammar.allowed`] says it. Not given, all of the vocabulary.
            is_known (`torch.BoolTensor` of shape `(num_told, num_positions)`, *optional*):
                With `config.condition_size`: which ids of the first records are known, and do not count. They are
                those after BOS and before the texts.

        Returns:
            `torch.FloatTensor` of shape `(batch_size,)`: nats per record. Probabilities are those that records are
            sampled by: with `config.position_ranges`, over the ids that the format allows at each position, and with
            `allowed`, over those that the grammar does.
        """
        # The LM needs no mask: padding is on the right, where causal attention never looks back at it.
        inputs, targets = input_ids[:, :-1], (input_ids if labels is None else labels)[:, 1:]
        if attention_mask is not None:
            targets = targets.masked_fill(attention_mask[:, 1:] == 0, -100)
        if self.config.position_ranges is None:
            counted = targets >= 0
            if self._has_plain_head():
                # Of JSON rows, most tokens are forced: the head, the largest layer of a small LM, leaves them out.
                hidden, _ = self.hidden_states(inputs, latents)
                of_choices = choice_nll(self.get_output_embeddings(), hidden[counted], targets[counted], allowed)
            else:
                logits = self(inputs, latents=latents, use_cache=False).logits[counted]
                of_choices = limited_nll(logits, targets[counted], allowed)
            nll = of_choices.new_zeros(targets.shape)
            nll[counted] = of_choices
            return nll.sum(1)
        if is_known is not None:
            condition = self.known_fields(input_ids[:, 1 : 1 + is_known.shape[1]], is_known)
            latents = self.with_condition(latents, condition)
            is_known = F.pad(is_known, (0, 0, 0, len(latents) - len(is_known)))
        layout = self.layout
        if layout is not None:
            inputs = inputs[:, : len(self.config.fixed_ranges)]
        hidden, cache = self.hidden_states(inputs, latents, use_cache=layout is not None)
        nll, head = hidden.new_zeros(len(hidden), dtype=torch.float32), self.get_output_embeddings()
        if num_fixed := len(self.config.fixed_ranges):
            is_free = None if is_known is None else ~is_known
            root = LevelLayout(self.config.fixed_ranges) if layout is None else layout.levels[0]
            nll = row_nll(head, hidden[:, :num_fixed], targets[:, :num_fixed], root, is_free)
        if layout is not None:
            rows = layout.unpack(input_ids)
            of_items = self.lm.model.item_states(rows, self.sums(cache, input_ids[:, num_fixed]))
            for level, of_level, states in zip(layout.levels[1:], rows[1:], of_items):
                of_rows = row_nll(head, states.transpose(0, 1), of_level.ids, level)
                nll = nll.index_add(0, of_level.records, of_rows)
        if self.config.num_texts:
            start, end = self.config.position_ranges[-1]
            texts = targets[:, num_fixed:]
            logits = self.range_logits(hidden[:, num_fixed:], start, end)
            nll = nll + token_nll(logits, texts.where(texts < 0, texts - start)).sum(1)
        return nll

    @property
    def layout(self) -> RecordLayout | None:
        """Where the tokens of records with lists stand; `None` for those without."""
        return getattr(self.lm.base_model, "layout", None)

    def sums(self, cache: Cache, last_ids: torch.LongTensor) -> torch.Tensor:
        """The sums in a cache, and the last ids, which it has not, of shape `(batch_size, embedding_size)`."""
        return cache.layers[0].values[:, 0, 0] + self.get_input_embeddings()(last_ids).float()

    @torch.no_grad()
    def sample_records(
        self,
        latents: torch.FloatTensor,
        uniforms: torch.FloatTensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        grammar: Grammar | None = None,
    ) -> torch.LongTensor:
        """
        Samples records.

        With `config.position_ranges` or a grammar, an id is drawn from those that the format allows, so that every
        record is valid; else records end with EOS.

        Args:
            latents (`torch.FloatTensor` of shape `(batch_size, latent_size)`): Latents z.
            uniforms (`torch.FloatTensor` of shape `(batch_size, config.num_uniforms)`):
                Uniform random numbers in [0, 1), one for each id: all the randomness there is, so that a record does
                not depend on the batch it is in.
            temperature (`float`, defaults to 1.0): Divides the logits; 0 takes the likeliest id.
            top_p (`float`, defaults to 1.0): Samples from the likeliest ids that together have this probability.
            grammar ([`Grammar`], *optional*): What a record may look like, for an LM with its own vocabulary.

        Returns:
            `torch.LongTensor` of shape `(batch_size, sequence_length)`: ids from BOS on, right-padded.
        """
        uniforms = uniforms.to(latents.device)
        if grammar is not None:
            return sample_by_grammar(self, latents, uniforms, temperature, top_p, grammar)
        if self.config.position_ranges is None:
            return sample_texts(self, latents, uniforms, temperature, top_p)
        return sample_rows(self, latents, uniforms, temperature, top_p)[0]

    @torch.no_grad()
    def sample_allowed(
        self,
        latents: torch.FloatTensor,
        uniforms: torch.FloatTensor,
        allowed: AllowedIds,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> tuple[torch.LongTensor, torch.FloatTensor, torch.FloatTensor]:
        """
        Samples rows of the ids that conditions allow.

        Args:
            latents, uniforms, temperature, top_p: As of [`~DiffLMForCausalLM.sample_records`].
            allowed ([`AllowedIds`]): The ids.

        Returns:
            Ids from BOS on, `torch.LongTensor` of shape `(batch_size, sequence_length)`, and logarithms of two
            weights, each `torch.FloatTensor` of shape `(batch_size,)`. Among records of the same latent, those drawn
            again by the first one follow p(x|z) of a decoder that is told nothing, restricted to what is allowed: it
            is the ratio of that probability to the one that the record was drawn with. Among latents, those drawn
            again by the second one follow what is allowed and was not told: it is the probability that this had.
        """
        condition = self.condition(allowed)
        told = self.with_condition(latents, None if condition is None else condition.expand(len(latents), -1))
        allowed, uniforms = allowed.to(latents.device), uniforms.to(latents.device)
        free = None if condition is None else self.with_condition(latents)
        ids, log_allowed, log_ratios = sample_rows(self, told, uniforms, temperature, top_p, allowed, free)
        return ids, log_allowed + log_ratios, log_allowed

    @torch.no_grad()
    def next_logits(
        self, input_ids: torch.LongTensor, latents: torch.Tensor, condition: torch.Tensor | None, position: int
    ) -> torch.Tensor:
        """
        Logits of the ids that a row may have at a position before the texts, counted after BOS.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, 1 + position)`): The ids before it, BOS included.
            latents (`torch.Tensor` of shape `(batch_size, latent_size)`): Latents z.
            condition (`torch.Tensor` of shape `(batch_size, condition_size)`, *optional*): What is known.
            position (`int`): The position.
        """
        hidden, _ = self.hidden_states(input_ids, self.with_condition(latents, condition))
        return self.range_logits(hidden[:, -1], *self.config.position_ranges[position])

    @torch.no_grad()
    def condition(self, allowed: AllowedIds) -> torch.Tensor | None:
        """
        What is known, as decoder and denoiser are told, of shape `(num_rows, condition_size)`; `None` for a model that
        is told nothing.
        """
        if not self.config.condition_size:
            return None
        allowed = allowed.to(self.device)
        return self.known_fields(allowed.ids, allowed.is_known)


AutoModelForCausalLM.register(DiffLMConfig, DiffLMForCausalLM)
