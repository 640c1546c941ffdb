"""
Texts with the syntax tree of an example: these constituents, and no others.

    pip install "difflm_hf[syntax]"
    python examples/diffusion_lm/syntax_tree.py --example "The Maple is a cheap pub by the river."

The classifier is taught by what spaCy says of texts.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from difflm_hf import DiffusionLMPipeline
from difflm_hf.diffusion_lm.annotation import annotate
from difflm_hf.diffusion_lm.controls import SyntaxTree
from difflm_hf.records import read_table


SENTENCES = Path(__file__).parents[1] / "data" / "sentences.jsonl"


@dataclass
class Arguments:
    model: str = field(default="my-diffusion-lm", metadata={"help": "A folder, or the name of a model on the Hub."})
    data: Path = field(default=SENTENCES, metadata={"help": "A file with a column `text`."})
    example: str = field(default="The Maple is a cheap pub by the river.", metadata={"help": "What to take after."})
    num_texts: int = field(default=5, metadata={"help": "Texts to write."})
    num_steps: int = field(default=2000, metadata={"help": "Steps of teaching the classifier."})
    scale: float = field(default=1.5, metadata={"help": "How much the guide counts."})
    num_candidates: int = field(default=6, metadata={"help": "Texts of which the best one is shown."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of the scheduler."})
    seed: int = field(default=0, metadata={"help": "Seed of the classifier and of the texts."})


def main(args: Arguments) -> None:
    pipe = DiffusionLMPipeline.from_pretrained(args.model)
    generator = torch.Generator().manual_seed(args.seed)
    texts = [args.example, *read_table(args.data)["text"]]
    annotations = annotate(texts, pipe.tokenizer)
    example = annotations[0]
    labels = [annotation.spans for annotation in annotations]
    control = SyntaxTree.fit(pipe, texts, labels, args.num_steps, seed=args.seed)
    print(*example.spans)
    guide = control.guide(example.spans, scale=args.scale, length=len(example.words))
    sampling = {"num_candidates": args.num_candidates, "generator": generator, "length": len(example.words)}
    print(*pipe(args.num_texts, args.num_inference_steps, guides=[guide], **sampling).texts, sep="\n")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
