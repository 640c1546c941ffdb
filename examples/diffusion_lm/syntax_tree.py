"""
Texts with the syntax tree of an example. The classifier is taught by what spaCy says of texts.

    pip install "difflm_hf[syntax]"
    python examples/diffusion_lm/syntax_tree.py my-diffusion-lm e2e/train.jsonl "The Mill is a cheap pub ."
"""

import argparse
from pathlib import Path

from difflm_hf import DiffusionLMPipeline
from difflm_hf.diffusion_lm.annotation import annotate
from difflm_hf.diffusion_lm.controls import SyntaxTree
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
control = SyntaxTree.fit(pipe, [args.example, *texts], labels, args.num_steps)
print(*example.spans)
num_words = len(example.words)
guide = control.guide(example.spans, scale=1.5, length=num_words)
texts = pipe(5, args.num_inference_steps, length=num_words, guides=[guide], num_candidates=6).texts
print(*texts, sep="\n")
