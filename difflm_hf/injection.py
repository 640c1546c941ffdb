"""
The four ways in which latents reach a causal LM (arXiv 2411.03250, section 3.3).

Each works on input embeddings and the key-value cache, which every causal LM of transformers has, and on nothing else.
Latents become *virtual tokens*: positions that the LM attends to, but that no id stands for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel


class LatentInjection(nn.Module):
    """Base of the four ways. `num_virtual_tokens` positions precede the first real token."""

    num_virtual_tokens: int = 0
    # Whether latents are needed for every token, or once, before the first.
    every_token: bool = False
    projection: nn.Linear

    def forward(
        self,
        latents: torch.Tensor,
        inputs_embeds: torch.Tensor,
        past_key_values: Cache | None,
        layer_devices: Sequence[torch.device | None],
    ) -> tuple[torch.Tensor, Cache | None]:
        """
        Args:
            latents (`torch.Tensor` of shape `(batch_size, latent_size)`): Latents z.
            inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, embedding_size)`): Real tokens.
            past_key_values (`Cache`, *optional*): The cache of this generation; empty, or absent.
            layer_devices (`Sequence[torch.device]`): Those of the LM, as [`layer_devices`] gives them.

        Returns:
            What to hand to the LM in their place.
        """
        raise NotImplementedError

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """A linear map of the latents, which may be more precise than the model."""
        return self.projection(latents.to(self.projection.weight.dtype))


class SoftPrompt(LatentInjection):
    """A linear map of z to `num_latent_tokens` embeddings before the first token."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.embedding_size = embedding_size(config)
        self.num_virtual_tokens = config.num_latent_tokens
        self.projection = nn.Linear(config.injected_size, config.num_latent_tokens * self.embedding_size)

    def prompt(self, latents: torch.Tensor) -> torch.Tensor:
        """The virtual tokens, of shape `(batch_size, num_virtual_tokens, embedding_size)`."""
        return self.project(latents).view(len(latents), -1, self.embedding_size)

    def forward(
        self,
        latents: torch.Tensor,
        inputs_embeds: torch.Tensor,
        past_key_values: Cache | None,
        layer_devices: Sequence[torch.device | None],
    ) -> tuple[torch.Tensor, Cache | None]:
        prompt = self.prompt(latents).to(inputs_embeds.dtype)
        return torch.cat([prompt, inputs_embeds], dim=1), past_key_values


class PrefixSoftPrompt(SoftPrompt):
    """Learned embeddings, the same for every record, and then the soft prompt of z."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.prefix = nn.Embedding(config.num_prefix_tokens, self.embedding_size)
        self.num_virtual_tokens += config.num_prefix_tokens

    def prompt(self, latents: torch.Tensor) -> torch.Tensor:
        prefix = self.prefix.weight.expand(len(latents), -1, -1)
        return torch.cat([prefix, super().prompt(latents)], dim=1)


class KVMemory(LatentInjection):
    """z as `num_latent_tokens` past keys and values of every layer, Optimus' "memory" (arXiv 2004.04092)."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        lm = config.get_text_config()
        num_heads = getattr(lm, "num_key_value_heads", None) or lm.num_attention_heads
        head_dim = getattr(lm, "head_dim", None) or lm.hidden_size // lm.num_attention_heads
        self.num_virtual_tokens = config.num_latent_tokens
        self.shape = (lm.num_hidden_layers, 2, num_heads, config.num_latent_tokens, head_dim)
        self.projection = nn.Linear(config.injected_size, torch.Size(self.shape).numel())
        self.lm_config = lm

    def forward(
        self,
        latents: torch.Tensor,
        inputs_embeds: torch.Tensor,
        past_key_values: Cache | None,
        layer_devices: Sequence[torch.device | None],
    ) -> tuple[torch.Tensor, Cache | None]:
        memory = self.project(latents).to(inputs_embeds.dtype).view(len(latents), *self.shape)
        cache = DynamicCache(config=self.lm_config) if past_key_values is None else past_key_values
        for layer, (keys_and_values, device) in enumerate(zip(memory.unbind(1), layer_devices, strict=True)):
            cache.update(*keys_and_values.to(device or memory.device).unbind(1), layer)
        return inputs_embeds, cache


class InputEmbed(LatentInjection):
    """A linear map of z to a vector that is added to the embedding of every token."""

    every_token = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.projection = nn.Linear(config.injected_size, embedding_size(config))

    def forward(
        self,
        latents: torch.Tensor,
        inputs_embeds: torch.Tensor,
        past_key_values: Cache | None,
        layer_devices: Sequence[torch.device | None],
    ) -> tuple[torch.Tensor, Cache | None]:
        return inputs_embeds + self.project(latents).to(inputs_embeds.dtype)[:, None], past_key_values


def embedding_size(config: PreTrainedConfig) -> int:
    """The size of the input embeddings of a [`DiffLMConfig`]'s causal LM: some project them to that of the layers."""
    lm = config.get_text_config()
    return getattr(lm, "embedding_size", None) or lm.hidden_size


INJECTIONS: dict[str, type[LatentInjection]] = {
    "soft_prompt": SoftPrompt,
    "prefix_soft_prompt": PrefixSoftPrompt,
    "kv_memory": KVMemory,
    "input_embed": InputEmbed,
}


def build_injection(config: PreTrainedConfig) -> LatentInjection:
    """The injection that a [`DiffLMConfig`] names."""
    if config.injection not in INJECTIONS:
        raise ValueError(f"injection={config.injection!r} is not one of {', '.join(map(repr, INJECTIONS))}")
    return INJECTIONS[config.injection](config)


def layer_devices(lm: PreTrainedModel) -> list[torch.device | None]:
    """
    The device of each layer of a causal LM, which a `device_map` may spread over several; `None` for layers that are
    offloaded, which compute on the device of their inputs.
    """
    num_layers = lm.config.get_text_config(decoder=True).num_hidden_layers
    for module in lm.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return [next((p.device for p in layer.parameters() if not p.is_meta), None) for layer in module]
    return [None] * num_layers
