"""
Steers latents by a classifier of them, and by a score of one's own.

    python examples/train_table.py --max_minutes 1
    python examples/guided_generation.py --target income --value ">50K"

A guide makes something likelier and promises nothing; conditions, as in conditional_generation.py, hold for certain.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from transformers import HfArgumentParser

from difflm_hf import DiffLMPipeline
from difflm_hf.control import Guide, LatentClassifier
from difflm_hf.records import read_table


ADULT = Path(__file__).parent / "data" / "adult_train.parquet"


@dataclass
class Arguments:
    model: str = field(default="adult-model", metadata={"help": "A folder, or the name of a model on the Hub."})
    data: Path = field(default=ADULT, metadata={"help": "Rows to teach the classifier by."})
    max_records: int | None = field(default=None, metadata={"help": "Take the first rows alone."})
    target: str = field(default="income", metadata={"help": "The category that the classifier tells."})
    value: str = field(default=">50K", metadata={"help": "The value to steer to."})
    scales: list[float] = field(default_factory=lambda: [0.5, 1, 2], metadata={"help": "How hard the guide pulls."})
    num_steps: int = field(default=1000, metadata={"help": "Steps of teaching the classifier."})
    num_records: int = field(default=1000, metadata={"help": "Records for each scale."})
    seed: int = field(default=0, metadata={"help": "Seed of the classifier and of the records."})


def main(args: Arguments) -> None:
    pipe = DiffLMPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    table = read_table(args.data)[: args.max_records]

    def generate(guides: list[Guide], num_records: int = args.num_records) -> pd.DataFrame:
        generator = torch.Generator().manual_seed(args.seed)
        return pipe(num_records, guides=guides, generator=generator, output_type="pandas").records

    def share(guides: list[Guide]) -> float:
        return (generate(guides)[args.target] == args.value).mean()

    classifier = LatentClassifier.fit(pipe, table, args.target, num_steps=args.num_steps, seed=args.seed)
    print(f"share of {args.target} = {args.value}")
    print(f"{share([]):.3f} without a guide")
    for scale in args.scales:
        print(f"{share([classifier.guide(args.value, scale)]):.3f} with a guide of scale {scale}")

    # Any function of latents that torch differentiates guides as well: here the nearness to a record.
    batch = pipe.processor(table[:1])
    with torch.no_grad():
        record, _ = pipe.vae.encode(batch["input_ids"], batch.get("attention_mask"))
    near = Guide(lambda latents: -(latents - record).square().sum(-1), scale=2.0, name="nearness")
    print("\na record, and records near it", pd.concat([table[:1], generate([near], 5)]), sep="\n")


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
