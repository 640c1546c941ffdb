"""
Trains a Diffusion-LM on sentences, and shows what it writes: freely, and of a given length.

    python examples/train_diffusion_lm.py --max_minutes 10
    python examples/train_diffusion_lm.py --data e2e/train.jsonl --validation e2e/valid.jsonl

The scripts in examples/diffusion_lm/, one for each control, take the model that this one leaves.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from difflm_hf import train_diffusion_lm


SENTENCES = Path(__file__).parent / "data" / "sentences.jsonl"


@dataclass
class Arguments:
    data: Path = field(default=SENTENCES, metadata={"help": "Texts: a .jsonl, .csv or .parquet file."})
    validation: Path | None = field(default=None, metadata={"help": "Texts to select weights by."})
    output_dir: Path = field(default=Path("my-diffusion-lm"), metadata={"help": "A new or empty folder."})
    text_column: str = field(default="text", metadata={"help": "The column that has the texts."})
    recipe: str = field(default="small", metadata={"help": "Sizes and hyper-parameters: small or paper."})
    max_minutes: float = field(default=60, metadata={"help": "Time that training may take."})
    length: int = field(default=8, metadata={"help": "Words of the texts whose length is given."})
    num_texts: int = field(default=5, metadata={"help": "Texts to write of each kind."})
    seed: int = field(default=0, metadata={"help": "Seed of training and of the texts."})


def main(args: Arguments) -> None:
    pipe = train_diffusion_lm(
        args.data,
        args.output_dir,
        args.validation,
        args.text_column,
        args.recipe,
        max_minutes=args.max_minutes,
        seed=args.seed,
    )
    generator = torch.Generator().manual_seed(args.seed)
    print("Freely:", *pipe(args.num_texts, generator=generator).texts, sep="\n  ")
    texts = pipe(args.num_texts, length=args.length, generator=generator).texts
    print(f"Of {args.length} words:", *texts, sep="\n  ")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
