"""
Fills the gaps of a text: `[mask]` stands for one word, `[gap]` for any number of them.

    python examples/diffusion_lm/infilling.py my-diffusion-lm "The Mill is a [gap] near the [mask] ."
"""

import argparse

from difflm_hf import DiffusionLMPipeline


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--num-inference-steps", type=int, default=20)
parser.add_argument("--num-candidates", type=int, default=8, help="of which the one most like the others is shown")
args = parser.parse_args()

pipe = DiffusionLMPipeline.from_pretrained(args.model)
sampling = {"num_inference_steps": args.num_inference_steps, "num_candidates": args.num_candidates}
print(*pipe(infill=[args.text] * 3, **sampling).texts, sep="\n")
