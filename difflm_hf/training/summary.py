"""What training records of itself, for the model card."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..batches import TensorDataset
from ..callbacks import Stopwatch
from ..distributed import num_processes
from ..modeling_difflm import DiffLMModel
from ..processing_difflm import MIN_CATEGORY_COUNT
from ..records import Field
from ..records.readers import with_json_texts
from .base_trainer import BaseTrainer
from .prepare import PreparedRecords


NUM_HASHED = 64  # embeddings of a base
PACKAGES = ("difflm_hf", "torch", "transformers", "diffusers", "tokenizers", "datasets", "pandas")
# Of a phase, those that users change most.
PHASE_ARGUMENTS = (
    "learning_rate",
    "posterior_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "per_device_train_batch_size",
    "bf16",
    "beta_schedule",
    "beta_max",
    "free_bits",
    "sample_posterior",
    "ema_decay",
)
NUM_COMMON = 5  # categories that a card names
QUANTILES = np.arange(1, 20) / 20  # the 5th to the 95th percentile: between two there are as many as below the first
CHUNK = 2**16  # records that are hashed at a time
MIN_RANGE_COUNT = 20 * MIN_CATEGORY_COUNT  # numbers of which the 5th percentile is above that many


def summarize_training(
    source: Any,
    records: PreparedRecords,
    arguments: dict[str, Any],
    phases: list[dict[str, Any]],
    energy_kwh: float | None,
) -> dict[str, Any]:
    """
    The record of a training, for `DiffLMPipeline.config.training`. It tells of the data what many records share, and
    nothing of a single one.

    Args:
        source (`Any`): What was given as data; its name is kept if it is a file.
        records ([`PreparedRecords`]): What became of them.
        arguments (`dict`): Of [`train`].
        phases (`list[dict]`): What [`summarize_phase`] gave.
        energy_kwh (`float`, *optional*): The energy that all of it took.
    """
    table, schema = records.table, records.processor.schema
    numbers = {
        "num_records": len(records.train),
        "num_validation_records": records.num_validation,
        "num_dropped_records": records.num_dropped,
        "num_given_records": records.num_given,
    }
    columns = [_summarize_column(f, table[f.name]) for f in schema]
    run = summarize_run(source, fingerprint_records(table), numbers, arguments, phases, energy_kwh)
    return {**run, "columns": columns}


def summarize_run(
    source: Any,
    fingerprint: str,
    numbers: dict[str, int],
    arguments: dict[str, Any],
    phases: list[dict[str, Any]],
    energy_kwh: float | None,
) -> dict[str, Any]:
    """
    The record of a training, but for what is in its data.

    Args:
        source, arguments, phases, energy_kwh: As of [`summarize_training`].
        fingerprint (`str`): What [`fingerprint_records`] gave.
        numbers (`dict[str, int]`): Of records in training, in validation, and left out.
    """
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "data": {
            "source": Path(source).name if isinstance(source, (str, os.PathLike)) else None,
            "fingerprint": fingerprint,
            **numbers,
        },
        "arguments": arguments,
        "phases": phases,
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "num_cpus": os.cpu_count(),
            "num_processes": num_processes(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "energy_kwh": energy_kwh,
        "versions": {name: version(name) for name in PACKAGES},
    }


def fingerprint_records(table: pd.DataFrame) -> str:
    """A hash of records, in whatever order."""
    texts, _ = with_json_texts(table)
    # Part by part: as objects, numbers take several times their memory.
    parts = (texts[start : start + CHUNK].astype(object) for start in range(0, len(texts), CHUNK))
    rows = np.concatenate([pd.util.hash_pandas_object(part, index=False) for part in parts])
    # Sorted, since the split into training and validation, which a seed decides, says nothing of the data.
    return f"sha256:{hashlib.sha256(np.sort(rows).tobytes()).hexdigest()}"


def fingerprint_examples(*parts: TensorDataset) -> str:
    """A hash of the ids that models learn from, part by part and in their order."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part.tensors["input_ids"].numpy().tobytes() + b"|")
    return f"sha256:{hashed.hexdigest()}"


