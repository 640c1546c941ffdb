"""
Texts of a given number of words, punctuation included: for certain, and by a guide, as in the paper.

    python examples/diffusion_lm/length.py --length 10
"""

from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser

from difflm_hf import DiffusionLMPipeline
from difflm_hf.diffusion_lm.controls import Length


@dataclass
class Arguments:
    model: str = field(default="my-diffusion-lm", metadata={"help": "A folder, or the name of a model on the Hub."})
    length: int = field(default=10, metadata={"help": "Words of a text."})
    num_texts: int = field(default=5, metadata={"help": "Texts to write."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of the scheduler."})
    seed: int = field(default=0, metadata={"help": "Seed of the texts."})


def main(args: Arguments) -> None:
    pipe = DiffusionLMPipeline.from_pretrained(args.model)
    generator = torch.Generator().manual_seed(args.seed)
    for asked in ({"length": args.length}, {"guides": [Length(pipe).guide(args.length)]}):
        texts = pipe(args.num_texts, args.num_inference_steps, generator=generator, **asked).texts
        print(*texts, sep="\n")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
