"""What is known of a record before it is written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig


class KnownFields(nn.Module):
    """
    What is known of a record of `config.position_ranges`, as a vector that decoder and denoiser read beside the noise:
    the sum of embeddings of the known ids and of their positions, through a residual block. It is 0 where nothing is
    known.

    Args:
        config ([`DiffLMConfig`]): The configuration, with a `condition_size`.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        size, num_positions = config.condition_size, len(config.fixed_ranges)
        self.embedding = nn.Embedding(config.get_text_config().vocab_size, size)
        self.position_embedding = nn.Linear(num_positions, size, bias=False)
        self.up = nn.Linear(size, 2 * size, bias=False)
        self.down = nn.Linear(2 * size, size, bias=False)

    def forward(self, ids: torch.LongTensor, is_known: torch.BoolTensor) -> torch.Tensor:
        """
        Args:
            ids (`torch.LongTensor` of shape `(batch_size, num_positions)`): Ids after BOS; any where not known.
            is_known (`torch.BoolTensor` of the same shape): Which of them are known.

        Returns:
            `torch.Tensor` of shape `(batch_size, condition_size)`.
        """
        weight = self.embedding.weight
        weights = is_known.to(weight.dtype)
        total = F.embedding_bag(ids, weight, mode="sum", per_sample_weights=weights) + self.position_embedding(weights)
        return total + self.down(F.relu(self.up(F.layer_norm(total, total.shape[-1:]))))


def draw_known(num_records: int, position_fields: torch.LongTensor) -> torch.BoolTensor:
    """
    Random subsets of fields to know in training: of half of the records none, of each other one a random field,
    and a share u³ of the rest for a uniform u, or of every third one 1 − u³: conditions are on few fields, and gaps
    are few.

    Args:
        num_records (`int`): Subsets to draw.
        position_fields (`torch.LongTensor` of shape `(num_positions,)`): The field of each position.

    Returns:
        `torch.BoolTensor` of shape `(num_records, num_positions)`.
    """
    num_fields, device = int(position_fields.max()) + 1, position_fields.device
    uniforms, is_other, is_told = torch.rand(3, num_records, 1, device=device)
    shares = torch.where(is_other < 1 / 3, 1 - uniforms**3, uniforms**3)
    first = torch.randint(num_fields, (num_records, 1), device=device)
    is_known = (torch.rand(num_records, num_fields, device=device) < shares).scatter(1, first, True)
    return (is_known & (is_told < 0.5))[:, position_fields]
