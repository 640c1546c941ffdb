"""Moments in float32 beside weights in fewer bits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Float32Buffers(nn.Module):
    """
    A module whose own buffers no cast reaches: `.to(torch.bfloat16)`, of it or of what it is in, leaves them in
    float32. In bfloat16, a mean of 10 moves in steps of 0.06, which may be more than the deviation around it.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        # What moves and casts a module goes through here, also where a module around it is meant.
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.dtype != before[name].dtype:
                setattr(self, name, before[name].to(buffer.device))
        return self
