"""
The gradients of single records, clipped: what differentially private training sums up (arXiv 1607.00133).

They are never computed one by one. What a linear map adds to the gradient of its weight is an outer product of its
input and of the gradient of its output, so that these two tell the norm of each record's gradient (arXiv 1510.01799);
a second backward pass, of the losses times the factors that clip them, then gives the sum (arXiv 2009.03106).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode


def of_embedding(gradient: torch.Tensor, ids: torch.Tensor, weight: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    is_same = ids[:, :, None] == ids[:, None, :]  # rows that a record reads twice get both gradients
    return (torch.bmm(gradient, gradient.mT) * is_same).sum((1, 2))


def of_linear(
    gradient: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    if gradient.ndim > 2:
        raise NotImplementedError("a linear map of several vectors of a record")
    of_bias = 1 if bias is not None and bias.requires_grad else 0
    return gradient.square().sum(1) * (inputs.square().sum(1) + of_bias)


def of_bmm(gradient: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (gradient.square().sum(2) * inputs.square().sum(2)).sum(0)  # positions come first, then records


def of_baddbmm(
    gradient: torch.Tensor, added: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    of_added = gradient.square().sum((0, 2)) if isinstance(added, nn.Parameter) else 0
    return of_bmm(gradient, inputs, weight) + of_added


def of_einsum(gradient: torch.Tensor, equation: str, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if equation != "bph,pkh->bpk":
        raise NotImplementedError(f"einsum {equation!r} of a weight")
    return (gradient.square().sum(2) * inputs.square().sum(2)).sum(1)


# Squared norms of each record's gradient, of a function that reads a weight: from the gradient of its output, and
# from its arguments
NORMS: dict[Callable, Callable[..., torch.Tensor]] = {
    F.embedding: of_embedding,
    F.linear: of_linear,
    torch.bmm: of_bmm,
    torch.baddbmm: of_baddbmm,
    torch.einsum: of_einsum,
}


class WeightUses(TorchFunctionMode):
    """
    Within it, whatever reads a weight of a model is noted, so that [`WeightUses.backward`] can clip.

    Records may share nothing but weights. A weight may be read more than once where each time other parts of it are,
    as are the rows of a head for the ranges of a compact codec.

    Args:
        model (`nn.Module`): The model.
        head (`nn.Linear`, *optional*): A head of which rows are looked up, the same for all records.

    Raises:
        `NotImplementedError`: within it, for what reads a weight in a way that it cannot clip.
    """

    def __init__(self, model: nn.Module, head: nn.Linear | None = None):
        super().__init__()
        self.model = model
        self.weights = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        self.head = None if head is None else head.weight
        self.rows: list[torch.Tensor] = []  # of the head, kept so that no other tensor gets their ids
        self.uses: list[tuple[torch.Tensor, Callable[..., torch.Tensor], tuple[Any, ...]]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if not isinstance(output, torch.Tensor) or not output.requires_grad:
            return output
        if not self.weights & set(map(id, args)):
            return output
        if func is F.embedding and args[1] is self.head:
            self.rows.append(output)
            self.weights.add(id(output))
        elif func in NORMS:
            self.uses.append((output, NORMS[func], args))
        else:
            raise NotImplementedError(f"{func.__name__} of a weight is not known to private training")
        return output

    def backward(self, losses: torch.Tensor, max_norm: float) -> torch.Tensor:
        """
        Gives the weights the sum over records of their gradients, each scaled down to a norm of `max_norm` at most
        (arXiv 1607.00133, algorithm 1).

        Args:
            losses (`torch.Tensor` of shape `(batch_size,)`): The losses of records, computed within this.
            max_norm (`float`): Largest norm of one record's gradient, over all weights together.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`: The norms before.
        """
        outputs, norms_of, arguments = zip(*self.uses)
        gradients = torch.autograd.grad(losses.sum(), outputs, retain_graph=True)
        with torch.no_grad():
            squares = [norm_of(g, *args) for g, norm_of, args in zip(gradients, norms_of, arguments)]
            norms = torch.stack(squares).sum(0).sqrt()
        scales = (max_norm / norms.clamp(min=1e-12)).clamp(max=1)
        (losses * scales).sum().backward()
        return norms
