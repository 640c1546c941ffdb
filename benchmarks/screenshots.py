"""
Takes the pictures that the documents show, light and dark: of an evaluation report, and of the page of a model.

    python -m benchmarks.screenshots REPORT_HTML [--output docs/images]
    python -m benchmarks.screenshots --model MODEL [--output docs/images]

Needs playwright, and Chromium: one on the path, or the one that `playwright install chromium` downloads. The page also
needs gradio.
"""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright


SIZE = {"width": 1280, "height": 1600}
PAGE_SIZE = {"width": 1280, "height": 1300}
COLORS = 64  # a page of text needs no more, and takes a third of the bytes
SCHEMES = ("light", "dark")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def opened(url: str, scheme: str, size: dict[str, int]) -> Iterator[Page]:
    """A page in a browser of one colour scheme."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.goto(url)
        yield page
        browser.close()


def save(page: Page, path: Path) -> None:
    """Writes a picture of what the browser shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLORS)
    picture.save(path, optimize=True)


def take(report: Path, output_dir: Path) -> None:
    """Writes report-light.png and report-dark.png, the top of a report."""
    for scheme in SCHEMES:
        with opened(report.resolve().as_uri(), scheme, SIZE) as page:
            save(page, output_dir / f"report-{scheme}.png")


def take_page(model: str, output_dir: Path) -> None:
    """Writes app-light.png and app-dark.png, the page of a model that has generated records."""
    from difflm_hf.app.page import serving

    with serving(model) as url:
        for scheme in SCHEMES:
            with opened(url, scheme, PAGE_SIZE) as page:
                page.get_by_text("trained on").wait_for()
                page.get_by_role("button", name="Generate", exact=True).click()
                page.get_by_text("records of seed").wait_for()
                page.locator(".marginals").wait_for()
                page.mouse.move(0, 0)
                page.wait_for_timeout(500)  # until what fades in is there
                save(page, output_dir / f"app-{scheme}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "report", type=Path, metavar="REPORT_HTML", nargs="?", help="the page that `write_report` wrote"
    )
    parser.add_argument("--model", help="folder or Hub id of the model whose page is to be shown")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="the folder of the pictures")
    arguments = parser.parse_args()
    if arguments.report is None and arguments.model is None:
        parser.error("give a report, or --model")
    if arguments.report is not None:
        take(arguments.report, arguments.output)
    if arguments.model is not None:
        take_page(arguments.model, arguments.output)


if __name__ == "__main__":
    main()
