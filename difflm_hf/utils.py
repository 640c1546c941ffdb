"""What the machine can do."""

import torch


def supports_bf16() -> bool:
    """Whether this machine, its GPU if it has one, computes in bfloat16 at full speed."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def default_dtype() -> torch.dtype:
    """The fastest dtype that this machine generates in."""
    return torch.bfloat16 if supports_bf16() else torch.float32
