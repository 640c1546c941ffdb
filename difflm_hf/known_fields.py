"""What is known of a record before it is written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig

from .distributed import draw


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
            is_known (`torch.BoolTensor` of shape `(num_told, num_positions)`):
                Which ids of the first records are known. Of the others, if there are any, none is.

        Returns:
            `torch.Tensor` of shape `(batch_size, condition_size)`.
        """
        weight = self.embedding.weight
        weights, told = is_known.to(weight.dtype), ids[: len(is_known)]
        total = F.embedding_bag(told, weight, mode="sum", per_sample_weights=weights)
        total = total + self.position_embedding(weights)
        known = total + self.down(F.relu(self.up(F.layer_norm(total, total.shape[-1:]))))
        return F.pad(known, (0, 0, 0, len(ids) - len(told)))


def draw_known(batch_size: int, position_fields: torch.LongTensor) -> torch.BoolTensor:
    """
    Random subsets of fields to know in training, for the first half of a batch: of each record a random field, and of
    the rest a share u³ for a uniform u, or for every third record 1 − u³: conditions are on few fields, and gaps are
    few.

    Args:
        batch_size (`int`): Records.
        position_fields (`torch.LongTensor` of shape `(num_positions,)`): The field of each position.

    Returns:
        `torch.BoolTensor` of shape `(batch_size // 2, num_positions)`, as [`KnownFields`] takes it.
    """
    num_told, num_fields, device = batch_size // 2, int(position_fields.max()) + 1, position_fields.device
    uniforms, is_other = (draw(torch.rand, num_told, 1, device=device) for _ in range(2))
    shares = torch.where(is_other < 1 / 3, 1 - uniforms**3, uniforms**3)
    first = draw(lambda *shape: torch.randint(num_fields, shape, device=device), num_told, 1)
    is_known = (draw(torch.rand, num_told, num_fields, device=device) < shares).scatter(1, first, True)
    return is_known[:, position_fields]
