"""
Pushes a model to the Hub with its card, pushes records of it as a dataset, and loads both.

    python examples/train_table.py --max_minutes 1
    python examples/push_to_hub.py --repo_id user/adult --dataset_id user/adult-synthetic --allow_rare_categories

Log in first, by `hf auth login`. A model names the categories of its training data. A push is refused where some have
fewer than 10 records, unless they may be known, as those of Adult, which is public.
"""

from dataclasses import dataclass, field

import torch
from datasets import load_dataset
from transformers import HfArgumentParser

from difflm_hf import DiffLMPipeline, push_dataset


@dataclass
class Arguments:
    repo_id: str = field(metadata={"help": "The model's repository, user/name; made where it does not exist."})
    model: str = field(default="adult-model", metadata={"help": "The folder of a trained model."})
    evaluation: str | None = field(default=None, metadata={"help": "A folder of evaluate_records.py, for the card."})
    dataset_id: str | None = field(default=None, metadata={"help": "A dataset repository, for generated records."})
    num_records: int = field(default=10_000, metadata={"help": "Records of the dataset."})
    license: str | None = field(default=None, metadata={"help": "Licence of both, as the Hub names it."})
    private: bool = field(default=False, metadata={"help": "Make new repositories private."})
    allow_rare_categories: bool = field(default=False, metadata={"help": "Publish categories of under 10 records."})
    seed: int = field(default=0, metadata={"help": "Seed of the records."})


def main(args: Arguments) -> None:
    rights = {
        "license": args.license,
        "private": args.private,
        "allow_rare_categories": args.allow_rare_categories,
    }
    pipe = DiffLMPipeline.from_pretrained(args.model)
    print(pipe.push_to_hub(args.repo_id, evaluation=args.evaluation, **rights).commit_url)

    pipe = DiffLMPipeline.from_pretrained(args.repo_id)
    [record] = pipe(1, generator=torch.Generator().manual_seed(args.seed)).records
    print(record)

    if args.dataset_id is not None:
        print(push_dataset(pipe, args.dataset_id, args.num_records, args.seed, **rights).commit_url)
        print(load_dataset(args.dataset_id, split="train"))


if __name__ == "__main__":
    [args] = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    main(args)
