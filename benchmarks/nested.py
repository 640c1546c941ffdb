"""
Records with lists, sequences, and tables that belong together: as rows inside rows, and beside other ways.

    python -m benchmarks.nested --data-dir DIR [--datasets compat beijing] [--models rows json ...] [--minutes 15]
        [--work-dir DIR]
    python -m benchmarks.nested --flat COMMIT --model FOLDER [--work-dir DIR]

`compat` are nested records; `beijing` is joined again from its splits as two tables, days and their hours. Models are
trained where the work folder has none yet. With `--flat` nothing is measured but how fast a saved model of rows
without lists writes, by another commit and by this code in turn. Figures go to benchmarks/results/nested.json;
`python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from difflm_hf import DiffLMPipeline, train
from difflm_hf.evaluation import classifier_two_sample_test
from difflm_hf.evaluation.nested import categorical_columns, flatten_records, nested_scores
from difflm_hf.records import JSONCodec, RecordSchema, read_table
from difflm_hf.training import DataArguments

from .generation import processor
from .markdown import mean_interval, to_table
from .results import load_result, save_result
from .setting import seeded
from .speed import NUM_ROUNDS, NUM_ROWS, ROOT, checkout, running
from .tables import MODELS, Model, find_python


MINUTES = 15
SLOW_RECORDS = 2048  # of models that write a few dozen a second
HOURS = 24
RARE = "_RARE_"
TITLES = {
    "rows": "**rows inside rows**",
    "json": "JSON text, an LM from scratch",
    "tabular_argn": "TabularARGN, flat columns",
    "origami": "origami",
}
ORIGAMI = Model("origami", ("origami-ml==2.0.1", "pandas"))


@dataclass
class Dataset:
    """Records and their splits, and of those that are two tables the schema."""

    name: str
    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame
    schema: RecordSchema | None = None

    @cached_property
    def max_items(self) -> int | None:
        return HOURS if self.schema is not None else None

    def flat(self, *tables: pd.DataFrame) -> list[pd.DataFrame]:
        return flatten_records(*[self.unkeyed(table) for table in tables], max_items=self.max_items)

    def unkeyed(self, table: pd.DataFrame) -> pd.DataFrame:
        """Without the column that tells records apart and says nothing of them."""
        return table if self.schema is None else table.drop(columns=list(self.schema.identifiers))


def read_compat(folder: Path) -> Dataset:
    return Dataset("compat", *(read_table(folder / f"{split}.jsonl") for split in ("train", "valid", "test")))


def read_beijing(folder: Path) -> Dataset:
    """Days with their hours, split anew: its splits are of hours."""
    hours = pd.concat([pd.read_csv(folder / f"{split}.csv") for split in ("train", "valid", "test")])
    hours = hours.sort_values(["year", "month", "day", "hour"], ignore_index=True)
    days = hours[["year", "month", "day"]].drop_duplicates(ignore_index=True)
    days.insert(0, "day_id", range(1, len(days) + 1))
    hours = days.merge(hours, on=["year", "month", "day"]).drop(columns=["year", "month", "day"])
    days = days.drop(columns="day")
    schema = RecordSchema.from_tables(days, {"hours": hours}, on="day_id", categorical=["year", "month"])
    records = schema.from_parents(days, {"hours": hours})
    order = np.random.default_rng(42).permutation(len(records))
    tenth = len(records) // 10
    parts = (order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth])
    return Dataset("beijing", *(records.iloc[part].reset_index(drop=True) for part in parts), schema)


READERS: dict[str, Callable[[Path], Dataset]] = {"compat": read_compat, "beijing": read_beijing}


def run_ours(data: Dataset, nested: str, output: Path, seed: int, minutes: float) -> dict[str, Any]:
    """Trains and generates, and leaves records.jsonl."""
    start = time.perf_counter()
    arguments = {"schema": data.schema, "data_args": DataArguments(nested=nested), "seed": seed}
    train(data.train, output / "model", validation=data.valid, max_minutes=minutes, **arguments)
    train_seconds = time.perf_counter() - start
    pipe = DiffLMPipeline.from_pretrained(output / "model")
    pipe.set_progress_bar_config(disable=True)
    pipe(8)
    num = len(data.train) if nested == "rows" else SLOW_RECORDS
    start = time.perf_counter()
    records = pipe(num, generator=seeded(seed), output_type="pandas").records
    seconds = time.perf_counter() - start
    lines = JSONCodec(pipe.processor.schema).encode(records)
    (output / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figures = {"train_seconds": train_seconds, "records_per_second": num / seconds, "threads": torch.get_num_threads()}
    if data.schema is not None:
        parents, children = pipe.processor.schema.to_tables(records)
        figures["doubled_keys"] = int(parents["day_id"].duplicated().sum())
        figures["orphans"] = int((~children["hours"]["day_id"].isin(parents["day_id"])).sum())
    return figures


def run_flat(data: Dataset, output: Path, seed: int) -> None:
    """Lets TabularARGN learn the flat columns; leaves rows.csv and run.json."""
    flat = data.flat(data.train, data.valid)
    for split, table in zip(("train", "valid"), flat):
        table.to_csv(output / f"{split}.csv", index=False)
    info = {"categorical": categorical_columns(flat[0])}
    (output / "info.json").write_text(json.dumps(info))
    model = MODELS["tabular_argn"]
    command = [find_python(model, output.parents[2] / "environments"), "-m", "benchmarks.models.tabular_argn"]
    command += ["--data", output, "--output", output, "--num-rows", len(data.train), "--seed", seed]
    subprocess.run([*map(str, command)], check=True)


def run_origami(data: Dataset, folder: Path, output: Path, seed: int, minutes: float) -> None:
    command = [find_python(ORIGAMI, output.parents[2] / "environments"), "-m", "benchmarks.models.origami"]
    command += ["--data", folder, "--output", output, "--num-records", SLOW_RECORDS, "--minutes", minutes]
    subprocess.run([*map(str, command), "--seed", str(seed)], check=True)


def generate(model: str, data: Dataset, folder: Path, output: Path, seed: int, minutes: float) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if model in ("rows", "json"):
        figures = run_ours(data, model, output, seed, minutes)
        (output / "run.json").write_text(json.dumps(figures, indent=2))
    elif model == "origami":
        run_origami(data, folder, output, seed, minutes)
    else:
        run_flat(data, output, seed)


def generation_speed(data: Dataset, output: Path, seed: int) -> dict[str, Any]:
    """Records a second of a model that is there, at best of two times, on a machine that does nothing else."""
    pipe = DiffLMPipeline.from_pretrained(output / "model")
    pipe.set_progress_bar_config(disable=True)
    pipe(8)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        pipe(len(data.train), generator=seeded(seed), output_type="pandas")
        seconds.append(time.perf_counter() - start)
    return {"records_per_second": len(data.train) / min(seconds), "threads": torch.get_num_threads()}


def score(model: str, data: Dataset, output: Path, seed: int) -> dict[str, Any]:
    figures = json.loads((output / "run.json").read_text())
    figures["records_per_second"] = figures.get("records_per_second", figures.get("rows_per_second"))
    if model == "tabular_argn":
        [test] = data.flat(data.test)
        texts = {name: str for name in categorical_columns(test)}
        rows, train = (pd.read_csv(output / f"{name}.csv", dtype=texts) for name in ("rows", "train"))
        rows = rows.replace({"True": "true", "False": "false"})
        synthetic = with_rare_values(rows, train, seed)
        synthetic = synthetic[test.columns].astype(test.dtypes.to_dict())
        return figures | {"c2st": two_sample(test, synthetic, seed)}
    synthetic = read_table(output / "records.jsonl")
    for name in set(data.train) - set(synthetic):
        synthetic[name] = None
    return figures | scores(data, synthetic[list(data.train)], seed)


def with_rare_values(synthetic: pd.DataFrame, train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """TabularARGN's mark of rare values, by which any classifier knows its rows, in exchange for such values."""
    rng = np.random.default_rng(seed)
    for name in synthetic.select_dtypes(["object", "string"]):
        is_rare = synthetic[name] == RARE
        if is_rare.any():
            real = train[name][~train[name].isin(synthetic[name])]
            synthetic.loc[is_rare, name] = rng.choice(real.dropna().to_numpy(), is_rare.sum())
    return synthetic


