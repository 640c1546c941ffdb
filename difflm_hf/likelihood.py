"""How likely ids are, among those that the format of records allows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .records.layout import LevelLayout


def row_nll(
    head: nn.Linear,
    hidden: torch.Tensor,
    ids: torch.LongTensor,
    level: LevelLayout,
    is_free: torch.BoolTensor | None = None,
) -> torch.FloatTensor:
    """
    −log p of rows, each over the ids that its layout allows.

    Args:
        head (`nn.Linear`): The head of the causal LM.
        hidden (`torch.Tensor` of shape `(num_rows, num_positions, hidden_size)`): The states of their positions.
        ids (`torch.LongTensor` of shape `(num_rows, num_positions)`): Their ids.
        level ([`LevelLayout`]): Their layout.
        is_free (`torch.BoolTensor` of shape `(num_rows, num_positions)`, *optional*): The ids that count.

    Returns:
        `torch.FloatTensor` of shape `(num_rows,)`.
    """
    starts, ends = torch.tensor(level.ranges, device=ids.device).T
    choices = starts[:, None] + torch.arange(int((ends - starts).max()), device=ids.device)
    known = choices.clamp(max=len(head.weight) - 1)
    # One batched product over positions, each with the head's rows for its own range.
    logits = torch.einsum("bph,pkh->bpk", hidden, F.embedding(known, head.weight))
    if head.bias is not None:
        logits = logits + head.bias[known]
    logits = logits.float().masked_fill(choices >= ends[:, None], -torch.inf)
    for position in {gate.position for gate in level.gates}:
        logits[:, position] = level.limit(logits[:, position], position, ids)
    nll = token_nll(logits, ids - starts)
    return (nll if is_free is None else nll.masked_fill(~is_free, 0)).sum(1)


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−log softmax(logits)[target] of each token, 0 where the target is negative."""
    # The vocabulary is the last dimension, not the second: softmax over memory that is not contiguous is slow.
    nll = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten().clamp(min=-100), reduction="none", ignore_index=-100
    )
    return nll.view(targets.shape)
