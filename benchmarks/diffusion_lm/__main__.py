"""
Diffusion-LM on sentences of E2E and ATIS, beside an autoregressive LM of equal size: quality, speed, gaps, controls,
ablations; and DiffLM on the same sentences.

    python -m benchmarks.diffusion_lm --data-dir DIR [--datasets e2e atis] [--parts quality infilling controls ...]
        [--controls length "syntax tree" ...] [--minutes 60] [--work-dir DIR]

Models are trained where the work folder has none yet. Figures go to benchmarks/results/diffusion_lm.json;
`python -m benchmarks.report` writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..results import load_result, save_result
from .ablations import measure_ablations
from .controls import measure_controls
from .infilling import measure_infilling
from .quality import measure_quality, measure_steps
from .setting import MINUTES, Setting, read
from .systems import measure_systems


DATASETS = ("e2e", "atis")
PARTS = {
    "quality": (measure_quality, DATASETS),
    "steps": (measure_steps, DATASETS),
    "infilling": (measure_infilling, DATASETS),
    "controls": (measure_controls, DATASETS),
    "ablations": (measure_ablations, ("atis",)),
    "systems": (measure_systems, ("e2e",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--controls", nargs="+", help="of the part of that name; all where not given")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    for name in args.datasets:
        folder = args.work_dir / "diffusion-lm" / name
        setting = Setting(name, folder, args.minutes, read(name, args.data_dir / name))
        for part in args.parts:
            measure, datasets = PARTS[part]
            if name in datasets:
                measured = measure(setting, args.controls) if part == "controls" else measure(setting)
                figures = load_result("diffusion_lm").get(part, {})  # another process may have added to it
                save_result("diffusion_lm", {part: {**figures, name: {**figures.get(name, {}), **measured}}})
                print(part, name, {key: of for key, of in measured.items() if key != "samples"}, flush=True)


if __name__ == "__main__":
    main()
