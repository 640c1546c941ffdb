"""
Tables as spreadsheets export them, and the time that reading a large file takes.

    python -m benchmarks.reading --data-dir DIR

Each table is written with semicolons, decimal commas, numbers up to 1 as percentages, dates as dd.mm.yyyy, and n/a for
what is missing, and is read again: that its tokens are the same means that a model of it is the same, too. Figures go
to benchmarks/results/reading.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from difflm_hf import DiffLMProcessor, RecordSchema
from difflm_hf.records import read_table

from .markdown import to_table
from .results import load_result, save_result


TABLES = ("adult", "default", "beijing", "magic", "shoppers")
NUM_ROWS, NUM_COLUMNS, NUM_TIMES = 1_000_000, 20, 3


def exported(table: pd.DataFrame, schema: RecordSchema) -> pd.DataFrame:
    """Strings as a spreadsheet writes them."""
    texts = {}
    for f in schema:
        column = table[f.name]
        if f.type == "number":
            as_share = f.minimum >= 0 and f.maximum <= 1 and f.decimals is not None and f.decimals >= 2
            digits = f.decimals - 2 if as_share else f.decimals
            values = column * 100 if as_share else column
            written = values.map(lambda v, d=digits: f"{v:.{d}f}".replace(".", ","), na_action="ignore")
            column = written + "%" if as_share else written
        elif f.type == "datetime":
            column = pd.to_datetime(column).dt.strftime("%d.%m.%Y")
        elif f.type == "boolean":
            column = column.map(str, na_action="ignore").str.upper()
        texts[f.name] = column.astype(object).where(table[f.name].notna(), "n/a")
    return pd.DataFrame(texts)


def tokens_of(table: pd.DataFrame, schema: RecordSchema) -> np.ndarray:
    return DiffLMProcessor.from_records(table, schema)(table)["input_ids"].numpy()


def measure_spreadsheet(path: Path, folder: Path) -> dict[str, Any]:
    table = read_table(path)
    schema = RecordSchema.infer(table)
    exported(table, schema).to_csv(folder / "exported.csv", sep=";", index=False, encoding="cp1252")
    other = read_table(folder / "exported.csv")
    of_other = RecordSchema.infer(other)
    kinds = [[(f.name, f.type, f.nullable) for f in of] for of in (schema, of_other)]
    ids = tokens_of(table, schema), tokens_of(other, of_other)
    return {
        "columns": len(schema),
        "written otherwise": sum(f.format is not None for f in of_other),
        "same types": kinds[0] == kinds[1],
        "same tokens": ids[0].shape == ids[1].shape and float((ids[0] == ids[1]).mean()),
    }


def large_file(path: Path) -> None:
    rng, n = np.random.default_rng(0), NUM_ROWS
    start = pd.Timestamp("2021-01-01")
    days = pd.Series(start + pd.to_timedelta(rng.integers(0, 900, n), "D")).dt.strftime("%Y-%m-%d")
    seconds = pd.Series(start + pd.to_timedelta(rng.integers(0, 9 * 10**7, n), "s")).dt.strftime("%Y-%m-%d %H:%M:%S")
    columns = {f"integer {k}": rng.integers(0, 10 ** (k + 2), n) for k in range(5)}
    columns |= {f"number {k}": rng.normal(100, 20, n).round(2) for k in range(4)}
    columns |= {f"precise {k}": rng.normal(size=n) for k in range(2)}
    columns |= {f"category {k}": rng.choice(["red", "green", "blue", "NA"], n) for k in range(4)}
    columns |= {"day": days, "moment": seconds, "flag": rng.choice(["true", "false"], n)}
    columns |= {
        "gaps": pd.Series(rng.integers(0, 99, n)).astype("Int64").mask(rng.random(n) < 0.1),
        "text": [f"name {k}" for k in rng.integers(0, 10**6, n)],
    }
    assert len(columns) == NUM_COLUMNS
    pd.DataFrame(columns).to_csv(path, index=False)


READ = {
    "pandas": "pd.read_csv(path)",
    "read and inferred": "RecordSchema.infer(read_table(path))",
}
PROCESS = """
import sys, time
import pandas as pd
from difflm_hf import RecordSchema
from difflm_hf.records import read_table
path, start = sys.argv[1], time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""


def measure_time(folder: Path) -> dict[str, list[float]]:
    """Seconds of pandas, and of reading and inference, in turn, each in a process of its own."""
    path, seconds = folder / "large.csv", {name: [] for name in READ}
    large_file(path)
    for _ in range(NUM_TIMES):
        for name, statement in READ.items():
            command = [sys.executable, "-c", PROCESS.format(statement=statement), str(path)]
            seconds[name].append(float(subprocess.run(command, check=True, capture_output=True).stdout))
    return seconds


def reading_section() -> str:
    """The page's passage on what was measured."""
    results = load_result("reading")
    seconds = results["seconds"]
    ratio = np.median(np.divide(seconds["read and inferred"], seconds["pandas"]))
    rows = [
        [
            name,
            str(of["columns"]),
            str(of["written otherwise"]),
            "yes" if of["same types"] else "no",
            f"{of['same tokens']:.2%}",
        ]
        for name, of in results["spreadsheets"].items()
    ]
    return (
        "Tables as spreadsheets export them, with semicolons, decimal commas, percentages, dates as dd.mm.yyyy and "
        "n/a for what is missing. Where all tokens are those of the clean table, a model of it is the same to the "
        "bit:\n\n"
        + to_table(["table", "columns", "with a format", "same types", "same tokens"], rows)
        + f"\n\nReading {NUM_ROWS:,} rows by {NUM_COLUMNS} columns of CSV with inference takes {ratio:.1f} times as "
        f"long as pandas alone, which takes {np.median(seconds['pandas']):.1f} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=("spreadsheets", "time"), default=("spreadsheets", "time"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if "spreadsheets" in args.parts:
            paths = {name: args.data_dir / name / "train.csv" for name in TABLES}
            figures = {name: measure_spreadsheet(path, Path(folder)) for name, path in paths.items()}
            print(figures)
            save_result("reading", {"spreadsheets": figures})
        if "time" in args.parts:
            seconds = measure_time(Path(folder))
            print(seconds)
            save_result("reading", {"seconds": seconds})


if __name__ == "__main__":
    main()
