"""Configuration of the causal LM for rows of tables."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


@strict
class RunningSumConfig(PreTrainedConfig):
    r"""
    Configuration of a [`RunningSumForCausalLM`], or of a [`RunningSumModel`] that encodes.

    Args:
        vocab_size (`int`, defaults to 1024): Ids.
        embedding_size (`int`, defaults to 256): Size of the embeddings, and of their sum.
        hidden_size (`int`, defaults to 64): Size of the hidden states.
        intermediate_size (`int`, defaults to 192): Size inside the blocks.
        num_blocks (`int`, defaults to 2): Residual blocks of each position.
        max_position_embeddings (`int`, defaults to 64):
            Positions, virtual tokens included. Each has weights of its own.
        num_silent_positions (`int`, defaults to 0):
            The first so many positions are terms of the sum alone, and have neither weights nor states: virtual
            tokens, whose states no one reads.
        token_dropout (`float`, defaults to 0.0):
            Share of the records that, in training, lose embeddings from their sum: each but the first with a
            probability that is drawn anew for each record.
        levels (`list[dict]`, *optional*):
            For records with lists in them, what [`~records.layout.RecordLayout`] says of their tokens.
        memory_size (`int`, defaults to 128): Size of the state that goes from one item of a list to the next.
        is_decoder (`bool`, defaults to `True`): Whether there is a state for each token, rather than one for all.

    Example:

    ```python
    >>> from transformers import AutoModelForCausalLM
    >>> from difflm_hf import RunningSumConfig

    >>> model = AutoModelForCausalLM.from_config(RunningSumConfig(vocab_size=600, max_position_embeddings=17))
    ```
    """

    model_type = "running_sum"
    # What caches, and memories in them, are made by: one state of one head.
    num_hidden_layers: ClassVar[int] = 1
    num_attention_heads: ClassVar[int] = 1
    layer_types: ClassVar[list[str]] = ["running_sum"]

    vocab_size: int = 1024
    embedding_size: int = 256
    hidden_size: int = 64
    intermediate_size: int = 192
    num_blocks: int = 2
    max_position_embeddings: int = 64
    num_silent_positions: int = 0
    token_dropout: float = 0.0
    levels: list[dict[str, Any]] | None = None
    memory_size: int = 128
    is_decoder: bool = True
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        """What a cache holds of each position."""
        return self.embedding_size

    @property
    def num_positions(self) -> int:
        """Positions that have weights of their own."""
        return self.max_position_embeddings - self.num_silent_positions if self.is_decoder else 1

    def validate_layer_type(self) -> None:
        """Nothing to check: transformers knows its own types alone."""


AutoConfig.register(RunningSumConfig.model_type, RunningSumConfig, exist_ok=True)
