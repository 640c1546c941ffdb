"""DiffLM: a variational autoencoder whose decoder is a causal LM that latents are injected into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from huggingface_hub import CommitInfo
from torch import nn
from torch.profiler import record_function
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    PreTrainedModel,
)
from transformers import (
    initialization as init,
)
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput, can_return_tuple, is_peft_available
from transformers.utils.hub import resolve_revision
from transformers.utils.quantization_config import QuantizationConfigMixin

from .base_model import (
    HUB_ARGUMENTS,
    BaseModelStub,
    add_lora,
    device_map_of,
    is_lora,
    load_base_model,
    lora_fields,
    lora_parameters,
    without_lora,
)
from .cache import BufferedLayer, buffered_cache
from .configuration_difflm import DiffLMConfig
from .hub.mixin import PushToHubMixin
from .injection import build_injection
from .records.grammar import JSONGrammar


# With a call of this name, loaders of remote code do not take the import for a requirement.
if TYPE_CHECKING and is_peft_available():
    from peft import LoraConfig

# Causal LMs that count positions in the cache, those that a mask leaves out included: by windows, or by ALiBi
COUNTING_MODELS = ("gpt_neo", "mpt")
# Of documents: positions that the cache has room for at first, and how much of a batch may be open for it to leave the
# complete rest behind
CACHE_ROOM, SHRINKING = 128, 7 / 8


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


class DiffLMPreTrainedModel(PushToHubMixin, PreTrainedModel):
    """Loading and saving of [`DiffLMModel`] and [`DiffLMForCausalLM`], with a base LM that checkpoints only name."""

    config_class = DiffLMConfig
    base_model_prefix = "difflm"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    lm_module: str  # the name of the causal LM among the modules

    @property
    def supports_gradient_checkpointing(self) -> bool:
        # Checkpointed layers ignore the cache, and with it the memory.
        return self.config.injection != "kv_memory"

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        """
        As that of `PreTrainedModel`, for encoder and causal LM, whether it is frozen or not.

        Raises:
            `ValueError`: with `injection="kv_memory"`.
        """
        if not self.supports_gradient_checkpointing:
            raise ValueError(
                f"injection={self.config.injection!r} does not support activation checkpointing, which leaves out the "
                "cache that the memory is in; turn it off, or take another injection"
            )
        super().activation_checkpointing_enable(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args,
        base_model: str | os.PathLike | None = None,
        **kwargs,
    ):
        """
        Loads a model as `PreTrainedModel.from_pretrained` does, from safetensors alone, and the base that it names.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): Hub id or folder.
            base_model (`str` or `Path`, *optional*):
                A copy of the frozen base LM, in place of the one that the checkpoint names.
            kwargs (*optional*):
                Those of `PreTrainedModel.from_pretrained`. Dtype, devices, token and cache go for the base as well,
                `quantization_config` for the base alone.

        Raises:
            `ValueError`: when the base is not the one that the checkpoint was trained with, or is there already; when
                the checkpoint lacks LoRA weights.
        """
        kwargs.setdefault("use_safetensors", True)
        config = kwargs.get("config")
        if not isinstance(config, DiffLMConfig):
            where = {k: kwargs[k] for k in (*HUB_ARGUMENTS, "revision", "subfolder") if k in kwargs}
            config = DiffLMConfig.from_pretrained(config or pretrained_model_name_or_path, **where)
        if config.base_model is not None:
            lm = load_base_model(config, base_model, cls.lm_module, **{"device_map": None, **kwargs})
            kwargs["lm"] = stub = BaseModelStub(lm)
            if isinstance(device_map := kwargs.get("device_map"), dict):
                # What the stub has of the base is small, and goes to where the injection is until the base gets it.
                injection = device_map_of(f"{cls.lm_module.removesuffix('lm')}injection", device_map)
                rest = {k: v for k, v in device_map.items() if not k.startswith(f"{cls.lm_module}.")}
                kwargs["device_map"] = rest | {cls.lm_module: next(iter(injection.values()))}
        elif base_model is not None:
            raise ValueError(f"{pretrained_model_name_or_path} holds its own LM; leave base_model={base_model!r} out")
        elif kwargs.get("quantization_config") is not None:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds its own LM, and only a base that a checkpoint names can be "
                "quantized; leave quantization_config out"
            )
        is_quantized = kwargs.pop("quantization_config", None) is not None
        with_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if missing := sorted(filter(is_lora, info["missing_keys"])):
            raise ValueError(
                f"{pretrained_model_name_or_path} has no weights of {missing[0]}, which its configuration asks for by "
                f"lora={config.lora}"
            )
        if config.base_model is not None:
            stub.fill(lm)
            model._set_lm(lm)
        # Loading makes new parameters, which are not frozen.
        model._freeze()
        if is_quantized and kwargs.get("device_map") is None:
            # transformers puts quantized models on the GPU.
            model.to(lm.device)
        return (model, info) if with_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args,
        include_base_weights: bool = False,
        max_shard_size: int | str = "50GB",
        **kwargs,
    ) -> None:
        """
        Saves a model as `PreTrainedModel.save_pretrained` does; of a frozen base LM that came from elsewhere, the name
        alone.

        Args:
            save_directory (`str` or `Path`): Where to.
            include_base_weights (`bool`, defaults to `False`): Save the base's weights too, to depend on nothing else.
            max_shard_size (`int` or `str`, defaults to `"50GB"`): Bytes of a file of weights.
            kwargs (*optional*): Those of `PreTrainedModel.save_pretrained`.

        Raises:
            `ValueError`: when the base's weights are to be saved, but are quantized.
        """
        if kwargs.get("push_to_hub") and not include_base_weights:
            self.check_publishable()
        # Paths of this machine say nothing elsewhere.
        for config in filter(None, (self.config, self.config.encoder_config, self.config.decoder_config)):
            config.name_or_path = ""
        # A base that is trained after all is another one.
        is_whole = include_base_weights or not self.config.freeze_decoder
        with self.with_base_weights() if is_whole else nullcontext():
            super().save_pretrained(save_directory, *args, max_shard_size=max_shard_size, **kwargs)

    @contextmanager
    def with_base_weights(self) -> Iterator[None]:
        """
        Within it, a frozen base LM is taken for a part of the model like any other. Raises a `ValueError` where the
        base is quantized.
        """
        if getattr(self.get_submodule(self.lm_module), "is_quantized", False):
            raise ValueError(
                "the base model is quantized, and has lost the weights that would be saved; load this model without "
                "quantization_config to save with include_base_weights=True"
            )
        config, left_out = self.config, self._keys_to_ignore_on_save
        base = config.base_model, config.base_revision
        config.base_model = config.base_revision = None
        self._keys_to_ignore_on_save = set()
        try:
            yield
        finally:
            config.base_model, config.base_revision = base
            self._keys_to_ignore_on_save = left_out

    def push_to_hub(self, repo_id: str, *, include_base_weights: bool = False, **kwargs) -> CommitInfo:
        """
        Saves to a repository of the Hub, as [`PushToHubMixin.push_to_hub`] says.

        Args:
            repo_id (`str`): The repository.
            include_base_weights (`bool`, defaults to `False`): Push the weights of a frozen base LM too.
            kwargs (*optional*): Those of [`PushToHubMixin.push_to_hub`].

        Raises:
            `ValueError`: when the base is a folder of this machine, and its weights are not pushed.
        """
        if not include_base_weights:
            self.check_publishable()
        return super().push_to_hub(repo_id, include_base_weights=include_base_weights, **kwargs)

    def check_publishable(self) -> None:
        """Raises a `ValueError` when the base is one that others cannot load."""
        base = self.config.base_model
        if base is not None and os.path.isabs(base):
            raise ValueError(
                f"the base model is the folder {base}, which others do not have: push with include_base_weights=True, "
                "or train with the Hub id of the base"
            )


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
        if config.lora is not None and not lora_parameters(lm):
            add_lora(lm, config.lora)
        self._set_lm(lm)
        self.injection = build_injection(config)
        # Not the LM's own, whose temperature and penalties are for chat: p(x|z) has none.
        self.generation_config = GenerationConfig.from_model_config(self.lm.config)
        self._freeze()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.injection.projection and self.config.position_ranges is None:
            # An LM that writes documents goes its own way, and learns to look away from latents that start as noise.
            # What becomes of these should differ between records, but for what is added to every token.
            if not self.injection.every_token:
                init.normal_(module.weight, 0, 0.3 * self.config.latent_size**-0.5)

    def _set_lm(self, lm: PreTrainedModel) -> None:
        self.lm = lm
        self._is_head_plain: bool | None = None  # not known yet
        self.config.decoder_config = lm.config  # one object, which cannot get out of step
        for module in lm.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # For inference on CPUs bitsandbytes packs its 4 bits anew, and gradients are 0 from then on.
                module.support_avx512bf16_for_cpu = False
        if self.config.base_model is not None:
            self._keys_to_ignore_on_save = {f"lm.{name}" for name in lm.state_dict() if not is_lora(name)}

    def _freeze(self) -> None:
        if self.config.freeze_decoder:
            for name, parameter in self.lm.named_parameters():
                parameter.requires_grad_(is_lora(name))

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
            if latents.shape != (len(inputs_embeds), self.config.latent_size):
                raise ValueError(
                    f"`latents` of shape {tuple(latents.shape)} do not fit {len(inputs_embeds)} sequences and "
                    f"latent_size={self.config.latent_size}"
                )
            inputs_embeds, past_key_values = self.injection(latents, inputs_embeds, past_key_values)
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

    @property
    def _fixed_ranges(self) -> list[tuple[int, int]]:
        """The ranges of all positions before the texts."""
        ranges = self.config.position_ranges
        return ranges[:-1] if self.config.num_texts else ranges

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

    def _hidden_states(self, input_ids, latents, past_key_values=None, use_cache=False):
        """Last hidden states of real tokens, before the head, and the cache."""
        inputs = self._inject(input_ids, None, latents, None, None, past_key_values)
        outputs = self.lm.base_model(**inputs, use_cache=use_cache)
        return outputs.last_hidden_state[:, -input_ids.shape[1] :], outputs.past_key_values

    def _range_logits(self, hidden: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Logits of the ids `[start, end)` alone."""
        head = self.get_output_embeddings()
        return F.linear(hidden, head.weight[start:end], None if head.bias is None else head.bias[start:end]).float()

    def negative_log_likelihood(
        self,
        input_ids: torch.LongTensor,
        latents: torch.FloatTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        allowed: torch.BoolTensor | None = None,
    ) -> torch.FloatTensor:
        """
        −log p(x|z) of each record.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Records from BOS on, right-padded.
            latents (`torch.FloatTensor` of shape `(batch_size, latent_size)`): Latents z.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                The ids that count, −100 for those that do not, such as what a grammar forces. Not given, all count
                that are no padding.
            allowed (`torch.BoolTensor` of shape `(num_labels, allowed_size)`, *optional*):
                Which of the vocabulary's first `allowed_size` ids a grammar allows in the place of each label that
                counts, in their order, as [`JSONGrammar.allowed`] says it. Not given, all of the vocabulary.

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
                hidden, _ = self._hidden_states(inputs, latents)
                logits = self.get_output_embeddings()(hidden[counted]).float()
            else:
                logits = self(inputs, latents=latents, use_cache=False).logits[counted].float()
            if allowed is not None:
                allowed = F.pad(allowed, (0, logits.shape[1] - allowed.shape[1]))
                logits = logits.masked_fill(~allowed, -torch.inf)
            nll = logits.new_zeros(targets.shape)
            nll[counted] = F.cross_entropy(logits, targets[counted], reduction="none")
            return nll.sum(1)
        hidden, _ = self._hidden_states(inputs, latents)
        nll, ranges = hidden.new_zeros(len(hidden), dtype=torch.float32), self._fixed_ranges
        if num_fixed := len(ranges):
            starts, ends = torch.tensor(ranges, device=input_ids.device).T
            ids = starts[:, None] + torch.arange(max(end - start for start, end in ranges), device=input_ids.device)
            head = self.get_output_embeddings()
            known = ids.clamp(max=len(head.weight) - 1)
            # One batched product over positions, each with the head's rows for its own range.
            logits = torch.einsum("bph,pkh->bpk", hidden[:, :num_fixed], F.embedding(known, head.weight))
            if head.bias is not None:
                logits = logits + head.bias[known]
            logits = logits.float().masked_fill(ids >= ends[:, None], -torch.inf)
            nll = _token_nll(logits, targets[:, :num_fixed] - starts).sum(1)
        if self.config.num_texts:
            start, end = self.config.position_ranges[-1]
            texts = targets[:, num_fixed:]
            logits = self._range_logits(hidden[:, num_fixed:], start, end)
            nll = nll + _token_nll(logits, texts.where(texts < 0, texts - start)).sum(1)
        return nll

    @torch.no_grad()
    def sample_records(
        self,
        latents: torch.FloatTensor,
        uniforms: torch.FloatTensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        grammar: JSONGrammar | None = None,
    ) -> torch.LongTensor:
        """
        Samples records.

        With `config.position_ranges` or a grammar, an id is drawn from those that the format allows, so that every
        record is valid; else records end with EOS.

        Args:
            latents (`torch.FloatTensor` of shape `(batch_size, latent_size)`): Latents z.
            uniforms (`torch.FloatTensor` of shape `(batch_size, max_record_length - 1)`):
                Uniform random numbers in [0, 1), one for each id: all the randomness there is, so that a record does
                not depend on the batch it is in.
            temperature (`float`, defaults to 1.0): Divides the logits; 0 takes the likeliest id.
            top_p (`float`, defaults to 1.0): Samples from the likeliest ids that together have this probability.
            grammar ([`JSONGrammar`], *optional*): What a record may look like, for an LM with its own vocabulary.

        Returns:
            `torch.LongTensor` of shape `(batch_size, sequence_length)`: ids from BOS on, right-padded.
        """
        uniforms = uniforms.to(latents.device)
        if grammar is not None:
            return self._sample_by_grammar(latents, uniforms, temperature, top_p, grammar)
        if self.config.position_ranges is None:
            sampler = InverseTransformSampler(uniforms, temperature, top_p)
            return self.generate(
                latents=latents,
                max_new_tokens=uniforms.shape[1],
                do_sample=False,
                logits_processor=[sampler],
                past_key_values=buffered_cache(self.lm.config, CACHE_ROOM),
            )
        config, num_fixed = self.config, len(self._fixed_ranges)
        bos, eos, pad = (getattr(self.lm.config, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        num_open = torch.full((len(latents),), config.num_texts, device=latents.device)
        ids = torch.full((len(latents), config.max_record_length), pad, device=latents.device)
        ids[:, 0] = bos
        cache = buffered_cache(self.lm.config, config.max_record_length + self.injection.num_virtual_tokens)
        for position in range(config.max_record_length - 1):
            with record_function("difflm::step" if position else "difflm::prefill"):
                is_needed = position == 0 or self.injection.every_token
                hidden, _ = self._hidden_states(
                    ids[:, position : position + 1], latents if is_needed else None, cache, use_cache=True
                )
            with record_function("difflm::head"):
                start, end = config.position_ranges[min(position, len(config.position_ranges) - 1)]
                logits = self._range_logits(hidden[:, -1], start, end)
            with record_function("difflm::sampling"):
                next_ids = start + _sample(logits, uniforms[:, position], temperature, top_p)
                if position >= num_fixed:
                    next_ids = next_ids.where(num_open > 0, pad)
                    num_open = num_open - (next_ids == eos).long()
                ids[:, position + 1] = next_ids
                if position >= num_fixed - 1 and not (num_open > 0).any():
                    break
        return ids[:, : position + 2]

    def _sample_by_grammar(
        self,
        latents: torch.FloatTensor,
        uniforms: torch.FloatTensor,
        temperature: float,
        top_p: float,
        grammar: JSONGrammar,
    ) -> torch.LongTensor:
        """
        Records that the grammar allows. Each step feeds an id that was sampled and all that have to follow it, so that
        records move on at different paces: the cache has gaps, which the attention mask leaves out. LMs that count
        what is in the cache, as those with a window do, get one id of each record at a time.
        """
        bos, device = self.lm.config.bos_token_id, latents.device
        parsers = [grammar.start() for _ in range(len(latents))]
        queues = [[bos, *parser.ids] for parser in parsers]  # ids that the LM has not seen

        def is_open(row: int) -> bool:
            return not parsers[row].is_complete and len(parsers[row].ids) < uniforms.shape[1]

        cache = buffered_cache(self.lm.config, CACHE_ROOM)
        is_plain = all(isinstance(layer, BufferedLayer) for layer in cache.layers)
        has_gaps = is_plain and self.lm.config.model_type not in COUNTING_MODELS
        rows = [row for row in range(len(latents)) if is_open(row)]  # records that are in the batch
        attention_mask = torch.zeros(len(rows), 0, dtype=torch.long, device=device)
        while any(map(is_open, rows)):
            # What is complete, but has to stay in the batch, gets an id that no one looks at.
            new_ids = [(queues[row] if has_gaps else queues[row][:1]) or [bos] for row in rows]
            for row, ids in zip(rows, new_ids):
                queues[row] = queues[row][len(ids) :]
            sampled = [k for k, row in enumerate(rows) if is_open(row) and not queues[row]]
            with record_function("difflm::grammar"):
                forbidden = grammar.forbidden(parsers[rows[k]] for k in sampled)
            is_first = attention_mask.shape[1] == 0
            with record_function("difflm::prefill" if is_first else "difflm::step"):
                length = max(map(len, new_ids))
                # Padding is on the left: logits are those of the last position then.
                input_ids = torch.tensor([[bos] * (length - len(ids)) + ids for ids in new_ids], device=device)
                is_real = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in new_ids], device=device)
                attention_mask = torch.cat([attention_mask, is_real], dim=1)
                logits = self(
                    input_ids,
                    attention_mask=attention_mask,
                    latents=latents[rows] if is_first or self.injection.every_token else None,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1, : grammar.vocab_size]
                logits = (logits if len(sampled) == len(rows) else logits[sampled]).float()
            if not sampled:
                continue
            with record_function("difflm::grammar"):
                mask = torch.from_numpy(forbidden.result()).to(device)
                logits.masked_fill_(mask[:, : logits.shape[1]], -torch.inf)
            with record_function("difflm::sampling"):
                written = [rows[k] for k in sampled]
                positions = [len(parsers[row].ids) for row in written]
                next_ids = _sample(logits, uniforms[written, positions], temperature, top_p).tolist()
            with record_function("difflm::grammar"):
                for row, next_id in zip(written, next_ids):
                    queues[row] = parsers[row].append(next_id)
            still_open = [k for k, row in enumerate(rows) if is_open(row)]
            if has_gaps and 0 < len(still_open) <= SHRINKING * len(rows):
                # No record waits for the longest: the batch shrinks, at times, as it takes a copy of the cache.
                cache.batch_select_indices(torch.tensor(still_open, device=device))
                attention_mask = attention_mask[still_open]
                rows = [rows[k] for k in still_open]
        pad = self.lm.config.pad_token_id
        records = [torch.tensor([bos, *parser.ids]) for parser in parsers]
        return nn.utils.rnn.pad_sequence(
            records, batch_first=True, padding_value=grammar.eos_token_id if pad is None else pad
        )


class MovingStandardization(nn.Module):
    """
    Brings states to mean 0 and deviation 1 over the records, in each dimension, by moving averages of their moments.

    The variance is half of the mean squared difference between records of successive batches (von Neumann, 1941).
    Variances within batches leave out what differs between batches of short and of long records; differences from a
    moving mean count in how far that has moved while a model learnt.

    Args:
        size (`int`): Dimension of the states.
    """

    MOMENTUM, EPSILON = 0.01, 1e-8

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("previous", torch.zeros(size))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    def forward(self, states: torch.FloatTensor) -> torch.FloatTensor:
        """Standardizes `states` of shape `(batch_size, size)`; in training it looks at them first."""
        if self.training:
            self._update(states.detach())
        return (states - self.mean) / (self.variance + self.EPSILON).sqrt()

    def _update(self, batch: torch.FloatTensor) -> None:
        if (num_differences := int(self.num_batches)) > 0:
            variance = (batch - self.previous).square().mean(0) / 2
            self.variance.lerp_(variance, max(self.MOMENTUM, 1 / num_differences))
        self.num_batches += 1
        self.mean.lerp_(batch.mean(0), max(self.MOMENTUM, 1 / int(self.num_batches)))
        self.previous.copy_(batch[-1])


class StandardizedPosterior(nn.Module):
    """
    μ and log σ² from the mean-pooled state of a document. Such states are much alike, and what differs between them
    has to show in z from the start, before the causal LM has learnt to write without (as in batch-normalised VAEs,
    arXiv 2004.12585): they are standardized, and a small network is added to the linear map.

    Args:
        size (`int`): Dimension of the states.
        latent_size (`int`): Dimension of z.
    """

    INITIAL_LOGVAR = -4.0

    def __init__(self, size: int, latent_size: int):
        super().__init__()
        self.standardization = MovingStandardization(size)
        self.to_mean, self.to_logvar = (nn.Linear(size, latent_size) for _ in range(2))
        self.residual = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, 2 * latent_size))

    def init_weights(self, module: nn.Module) -> None:
        """Starts one of its linear maps: means with deviation 1, posteriors narrow, and the residual small."""
        if module in (self.to_mean, self.residual[0]):
            init.normal_(module.weight, 0, module.in_features**-0.5)
        elif module is self.to_logvar:
            init.zeros_(module.weight)
            init.constant_(module.bias, self.INITIAL_LOGVAR)
        elif module is self.residual[2]:
            init.normal_(module.weight, 0, 0.1 * module.in_features**-0.5)

    def forward(self, states: torch.FloatTensor) -> torch.FloatTensor:
        """
        Args:
            states (`torch.FloatTensor` of shape `(batch_size, size)`): Mean-pooled states.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, 2 * latent_size)`: μ, and then log σ².
        """
        states = self.standardization(states)
        return torch.cat([self.to_mean(states), self.to_logvar(states)], dim=-1) + self.residual(states)


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

    def __init__(
        self, config: DiffLMConfig, encoder: PreTrainedModel | None = None, lm: PreTrainedModel | None = None
    ):
        super().__init__(config)
        self.encoder = None
        if not config.encode_with_decoder:
            encoder = AutoModel.from_config(config.encoder_config) if encoder is None else encoder
            config.encoder_config = encoder.config
            self.encoder = encoder.get_encoder() if hasattr(encoder, "decoder") else encoder
        size = (config if self.encoder is None else self.encoder.config).get_text_config().hidden_size
        is_document = config.position_ranges is None
        self.to_posterior = (
            StandardizedPosterior(size, config.latent_size) if is_document else nn.Linear(size, 2 * config.latent_size)
        )
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
            decoder (`str`): Hub id or folder of a model that `AutoModelForCausalLM` loads.
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
            kwargs (*optional*): Further fields of [`DiffLMConfig`].

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
            encoder = AutoModel.from_pretrained(encoder, dtype=torch.float32, use_safetensors=True)
            kwargs["encoder_config"] = encoder.config
        revision = resolve_revision(decoder, revision)
        lm = AutoModelForCausalLM.from_pretrained(
            decoder,
            revision=revision,
            dtype=dtype or ("auto" if freeze_decoder else torch.float32),
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
            use_safetensors=True,
        )
        for name, token_id in (("bos_token_id", bos_token_id), ("eos_token_id", eos_token_id)):
            if token_id is not None:
                setattr(lm.config, name, token_id)
        if freeze_decoder:
            is_folder = os.path.isdir(decoder)
            kwargs["base_model"] = os.path.abspath(decoder) if is_folder else decoder
            # The commit, unless the Hub was out of reach and the revision came from the cache.
            kwargs["base_revision"] = None if is_folder else getattr(revision, "resolved", revision)
        config = DiffLMConfig(decoder_config=lm.config, freeze_decoder=freeze_decoder, **kwargs)
        # transformers puts quantized models on the GPU.
        return cls(config, encoder, lm).to(lm.device).eval()

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
        if self.encoder is None:
            # What reading takes, an LM knows that writes. LoRA layers learn to write, and states that move with them
            # leave the posterior behind.
            with torch.no_grad(), without_lora(self.decoder.lm):
                lm = self.decoder.lm.base_model
                hidden = lm(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        else:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # Not in bfloat16, in which the small differences between the means of long records get lost.
        hidden = hidden.float()
        if attention_mask is None:
            pooled = hidden.mean(1)
        else:
            weights = attention_mask[..., None].to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        pooled = pooled.to(next(self.to_posterior.parameters()).dtype)
        return self.to_posterior(pooled).float().chunk(2, dim=-1)

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        allowed: torch.BoolTensor | None = None,
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
            allowed (`torch.BoolTensor` of shape `(num_labels, allowed_size)`, *optional*):
                The ids that a grammar allows in their places, as [`DiffLMForCausalLM.negative_log_likelihood`] takes
                them.
            beta (`float`, defaults to 1.0): Weight of the KL term.
            free_bits (`float`, defaults to 0.0):
                Nats of each latent dimension's mean KL that cost nothing (arXiv 1606.04934, section 4).
        """
        if decoder_input_ids is None:
            decoder_input_ids, decoder_attention_mask = input_ids, attention_mask
        mean, logvar = self.encode(input_ids, attention_mask)
        latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        nll = self.decoder.negative_log_likelihood(decoder_input_ids, latents, decoder_attention_mask, labels, allowed)
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
    # The vocabulary is the last dimension, not the second: softmax over memory that is not contiguous is slow.
    nll = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten().clamp(min=-100), reduction="none", ignore_index=-100
    )
    return nll.view(targets.shape)


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
    total = cumulative[:, -1:]
    # Below the total however products round: then an id that the target falls to has some probability.
    targets = torch.minimum(uniforms[:, None].to(probs) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1)


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


# Code from a repository may have registered its own copy before.
AutoConfig.register("difflm", DiffLMConfig, exist_ok=True)
AutoModel.register(DiffLMConfig, DiffLMModel)
AutoModelForCausalLM.register(DiffLMConfig, DiffLMForCausalLM)