def scores(data: Dataset, synthetic: pd.DataFrame, seed: int) -> dict[str, Any]:
    validator = RecordSchema.infer(data.train) if data.schema is None else data.schema
    valid = np.all([validator[name].allows(synthetic[name]) for name in validator.names], axis=0)
    synthetic = synthetic[valid].reset_index(drop=True)  # only these can be read as what the real ones are
    found = nested_scores(data.unkeyed(data.train), data.unkeyed(synthetic))
    parts = {f"{name}_{of}": part[of] for name, part in found.items() for of in ("mean", "worst")}
    return {"valid": float(valid.mean()), "c2st": two_sample(*data.flat(data.test, synthetic), seed), **parts}


def two_sample(real: pd.DataFrame, synthetic: pd.DataFrame, seed: int) -> float:
    return classifier_two_sample_test(real, synthetic, categorical_columns(real), seed=seed)


COLUMNS = {
    "valid": ("valid", ".1%"),
    "c2st": ("C2ST", ".3f"),
    "lengths_mean": ("lengths", ".3f"),
    "lengths_worst": ("worst", ".3f"),
    "presence_mean": ("presence", ".3f"),
    "presence_worst": ("worst ", ".3f"),
    "autocorrelation_worst": ("autocorrelation", ".3f"),
    "parent_child_mean": ("parents and children", ".3f"),
    "train_seconds": ("training, s", ".0f"),
    "records_per_second": ("records/s", ",.0f"),
}

