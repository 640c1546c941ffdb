"""
origami (arXiv 2603.01444) with its defaults, and as many epochs as fit into the minutes it is given. It gives up all
records of a call where one does not end; they are asked for in small groups, and such a group is drawn again.

    python -m benchmarks.models.origami --data DIR --output DIR --num-records N --minutes M --seed S
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from origami import OrigamiConfig, OrigamiPipeline, TrainingConfig
from origami.inference.utils import GenerationError


GROUP, MAX_LENGTH = 64, 1024
PROBED = 1024  # records that the time of an epoch is taken from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num-records", type=int, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    lines = (args.data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(args.seed)
    start = time.perf_counter()
    OrigamiPipeline().fit(records[:PROBED], epochs=1, callbacks=[])
    seconds = (time.perf_counter() - start) / PROBED * len(records)
    num_epochs = max(1, round((args.minutes * 60 - (time.perf_counter() - start)) / seconds))
    pipe = OrigamiPipeline(OrigamiConfig(training=TrainingConfig(num_epochs=num_epochs)))
    pipe.fit(records, epochs=num_epochs, callbacks=[])
    trained = time.perf_counter()
    pipe.save(args.output / "model")
    generated, num_lost = [], 0
    while len(generated) < args.num_records:
        seed = 1000 * args.seed + len(generated) // GROUP + num_lost
        try:
            generated += pipe.generate(GROUP, batch_size=GROUP, max_length=MAX_LENGTH, seed=seed)
        except GenerationError:
            num_lost += 1
    generated = generated[: args.num_records]
    figures = {
        "num_lost_groups": num_lost,
        "train_seconds": trained - start,
        "num_epochs": num_epochs,
        "records_per_second": len(generated) / (time.perf_counter() - trained),
    }
    text = "".join(json.dumps(record) + "\n" for record in generated)
    (args.output / "records.jsonl").write_text(text, encoding="utf-8")
    (args.output / "run.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
