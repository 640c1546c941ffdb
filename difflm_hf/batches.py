"""Records as tensors: the datasets and batches that models are trained and evaluated on."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset


# That batches may have. oneDNN compiles products in bf16 for each length, which takes as long as a step; of a few
# lengths it keeps what it compiled.
NUM_LENGTHS = 16


class TensorDataset(Dataset):
    """Tensors with one row for each record, indexed a batch at a time."""

    def __init__(self, **tensors: torch.Tensor):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return self[torch.tensor(indices)]


def trim_padding(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch of records without columns in which all of them are padding, of one of [`NUM_LENGTHS`] lengths."""
    trimmed = dict(batch)
    for prefix in ("", "decoder_"):
        if (mask := batch.get(f"{prefix}attention_mask")) is not None:
            step = -(-mask.shape[1] // NUM_LENGTHS)
            length = -(-int(mask.sum(1).max()) // step) * step
            trimmed |= {name: batch[name][:, :length] for name in (f"{prefix}input_ids", f"{prefix}attention_mask")}
    if "labels" in batch:
        trimmed["labels"] = batch["labels"][:, : trimmed["decoder_input_ids"].shape[1]]
    return trimmed