REMARKS = """
On {processor}. JSON text and the peers were trained in one thread for 30 minutes, in place of two threads for 15; runs
of rows in one thread took as much longer. TabularARGN marks rare values by a word of its own, by which any classifier
knows its rows: rare values were drawn in their place. With a layer of attention over the items so far in place of the
recurrent state, days and hours of seed 0 had a C2ST of 0.588 (0.631 with the state, which another seed takes to
0.537), autocorrelations off by 0.180 (0.138), and 0.8 times the speed.
""".strip()
FLAT = """
Flat rows are generated at {after:,.0f} a second, and before there were lists at {before:,.0f}: one saved model of
adult, by this code and by commit {commit} in turn, the best of {num_rounds} rounds ({ratio:.2f} times as fast).
""".strip()


def nested_section() -> str:
    results, passages = load_result("nested"), []
    for name in (name for name in READERS if name in results):
        rows = []
        for model, title in {"real": "real records", **TITLES}.items():
            if model not in results[name]:
                continue
            runs = list(results[name][model].values())
            cells = []
            for key, (_, form) in COLUMNS.items():
                found = [run[key] for run in runs if run.get(key) is not None and np.isfinite(run[key])]
                cells.append(mean_interval(found, form) if found else "")
            rows.append([title, *cells])
        passages.append(f"**{name}**\n\n" + to_table(["", *(title for title, _ in COLUMNS.values())], rows))
    passages.append(REMARKS.format(processor=results["processor"]))
    if flat := results.get("flat"):
        passages.append(FLAT.format(**flat, ratio=flat["after"] / flat["before"], num_rounds=NUM_ROUNDS))
    return "\n\n".join(passages)


def flat_speed(model: Path, commit: str, work_dir: Path) -> dict[str, Any]:
    """Rows a second of a saved model without lists, by another commit and by this code in turn."""
    trees = {"before": checkout(commit, work_dir / "commits"), "after": ROOT}
    with ExitStack() as stack:
        workers = {
            side: stack.enter_context(running(sys.executable, tree, "saved_pipeline", model))
            for side, tree in trees.items()
        }
        for worker in workers.values():
            worker.seconds(1)  # what is slow the first time
        times = [{side: worker.seconds(NUM_ROWS) for side, worker in workers.items()} for _ in range(NUM_ROUNDS)]
    return {"commit": commit} | {side: NUM_ROWS / min(round_[side] for round_ in times) for side in trees}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--flat", metavar="COMMIT", help="measure the speed of flat rows, beside this commit")
    parser.add_argument("--model", type=Path, help="of flat rows")
    parser.add_argument("--datasets", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--models", nargs="+", choices=["real", *TITLES], default=["real", *TITLES])
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that models from scratch train")
    parser.add_argument("--time-generation", action="store_true", help="measure nothing but the speed of models there")
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    if args.flat:
        save_result("nested", {"flat": flat_speed(args.model, args.flat, args.work_dir)})
        return
    for name in args.datasets:
        data = READERS[name](args.data_dir / name)
        for model in args.models:
            for seed in args.seeds:
                output = args.work_dir / "nested" / name / f"{model}-{seed}"
                measured = load_result("nested").get(name, {}).get(model, {}).get(str(seed))
                if args.time_generation:
                    if model != "rows" or measured is None:
                        continue
                    found = measured | generation_speed(data, output, seed)
                elif model == "real":
                    found = scores(data, data.train.sample(len(data.test), random_state=seed), seed)
                else:
                    if not (output / "run.json").exists():
                        generate(model, data, args.data_dir / name, output, seed, args.minutes)
                    found = score(model, data, output, seed)
                figures = load_result("nested").get(name, {})
                measured = {**figures, model: {**figures.get(model, {}), str(seed): found}}
                save_result("nested", {name: measured, "processor": processor()})
                print(name, model, seed, found, flush=True)


if __name__ == "__main__":
    main()
