"""
Trains on sequences over time: records with a list of readings, of which each goes by the ones before it.

    python examples/sequences.py --max_minutes 2

The sequences are made here: machines whose temperature drifts and is read at irregular times. A column that ascends in
all lists, as the time does, ascends in all that are generated.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import HfArgumentParser

from difflm_hf import train
from difflm_hf.evaluation import nested_scores
from difflm_hf.records import write_table


@dataclass
class Arguments:
    output_dir: Path = field(default=Path("machines-model"), metadata={"help": "A new or empty folder for the model."})
    max_records: int = field(default=1000, metadata={"help": "Sequences to make and to train on."})
    max_minutes: float | None = field(default=None, metadata={"help": "Time that training may take."})
    num_records: int = field(default=500, metadata={"help": "Sequences to generate, and to compare with as many new."})
    output: Path = field(default=Path("sequences.jsonl"), metadata={"help": "A .jsonl or .parquet file."})
    seed: int = field(default=0, metadata={"help": "Seed of all that is made, trained and generated."})


def make_machines(num_records: int, rng: np.random.Generator) -> pd.DataFrame:
    """Old machines run hotter than new ones; a reading above 90 degrees raises the alarm."""
    records: list[dict[str, Any]] = []
    for _ in range(num_records):
        age = str(rng.choice(["old", "new"]))
        mean, temperature, hour = (80, 80, 0) if age == "old" else (60, 60, 0)
        readings = []
        for _ in range(rng.integers(8, 17)):
            hour += int(rng.integers(1, 6))
            temperature = mean + 0.8 * (temperature - mean) + 5 * rng.normal()
            readings.append({"hour": hour, "temperature": round(temperature, 1), "alarm": bool(temperature > 90)})
        records.append({"age": age, "readings": readings})
    return pd.DataFrame(records)


def main(args: Arguments) -> None:
    rng = np.random.default_rng(args.seed)
    real, new = make_machines(args.max_records, rng), make_machines(args.num_records, rng)
    pipe = train(real, args.output_dir, max_minutes=args.max_minutes, seed=args.seed)

    generator = torch.Generator().manual_seed(args.seed)
    generated = pipe(args.num_records, generator=generator, output_type="pandas").records
    write_table(generated, args.output)
    hours = generated["readings"].map(lambda readings: [reading["hour"] for reading in readings])
    assert all(list(row) == sorted(row) for row in hours), "time went back"

    # Scores are best at 0, but new sequences of the same law are not there either.
    scores = {"generated": nested_scores(new, generated), "new": nested_scores(new, make_machines(len(new), rng))}
    rows = {name: {title: part[name]["mean"] for title, part in scores.items()} for name in scores["new"]}
    print(pd.DataFrame(rows).T.round(3))
    lags = scores["generated"]["autocorrelation"]["columns"]["readings[*].temperature"]
    table = pd.DataFrame({name: lags[name] for name in ("real", "synthetic")}).rename_axis("lag").round(2)
    table.index += 1
    print("autocorrelation of the temperature", table, sep="\n")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
