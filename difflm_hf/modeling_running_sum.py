"""A causal LM for rows of tables, whose state is the running sum of the embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .configuration_running_sum import RunningSumConfig
from .distributed import draw
from .modeling_lists import ItemLevel, item_states, summarize
from .positionwise import PositionwiseLinear, RunningSumBlock, running_sums, weigh, weights_at
from .records.layout import LevelRows, RecordLayout


class RunningSumLayer(DynamicLayer):
    """
    What a cache keeps of a [`RunningSumModel`]: in `values` the sum of all that it was given, in float32, of shape
    `(batch_size, 1, 1, embedding_size)`, and how many terms that has. Keys mean nothing here.
    """

    _layer_type = "running_sum"
    is_croppable = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.num_terms = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = value_states.dtype, value_states.device
        self.keys = value_states[..., :0, :0]
        self.values = torch.zeros_like(value_states[..., :1, :], dtype=torch.float32)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds values of shape `(batch_size, 1, length, size)`; returns the keys, and the sums up to each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        sums = self.values + running_sums(value_states.float())
        self.values = sums[..., -1:, :]
        self.num_terms += value_states.shape[-2]
        return key_states, sums

    def get_seq_length(self) -> int:
        return self.num_terms

    def reset(self) -> None:
        super().reset()
        self.num_terms = 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError("a running sum cannot be cropped: it does not know its terms; compute it anew")


# It takes as little memory in a static cache.
STATIC_LAYER_TYPE_MAPPING[RunningSumLayer._layer_type] = RunningSumLayer


class RunningSumPreTrainedModel(PreTrainedModel):
    """Loading and saving of [`RunningSumModel`] and [`RunningSumForCausalLM`]."""

    config_class = RunningSumConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RunningSumBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PositionwiseLinear):
            init.normal_(module.weight, 0, module.weight.shape[1] ** -0.5)
        elif isinstance(module, (RunningSumModel, ItemLevel)):
            if hasattr(module, "bias"):
                init.zeros_(module.bias)
        elif isinstance(module, nn.GRUCell):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, 0, 0.5)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, 0, 0.02)


class RunningSumModel(RunningSumPreTrainedModel):
    """
    The sum of the embeddings of all tokens so far, and for each position a linear map of it and residual blocks: as in
    NADE (arXiv 1605.02226), and without attention.

    That suits rows of tables, in which each position is of its own kind. What a token costs does not depend on how
    many there are, and a cache holds nothing but the sum. An encoder has a single state, that of the whole sum.

    Args:
        config ([`RunningSumConfig`]): The configuration.
    """

    def __init__(self, config: RunningSumConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.proj_in = PositionwiseLinear(config.num_positions, config.embedding_size, config.hidden_size)
        self.bias = nn.Parameter(torch.empty(config.num_positions, 1, config.hidden_size))
        self.blocks = nn.ModuleList(RunningSumBlock(config) for _ in range(config.num_blocks))
        if config.levels:
            self.layout = RecordLayout.from_list(config.levels)
            self.lists = nn.ModuleList(ItemLevel(config, len(level.ranges)) for level in self.layout.levels[1:])
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): Tokens.
            attention_mask (`torch.Tensor` of shape `(batch_size, past_length + sequence_length)`, *optional*):
                0 for padding, which is no part of the sum.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Positions. Without them, tokens have those after the terms in the cache.
            past_key_values (`Cache`, *optional*): A cache of this configuration.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
                In place of `input_ids`.
            use_cache (`bool`, *optional*): Whether to return `past_key_values`.
            output_hidden_states (`bool`, *optional*): Whether to return the states before and after each block.

        Returns:
            `BaseModelOutputWithPast`, with `last_hidden_state` of shape `(batch_size, sequence_length, hidden_size)`,
            of an encoder `(batch_size, 1, hidden_size)`. It is 0 at silent positions.

        Raises:
            `ValueError`: for more tokens than there are positions.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        weights = self._weights(inputs_embeds, attention_mask)
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.config)
        start = 0 if past_key_values is None else past_key_values.get_seq_length()
        if not self.config.is_decoder and self.config.levels:
            rows = self.layout.unpack(input_ids)
            sums = summarize(self.lists, self.layout.parents, rows, self.embed_tokens)[:, None]
        elif not self.config.is_decoder:
            sums = weigh(inputs_embeds.float(), weights).sum(1, keepdim=True)
        elif past_key_values is None:
            sums = running_sums(inputs_embeds.float(), weights)
        else:
            terms = weigh(inputs_embeds, weights)[:, None]
            sums = past_key_values.update(terms, terms, 0)[1][:, 0]
        batch_size, length, _ = sums.shape

        num_silent = min(max(self.config.num_silent_positions - start, 0), length)
        # Positions come first, and all that have one share a product.
        hidden = sums[:, num_silent:].transpose(0, 1).to(self.proj_in.weight.dtype)
        num_groups = len(hidden)
        if position_ids is None:
            positions = self._positions_from(start + num_silent, num_groups)
        else:
            position_ids = (position_ids[:, num_silent:] - self.config.num_silent_positions).clamp(min=0)
            if (position_ids == position_ids[:1]).all():
                positions = position_ids[0]
            else:
                positions = position_ids.T.flatten()
                hidden = hidden.reshape(num_groups * batch_size, 1, -1)

        states = [self.proj_in(hidden, positions, added=weights_at(self.bias, positions))]
        for block in self.blocks:
            states.append(block(states[-1], positions))
        states[-1] = F.layer_norm(states[-1], states[-1].shape[-1:])
        if not output_hidden_states:
            states = states[-1:]
        states = [state.view(num_groups, batch_size, self.config.hidden_size).transpose(0, 1) for state in states]
        if num_silent:
            states = [F.pad(state, (0, 0, num_silent, 0)) for state in states]
        return BaseModelOutputWithPast(
            last_hidden_state=states[-1],
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def item_states(self, rows: Sequence[LevelRows], root: torch.Tensor) -> list[torch.Tensor]:
        """
        The states that the tokens of lists are predicted from.

        Args:
            rows (`Sequence[LevelRows]`): The rows of all levels, as `layout.unpack` gives them.
            root (`torch.Tensor` of shape `(batch_size, embedding_size)`):
                The sums of the records without their lists, latents included.

        Returns:
            For each list a `torch.Tensor` of shape `(num_positions, num_items, hidden_size)`.
        """
        dropout = self.config.token_dropout if self.training else 0.0
        return item_states(self.lists, self.layout.parents, rows, self.embed_tokens, root, dropout)

    def _positions_from(self, start: int, num: int) -> slice:
        """The weights of `num` positions from `start` on, none of which is silent."""
        first = start - self.config.num_silent_positions
        if first + num > self.config.num_positions:
            raise ValueError(f"{start + num} tokens are more than {self.config.max_position_embeddings} positions")
        return slice(first, first + num)

    def _weights(self, embeddings: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Of shape `(batch_size, sequence_length)`: 0 for what is no part of the sum, or `None` if all is."""
        weights, (batch_size, length, _) = None, embeddings.shape
        if attention_mask is not None and attention_mask.ndim == 2:
            weights = attention_mask[:, -length:].to(embeddings.dtype)
        if self.training and self.config.token_dropout > 0:
            rates, chosen = (draw(torch.rand, batch_size, 1, device=embeddings.device) for _ in range(2))
            rates = rates * (chosen < self.config.token_dropout)
            is_kept = draw(torch.rand, batch_size, length, device=embeddings.device) >= rates
            is_kept[:, 0] = True
            weights = is_kept.to(embeddings.dtype) if weights is None else weights * is_kept
        return weights


class RunningSumForCausalLM(RunningSumPreTrainedModel, GenerationMixin):
    """
    A [`RunningSumModel`] with a head.

    Args:
        config ([`RunningSumConfig`]): The configuration.
    """

    def __init__(self, config: RunningSumConfig):
        super().__init__(config)
        self.model = RunningSumModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """
        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache:
                As in [`RunningSumModel.forward`].
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Ids whose mean negative log-likelihood is the loss; −100 is ignored.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): Last positions to compute logits for; 0 means all.

        Returns:
            `CausalLMOutputWithPast`, with `logits` of shape `(batch_size, sequence_length, vocab_size)`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        return CausalLMOutputWithPast(
            loss=None if labels is None else self.loss_function(logits, labels, logits.shape[-1], **kwargs),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )


AutoModel.register(RunningSumConfig, RunningSumModel)
AutoModelForCausalLM.register(RunningSumConfig, RunningSumForCausalLM)
