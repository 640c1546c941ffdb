"""
Texts of a given number of words: for certain, and by a guide, as in the paper.

    python examples/diffusion_lm/length.py my-diffusion-lm --length 10
"""

import argparse

from difflm_hf import DiffusionLMPipeline
from difflm_hf.diffusion_lm.controls import Length


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--length", type=int, default=10)
parser.add_argument("--num-inference-steps", type=int, default=20)
args = parser.parse_args()

pipe = DiffusionLMPipeline.from_pretrained(args.model)
for arguments in ({"length": args.length}, {"guides": [Length(pipe).guide(args.length)]}):
    print(*pipe(5, args.num_inference_steps, **arguments).texts, sep="\n")
