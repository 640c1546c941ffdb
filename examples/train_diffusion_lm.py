"""
Trains a Diffusion-LM on sentences, and shows what it writes: freely, of a given length, and into gaps.

    python examples/train_diffusion_lm.py e2e/train.jsonl --validation e2e/valid.jsonl --output-dir my-diffusion-lm

`examples/diffusion_lm/` has a script for each control.
"""

import argparse
from pathlib import Path

import torch

from difflm_hf import train_diffusion_lm
from difflm_hf.diffusion_lm import GAP, MASK


def main(data: Path, validation: Path | None, output_dir: Path, text_column: str, max_minutes: float) -> None:
    pipe = train_diffusion_lm(data, output_dir, validation, text_column, max_minutes=max_minutes)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    show("Freely", pipe(5, generator=generator).texts)
    show("Of eight words", pipe(5, length=8, generator=generator).texts)
    [text] = pipe(1, length=12, generator=generator).texts
    words = text.split()
    some, many = (" ".join([*words[:3], *gap, *words[6:]]) for gap in ([MASK] * 3, [GAP]))
    show(f"{some!r}, {many!r}", pipe(infill=[some, many], num_candidates=4, generator=generator).texts)


def show(title: str, texts: list[str]) -> None:
    print(f"\n{title}:", *texts, sep="\n  ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="texts: a .jsonl, .csv or .parquet file")
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--max-minutes", type=float, default=60)
    main(**vars(parser.parse_args()))
