"""Linear maps of their own for each position, and the sums that they read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_running_sum import RunningSumConfig


SHORT = 64  # tokens, up to which a product with a triangle of ones takes a third of the time of `cumsum`


def running_sums(terms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The sums of the first 1, 2, ... terms along the last dimension but one, with a weight of each if given."""
    length = terms.shape[-2]
    if 1 < length <= SHORT:
        triangle = terms.new_ones(length, length).tril()
        return (triangle if weights is None else triangle * weights[..., None, :]) @ terms
    terms = weigh(terms, weights)
    return terms if length == 1 else terms.cumsum(-2)


def weigh(terms: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return terms if weights is None else terms * weights[..., None]


def weights_at(weight: torch.Tensor, positions: slice | torch.LongTensor) -> torch.Tensor:
    """The weights of some positions. Those of all are not sliced: the gradient of a slice is a copy of the whole."""
    return weight if positions == slice(0, len(weight)) else weight[positions]


class PositionwiseLinear(nn.Module):
    """
    A linear map of its own for each position.

    Args:
        num_positions, in_features, out_features (`int`): Sizes.
    """

    def __init__(self, num_positions: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, in_features, out_features))

    def forward(
        self, hidden: torch.Tensor, positions: slice | torch.LongTensor, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            hidden (`torch.Tensor` of shape `(num_groups, group_size, in_features)`): States, by position.
            positions (`slice` or `torch.LongTensor` of shape `(num_groups,)`): The position of each group.
            added (`torch.Tensor`, *optional*): What to add to the result.

        Returns:
            `torch.Tensor` of shape `(num_groups, group_size, out_features)`.
        """
        weight = weights_at(self.weight, positions)
        return torch.bmm(hidden, weight) if added is None else torch.baddbmm(added, hidden, weight)


class RunningSumBlock(GradientCheckpointingLayer):
    """Two layers around an activation, added to their input."""

    def __init__(self, config: RunningSumConfig, num_positions: int | None = None):
        super().__init__()
        sizes = config.hidden_size, config.intermediate_size
        num_positions = num_positions or config.num_positions
        self.up = PositionwiseLinear(num_positions, *sizes)
        self.down = PositionwiseLinear(num_positions, *reversed(sizes))

    def forward(self, hidden: torch.Tensor, positions: slice | torch.LongTensor) -> torch.Tensor:
        return self.down(F.relu(self.up(hidden, positions)), positions, added=hidden)
