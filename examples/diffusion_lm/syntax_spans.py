"""
Texts with one of the constituents of an example. The classifier is taught by what spaCy says of texts.

    pip install "difflm_hf[syntax]"
    python examples/diffusion_lm/syntax_spans.py my-diffusion-lm e2e/train.jsonl "The Mill is a cheap pub ."
"""

import argparse
from pathlib import Path

from difflm_hf import DiffusionLMPipeline
from difflm_hf.diffusion_lm.annotation import annotate
from difflm_hf.diffusion_lm.controls import SyntaxSpans
from difflm_hf.records import read_table


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("data", type=Path, help="a file with a column `text`")
parser.add_argument("example")
parser.add_argument("--num-steps", type=int, default=2000, help="of teaching the classifier")
parser.add_argument("--num-inference-steps", type=int, default=20)
args = parser.parse_args()

pipe = DiffusionLMPipeline.from_pretrained(args.model)
texts = read_table(args.data)["text"].tolist()
annotations = annotate([args.example, *texts], pipe.tokenizer)
example = annotations[0]
labels = [annotation.spans for annotation in annotations]
control = SyntaxSpans.fit(pipe, [args.example, *texts], labels, args.num_steps)
span = example.spans[-1]
print(span, *example.words[span[0] : span[1]])
texts = pipe(5, args.num_inference_steps, guides=[control.guide([span], scale=4)], num_candidates=6).texts
print(*texts, sep="\n")
