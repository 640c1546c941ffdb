"""
The way of a newcomer in the page: uploads a table as a CSV with semicolons and decimal commas, trains on it, generates
100,000 rows and saves them, by the mouse and by the keyboard alone, in a narrow and in a wide window, light and dark.

    python -m benchmarks.page --data-dir DIR [--dataset magic] [--minutes 1]

Needs gradio, playwright and Chromium. Figures go to benchmarks/results/page.json; `python -m benchmarks.report` writes
docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from playwright.sync_api import FileChooser, Locator, Page

from difflm_hf.app.page import serving

from .markdown import to_table
from .results import load_result, save_result
from .screenshots import opened


NUM_ROWS = 100_000
WAYS = (("mouse", 1280, "light"), ("keyboard", 1280, "dark"), ("mouse", 390, "dark"), ("keyboard", 390, "light"))
PATIENCE = 600_000  # ms
# The longest time that the page did not answer in: ticks come late where it is busy.
WATCH = """() => { window.frozen = 0; let last = performance.now(); setInterval(() => {
    const now = performance.now(); window.frozen = Math.max(window.frozen, now - last - 50); last = now; }, 50); }"""


class Hand:
    """What a visitor does, by the mouse or by the keyboard alone."""

    def __init__(self, page: Page, way: str):
        self.page, self.by_keyboard = page, way == "keyboard"

    def reach(self, target: Locator) -> None:
        """Moves to what is to be used: by tabs alone, as one who has no mouse."""
        target.wait_for(timeout=PATIENCE)
        for _ in range(200):
            if target.evaluate("e => e === document.activeElement || e.contains(document.activeElement)"):
                return
            self.page.keyboard.press("Tab")
        raise RuntimeError(f"the keyboard does not reach {target}")

    def press(self, target: Locator) -> None:
        if self.by_keyboard:
            self.reach(target)
            self.page.keyboard.press("Enter")
        else:
            target.click(timeout=PATIENCE)

    def open_tab(self, name: str) -> None:
        target = self.page.get_by_role("tab", name=name)
        if self.by_keyboard:
            target.focus()
            self.page.keyboard.press("Enter")
        else:
            target.click()

    def upload(self, path: Path) -> None:
        with self.page.expect_file_chooser(timeout=PATIENCE) as chooser:
            self.press(self.page.locator("#train-file button").first)
        chosen: FileChooser = chooser.value
        chosen.set_files(path)

    def write(self, label: str, text: str) -> None:
        field = self.page.get_by_label(label, exact=True).first
        if not self.by_keyboard:
            field.fill(text)
            return
        self.reach(field)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)


def walk(url: str, table: Path, num_columns: int, way: str, width: int, scheme: str, minutes: float) -> dict[str, Any]:
    """Goes the way, and says how long it took and what was wrong."""
    problems, requested = [], []
    with opened(url, scheme, {"width": width, "height": 900}) as page:
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.reload()
        hand, start = Hand(page, way), time.monotonic()
        page.get_by_role("tab", name="Train").wait_for()
        hand.open_tab("Train")
        hand.upload(table)
        page.get_by_text(re.compile(rf"rows, {num_columns} columns")).wait_for(timeout=PATIENCE)
        hand.write("Minutes", f"{minutes:g}")
        hand.press(page.get_by_role("button", name="Train", exact=True))
        page.get_by_text("The model is in use now").wait_for(timeout=PATIENCE)
        trained = time.monotonic()
        hand.press(page.get_by_role("button", name="Generate with this model"))
        hand.write("Records", str(NUM_ROWS))
        page.evaluate(WATCH)
        hand.press(page.get_by_role("button", name="Generate", exact=True))
        page.get_by_text(f"{NUM_ROWS:,} records of seed 0.").wait_for(timeout=PATIENCE)
        frozen = page.evaluate("window.frozen") / 1000
        with page.expect_download(timeout=PATIENCE) as download:
            hand.press(page.get_by_role("link", name="CSV", exact=True))
        lines = Path(download.value.path()).read_text().splitlines()
        end = time.monotonic()
        return {
            "seconds": end - start,
            "training_seconds": trained - start,
            "frozen_seconds": frozen,
            "problems": problems,
            "other_hosts": [asked for asked in requested if not asked.startswith((url, "data:", "blob:"))],
            "num_rows": len(lines) - 1,
            "is_alike": lines[0] == table.read_text().splitlines()[0] and bool(re.search(r"\d,\d", lines[1])),
        }


def page_section() -> str:
    results = load_result("page")
    if not results:
        return "It has not been gone yet."
    rows = [
        [
            way,
            f"{run['training_seconds']:.0f} s",
            f"{run['seconds']:.0f} s",
            f"{run['frozen_seconds']:.1f} s",
            f"{run['num_rows']:,}",
            "yes" if run["is_alike"] else "no",
            str(len(run["problems"])),
            str(len(run["other_hosts"])),
        ]
        for way, run in results["ways"].items()
    ]
    header = ["way", "until the model is there", "until the CSV is there", "longest freeze", "rows"]
    header += ["separator and commas come back", "errors", "requests to other hosts"]
    return (
        f"A table ({results['dataset']}) as a CSV with semicolons and decimal commas is uploaded into "
        f"[the page](app.md), learnt for {results['minutes']:g} minutes, and {NUM_ROWS:,} rows of it are generated "
        "and saved, in Chromium:\n\n" + to_table(header, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--dataset", default="magic")
    parser.add_argument("--minutes", type=float, default=1)
    args = parser.parse_args()
    ways = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{args.dataset}.csv")
        real = pd.read_csv(args.data_dir / args.dataset / "train.csv")
        real.to_csv(path, sep=";", decimal=",", index=False)
        for way, width, scheme in WAYS:
            with serving() as url:
                name = f"{way}, {width} px, {scheme}"
                ways[name] = walk(url, path, real.shape[1], way, width, scheme, args.minutes)
                print(name, ways[name], flush=True)
    save_result("page", {"dataset": args.dataset, "minutes": args.minutes, "ways": ways})


if __name__ == "__main__":
    main()
