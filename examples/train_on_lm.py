"""
Trains on a table by a pretrained causal LM, which writes the records as JSON: a model of the Hub or a local folder.

    python examples/train_on_lm.py --base_model HuggingFaceTB/SmolLM2-135M --tuning lora
    python examples/train_on_lm.py --base_model base-lm --tuning lora --max_minutes 10

examples/pretrain_base_lm.py makes such a folder where no pretrained LM can be had. The options from --base_model on
are those of `difflm_hf.ModelArguments`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from difflm_hf import ModelArguments, train
from difflm_hf.records import read_table, write_table


ADULT = Path(__file__).parent / "data" / "adult_train.parquet"


@dataclass
class Arguments:
    data: Path = field(default=ADULT, metadata={"help": "The records: a .csv, .parquet or .jsonl file."})
    output_dir: Path = field(default=Path("lm-model"), metadata={"help": "A new or empty folder for the model."})
    max_records: int | None = field(default=None, metadata={"help": "Train on the first records alone."})
    max_minutes: float | None = field(default=None, metadata={"help": "Time that training may take."})
    num_records: int = field(default=100, metadata={"help": "Records to generate."})
    temperature: float = field(default=1.0, metadata={"help": "Of the LM; lower is more typical, and less diverse."})
    output: Path = field(default=Path("synthetic.jsonl"), metadata={"help": "A .jsonl, .csv or .parquet file."})
    seed: int = field(default=0, metadata={"help": "Seed of training and generation."})


def main(args: Arguments, model_args: ModelArguments) -> None:
    pipe = train(
        read_table(args.data)[: args.max_records],
        args.output_dir,
        model_args=model_args,
        max_minutes=args.max_minutes,
        seed=args.seed,
    )
    trained = sum(parameter.numel() for parameter in pipe.vae.parameters() if parameter.requires_grad)
    print(f"{trained:,} of {pipe.vae.num_parameters():,} parameters were trained")

    generator = torch.Generator().manual_seed(args.seed)
    table = pipe(args.num_records, temperature=args.temperature, generator=generator, output_type="pandas").records
    write_table(table, args.output)
    print(table.head())
    print(f"{len(table):,} records in {args.output}; model in {args.output_dir}")


if __name__ == "__main__":
    parser = HfArgumentParser((Arguments, ModelArguments), description=__doc__)
    args, model_args = parser.parse_args_into_dataclasses()
    if model_args.base_model is None:
        parser.error("name a pretrained causal LM by --base_model")
    main(args, model_args)
