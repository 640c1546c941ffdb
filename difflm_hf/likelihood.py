"""How likely ids are, among those that the format of records allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .records.grammar import ChoiceSets
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
    head: nn.Module, hidden: torch.Tensor, ids: torch.LongTensor, allowed: ChoiceSets | None = None
) -> torch.FloatTensor:
    """
    −log p of choices, each over the ids that a grammar allows.

    Args:
        head (`nn.Module`): The head of the causal LM.
        hidden (`torch.Tensor` of shape `(num_choices, hidden_size)`): The states that they are made at.
        ids (`torch.LongTensor` of shape `(num_choices,)`): What was chosen.
        allowed ([`ChoiceSets`], *optional*):
            The ids that there were, among the vocabulary's first ones; not given, all of the vocabulary.

    Returns:
        `torch.FloatTensor` of shape `(num_choices,)`.
    """
    if type(head) is nn.Linear and head.weight.device == hidden.device:  # offloaded weights are elsewhere
        if not head.weight.requires_grad and head.bias is None:
            return _FrozenHeadNLL.apply(hidden.to(head.weight.dtype), head.weight, ids, allowed)
        # Numbers are made of a few ids: the product with all of a large vocabulary would take as long as layers do.
        used = None if allowed is None else allowed.sets.any(0).nonzero().squeeze(1)
        if used is not None and 2 * len(used) < len(head.weight):
            logits = F.linear(hidden, head.weight[used], None if head.bias is None else head.bias[used])
            return limited_nll(
                logits, torch.searchsorted(used, ids), ChoiceSets(allowed.sets[:, used], allowed.numbers)
            )
    return limited_nll(head(hidden), ids, allowed)


def limited_nll(logits: torch.Tensor, ids: torch.LongTensor, allowed: ChoiceSets | None = None) -> torch.FloatTensor:
    """As [`choice_nll`], by logits of shape `(num_choices, vocab_size)`."""
    logits = logits.float()
    if allowed is not None:
        sets = F.pad(allowed.sets, (0, logits.shape[1] - allowed.sets.shape[1]))
        logits = logits.masked_fill(~sets[allowed.numbers], -torch.inf)
    return F.cross_entropy(logits, ids, reduction="none")


class _FrozenHeadNLL(torch.autograd.Function):
    """
    [`choice_nll`] of a head that is not trained, a few choices at a time: of those among the same few ids by the rows
    of these. The gradient by the hidden states is made at once, as the logits are there: to keep them takes more
    memory, and more time, than to make them.
    """

    CHUNK = 128  # choices

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, allowed: ChoiceSets | None
    ) -> torch.Tensor:
        nll, gradient = hidden.new_empty(len(hidden), dtype=torch.float32), torch.empty_like(hidden)
        for rows, used, forbidden in _chunks(len(hidden), len(weight), allowed):
            some, chosen = (weight, ids[rows]) if used is None else (weight[used], torch.searchsorted(used, ids[rows]))
            logits = F.linear(hidden[rows], some).float()
            for places, others in forbidden:
                logits[places].index_fill_(1, others, -torch.inf)
            log_sum = logits.logsumexp(1, keepdim=True)
            nll[rows] = (log_sum - logits.gather(1, chosen[:, None])).squeeze(1)
            if ctx.needs_input_grad[0]:
                probs = logits.sub_(log_sum).exp_()
                probs.scatter_add_(1, chosen[:, None], probs.new_full((len(rows), 1), -1))
                # By autocast the product has another dtype than what it is of.
                gradient[rows] = (probs.to(weight.dtype) @ some).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient.float() * upstream[:, None]).to(gradient.dtype), None, None, None


def _chunks(
    num_choices: int, vocab_size: int, allowed: ChoiceSets | None
) -> Iterator[tuple[torch.LongTensor, torch.LongTensor | None, list[tuple[slice, torch.LongTensor]]]]:
    """
    Choices, some at a time, the ids that they are among where these are few, and else where in the chunk are choices
    that some ids are forbidden to, and which.
    """
    size = _FrozenHeadNLL.CHUNK
    if allowed is None:
        yield from ((rows, None, []) for rows in torch.arange(num_choices).split(size))
        return
    sets = F.pad(allowed.sets, (0, vocab_size - allowed.sets.shape[1]))
    is_few = 2 * sets.sum(1) < vocab_size
    order = allowed.numbers.argsort(stable=True)
    numbers = allowed.numbers[order]
    for number in is_few.nonzero().squeeze(1).tolist():
        used = sets[number].nonzero().squeeze(1)
        yield from ((rows, used, []) for rows in order[numbers == number].split(size))
    is_many = ~is_few[numbers]
    for rows, of_rows in zip(order[is_many].split(size), numbers[is_many].split(size)):
        forbidden, start = [], 0
        for number, count in zip(*(part.tolist() for part in of_rows.unique_consecutive(return_counts=True))):
            forbidden.append((slice(start, start + count), (~sets[number]).nonzero().squeeze(1)))
            start += count
        yield rows, None, forbidden
