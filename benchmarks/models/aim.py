"""AIM of dpmm: noisy marginals, chosen one after the other, and a graphical model that has them."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from dpmm.pipelines.aim import AIMPipeline


SHARE = 0.1  # of ε, for the bins of numbers: dpmm's own default beside an ε of 1
MAX_MODEL_SIZE, NUM_ITERATIONS = 4, 200  # MB, and of each fit; with its defaults of 80 and 1,000 it takes hours


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="of input.csv and domain.json")
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--delta", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    rows = pd.read_csv(args.folder / "input.csv", keep_default_na=False)
    domain = json.loads((args.folder / "domain.json").read_text())
    for name, values in domain.items():
        if "categories" in values:
            rows[name] = rows[name].astype(str)
    start = time.monotonic()
    np.random.seed(args.seed)  # dpmm's noise is of numpy's global state
    pipe = AIMPipeline(
        epsilon=(1 - SHARE) * args.epsilon,
        delta=args.delta,
        proc_epsilon=SHARE * args.epsilon,
        max_model_size=MAX_MODEL_SIZE,
        n_jobs=1,
        gen_kwargs={"n_iters": NUM_ITERATIONS},
    )
    pipe.fit(rows, domain=domain, random_state=args.seed)
    seconds = time.monotonic() - start
    pipe.generate(n_records=len(rows), random_state=args.seed).to_csv(args.folder / "rows.csv", index=False)
    (args.folder / "run.json").write_text(json.dumps({"train_seconds": seconds}))


if __name__ == "__main__":
    main()
