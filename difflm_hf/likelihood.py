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


def choice_nll(
    head: nn.Module, hidden: torch.Tensor, ids: torch.LongTensor, allowed: torch.BoolTensor | None = None
) -> torch.FloatTensor:
    """
    −log p of choices, each over the ids that a grammar allows.

    Args:
        head (`nn.Module`): The head of the causal LM.
        hidden (`torch.Tensor` of shape `(num_choices, hidden_size)`): The states that they are made at.
        ids (`torch.LongTensor` of shape `(num_choices,)`): What was chosen.
        allowed (`torch.BoolTensor` of shape `(num_choices, allowed_size)`, *optional*):
            Which of the vocabulary's first `allowed_size` ids there were; not given, all of the vocabulary.

    Returns:
        `torch.FloatTensor` of shape `(num_choices,)`.
    """
    if allowed is not None and type(head) is nn.Linear and not head.weight.is_meta:
        # Numbers are made of a few ids: the product with all of a large vocabulary would take as long as layers do.
        used = allowed.any(0).nonzero().squeeze(1)
        if 2 * len(used) < len(head.weight):
            logits = F.linear(hidden, head.weight[used], None if head.bias is None else head.bias[used])
            return limited_nll(logits, torch.searchsorted(used, ids), allowed[:, used])
    return limited_nll(head(hidden), ids, allowed)


def limited_nll(
    logits: torch.Tensor, ids: torch.LongTensor, allowed: torch.BoolTensor | None = None
) -> torch.FloatTensor:
    """As [`choice_nll`], by logits of shape `(num_choices, vocab_size)`."""
    logits = logits.float()
    if allowed is not None:
        logits = logits.masked_fill(~F.pad(allowed, (0, logits.shape[1] - allowed.shape[1])), -torch.inf)
    return F.cross_entropy(logits, ids, reduction="none")
