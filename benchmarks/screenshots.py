"""
Takes the pictures of an evaluation report, light and dark, that the documents show.

    python -m benchmarks.screenshots REPORT_HTML [--output docs/images]

Needs playwright, and Chromium: one on the path, or the one that `playwright install chromium` downloads.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


SIZE = {"width": 1280, "height": 1600}
COLORS = 64  # a page of text needs no more, and takes a third of the bytes
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def take(report: Path, output_dir: Path) -> None:
    """Writes report-light.png and report-dark.png, the top of a report."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=SIZE, color_scheme=scheme)
            page.goto(report.resolve().as_uri())
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLORS)
            picture.save(output_dir / f"report-{scheme}.png", optimize=True)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, metavar="REPORT_HTML", help="the page that `write_report` wrote")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="the folder of the pictures")
    arguments = parser.parse_args()
    take(arguments.report, arguments.output)


if __name__ == "__main__":
    main()