def fingerprint_base(model: DiffLMModel) -> str:
    """A hash of what tells pretrained models from others of their sizes: the embeddings of their first ids."""
    hashed = hashlib.sha256()
    for part in (model.decoder, model.encoder):
        if part is not None:
            weights = part.get_input_embeddings().weight[:NUM_HASHED].detach()
            hashed.update(weights.bfloat16().float().cpu().numpy().tobytes())  # whatever dtype this machine loads
    return f"sha256:{hashed.hexdigest()}"


def _summarize_column(field: Field, column: pd.Series) -> dict[str, Any]:
    summary: dict[str, Any] = {"name": field.name, "type": field.type, "nullable": field.nullable}
    values = column.dropna()
    if field.nullable and len(values):
        summary["missing"] = round(1 - len(values) / len(column), 3)
    if field.type in ("category", "boolean"):
        counts = values.value_counts()
        counts = counts[counts >= MIN_CATEGORY_COUNT].head(NUM_COMMON)  # not by labels, as [:5] of floats is
        summary["shares"] = {str(value): round(count / len(column), 3) for value, count in counts.items()}
    if field.type == "category":
        common = counts.index.tolist()
        summary |= {"num_categories": len(field.categories), "common": common, "rarest": field.rarest}
    elif field.is_numeric and len(values := values[field.index_apart(values) < 0]) >= MIN_RANGE_COUNT:
        quantiles = pd.Series(field.to_numpy(values)).quantile(QUANTILES, interpolation="nearest")
        summary["quantiles"] = [_round(field, number) for number in quantiles]
        summary["range"] = [summary["quantiles"][0], summary["quantiles"][-1]]
    elif field.type == "text":
        summary["max_length"] = field.max_length
    elif field.type == "json":
        summary["rarest"] = field.rarest
    if field.words:
        summary |= {"num_words": len(field.words), "rarest": field.rarest}
    return summary


def _round(field: Field, number: Any) -> int | float | str:
    """A number with digits enough to know a range by, too few to know a record by."""
    if field.type == "number":
        return float(f"{number:.3g}")
    if field.type == "integer":
        return int(float(f"{number:.4g}"))  # years as they are
    if field.format is not None and "%Y" not in field.format:
        return number.strftime("%H:%M")  # a time of any day
    moment = number.tz_localize("UTC").tz_convert(field.time_zone) if field.time_zone else number
    return moment.date().isoformat()


def summarize_phase(name: str, trainer: BaseTrainer) -> dict[str, Any]:
    """The record of a phase that has come to its end."""
    state, arguments = trainer.state, trainer.args.to_dict()
    logs = (log for log in state.log_history if "eval_loss" in log and log["step"] == state.best_global_step)
    best = next(logs, {})
    stopwatch = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Stopwatch))
    return {
        "name": name,
        "arguments": {key: arguments[key] for key in PHASE_ARGUMENTS if key in arguments},
        "num_steps": state.global_step,
        "num_epochs": state.epoch,
        "seconds": stopwatch.elapsed,
        **trainer.record,
        "metrics": {
            key: value
            for key, value in best.items()
            if key.startswith("eval_") and not key.endswith(("_runtime", "_per_second"))
        },
    }


@contextmanager
def energy_meter() -> Iterator[Callable[[], float | None]]:
    """Gives what codecarbon, where it is installed, measures in kWh: processors, memory and GPUs, from here on."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        yield lambda: None
        return
    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    # The country matters for emissions only, of which nothing is asked.
    tracker = OfflineEmissionsTracker(country_iso_code="USA", save_to_file=False, log_level="error")
    tracker.start()
    try:
        yield lambda: tracker.stop() and tracker.final_emissions_data.energy_consumed
    finally:
        tracker.stop()
