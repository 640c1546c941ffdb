"""
Texts about given values of fields. The classifier is taught by texts with their fields.

    python examples/diffusion_lm/semantic_content.py my-diffusion-lm e2e/train.jsonl food=Japanese area=riverside

Each line of the file has a `text` and its `attributes`, a JSON object.
"""

import argparse
import json
from pathlib import Path

from difflm_hf import DiffusionLMPipeline
from difflm_hf.diffusion_lm.controls import SemanticContent


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("data", type=Path)
parser.add_argument("wanted", nargs="+", help="field=value")
parser.add_argument("--num-steps", type=int, default=2000, help="of teaching the classifier")
parser.add_argument("--num-inference-steps", type=int, default=20)
args = parser.parse_args()

pipe = DiffusionLMPipeline.from_pretrained(args.model)
rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
texts, attributes = [row["text"] for row in rows], [row["attributes"] for row in rows]
content = SemanticContent.fit(pipe, texts, attributes, args.num_steps)
wanted = dict(pair.split("=", 1) for pair in args.wanted)
texts = pipe(5, args.num_inference_steps, guides=[content.guide(wanted, scale=6)], num_candidates=6).texts
print(*texts, sep="\n")
