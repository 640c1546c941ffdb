"""Records as tensors: the datasets and batches that models are trained and evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset


# That batches may have. oneDNN compiles products in bf16 for each length, which takes as long as a step; of a few
# lengths it keeps what it compiled.
NUM_LENGTHS = 16

# What stands where a record has come to its end; elsewhere 0, an id that the mask leaves out.
PADDING = {"labels": -100}


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


def collate_records(examples: Mapping[str, torch.Tensor] | Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """
    Makes a batch of records: the collator of both trainers.

    Args:
        examples (`Mapping` or `Sequence[Mapping]`):
            A batch already, as a [`TensorDataset`] gives it, or examples one by one, as a `datasets.Dataset` does.
            These may be of different lengths, and are padded on the right.

    Returns:
        `dict[str, torch.Tensor]`, each with `batch_size` rows, without columns in which all records are padding.
    """
    if isinstance(examples, Mapping):
        return trim_padding(examples)
    columns = {name: _to_tensors(name, [example[name] for example in examples]) for name in examples[0]}
    for prefix in ("", "decoder_"):
        rows, mask = columns.get(f"{prefix}input_ids", []), f"{prefix}attention_mask"
        if mask not in columns and len({len(row) for row in rows}) > 1:
            columns[mask] = [torch.ones_like(row) for row in rows]  # else padding would be read
    return trim_padding(
        {
            name: pad_sequence(rows, batch_first=True, padding_value=PADDING.get(name, 0))
            for name, rows in columns.items()
        }
    )


def _to_tensors(name: str, rows: list[Any]) -> list[torch.Tensor]:
    try:
        return [torch.as_tensor(row) for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"column {name!r} of the dataset holds {rows[0]!r}, which is no tensor; drop it by "
            f"dataset.remove_columns({name!r})"
        ) from error


def trim_padding(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
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


def record_lengths(dataset: Dataset | datasets.Dataset) -> torch.Tensor | None:
    """Tokens that the decoder reads of each record, of shape `(num_records,)`; `None` where all are of one length."""
    name = "decoder_attention_mask"
    if isinstance(dataset, TensorDataset) and name in dataset.tensors:
        return dataset.tensors[name].sum(1)
    if isinstance(dataset, datasets.Dataset) and name in dataset.column_names:
        return torch.tensor([int(sum(mask)) for mask in dataset[name]])
    return None
