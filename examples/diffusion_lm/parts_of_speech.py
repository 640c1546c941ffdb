"""
Texts whose words have the parts of speech of an example. The classifier is taught by what spaCy says of texts.

    pip install "difflm_hf[syntax]"
    python examples/diffusion_lm/parts_of_speech.py my-diffusion-lm e2e/train.jsonl "The Mill is a cheap pub ."
"""

import argparse
from pathlib import Path

from difflm_hf import DiffusionLMPipeline
from difflm_hf.diffusion_lm.annotation import annotate
from difflm_hf.diffusion_lm.controls import PartsOfSpeech
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
labels = [annotation.tags for annotation in annotations]
control = PartsOfSpeech.fit(pipe, [args.example, *texts], labels, args.num_steps)
print(*zip(example.words, example.tags))
guide = control.guide(example.tags, scale=1.5)
texts = pipe(5, args.num_inference_steps, length=len(example.words), guides=[guide], num_candidates=6).texts
print(*texts, sep="\n")
