"""
Fills the gaps of a text: `[mask]` stands for one word, `[gap]` for any number of them.

    python examples/diffusion_lm/infilling.py --text "The Maple is a [mask] pub [gap]."
"""

from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser

from difflm_hf import DiffusionLMPipeline


@dataclass
class Arguments:
    model: str = field(default="my-diffusion-lm", metadata={"help": "A folder, or the name of a model on the Hub."})
    text: str = field(default="The Maple is a [mask] pub [gap].", metadata={"help": "A text with gaps."})
    num_texts: int = field(default=3, metadata={"help": "Ways to fill them."})
    num_candidates: int = field(default=8, metadata={"help": "Texts of which the one most like the others is shown."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of the scheduler."})
    seed: int = field(default=0, metadata={"help": "Seed of the texts."})


def main(args: Arguments) -> None:
    pipe = DiffusionLMPipeline.from_pretrained(args.model)
    generator = torch.Generator().manual_seed(args.seed)
    infill, sampling = [args.text] * args.num_texts, {"num_candidates": args.num_candidates, "temperature": 0.25}
    print(*pipe(None, args.num_inference_steps, infill=infill, generator=generator, **sampling).texts, sep="\n")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
