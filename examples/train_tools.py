"""
Trains on function specifications, as language models are given them as tools, from scratch or beside a pretrained LM;
then generates new ones and compares them with real ones.

    python examples/train_tools.py train.jsonl --validation valid.jsonl --test test.jsonl --output-dir tools-model

Each line of a file is `{"name": ..., "description": ..., "parameters": a JSON Schema}`. The output folder gets the
model, `tools.jsonl` and `scores.json`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tool_records import TOOL_SCHEMA, read_tools, to_tool
from transformers import HfArgumentParser

from difflm_hf import DataArguments, ModelArguments, RecordSchema, train
from difflm_hf.evaluation import evaluate_tools


@dataclass
class Arguments:
    validation: Path = field(metadata={"help": "Tools to select the best checkpoint by."})
    test: Path = field(metadata={"help": "Tools that the model has not seen."})
    output_dir: Path = field(metadata={"help": "A new or empty folder."})
    max_minutes: float = field(default=25, metadata={"help": "Time that training may take."})
    max_length: int = field(default=512, metadata={"help": "Tokens; longer tools are left out."})
    num_records: int = field(default=1000, metadata={"help": "Tools to generate."})
    temperature: float = field(default=0.75, metadata={"help": "Of the LM; lower is more typical, and less diverse."})
    top_p: float = field(default=1.0, metadata={"help": "Share of the probability to sample from."})
    seed: int = field(default=0, metadata={"help": "Seed of training, generation and measures."})


def main(args: Arguments, model_args: ModelArguments, train_file: Path) -> None:
    records, held_out, unseen = map(read_tools, (train_file, args.validation, args.test))
    pipe = train(
        records,
        args.output_dir,
        validation=held_out,
        schema=RecordSchema.from_json_schema(TOOL_SCHEMA),
        data_args=DataArguments(max_length=args.max_length, overlong="drop"),
        model_args=model_args,
        max_minutes=args.max_minutes,
        seed=args.seed,
    )
    written = pipe(
        args.num_records,
        temperature=args.temperature,
        top_p=args.top_p,
        generator=torch.Generator().manual_seed(args.seed),
    ).records
    tools, real, unseen = (list(map(to_tool, part)) for part in (written, records, unseen))
    (args.output_dir / "tools.jsonl").write_text("".join(json.dumps(tool) + "\n" for tool in tools), encoding="utf-8")
    scores = evaluate_tools(tools, real, unseen, seed=args.seed)
    (args.output_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = HfArgumentParser((Arguments, ModelArguments), description=__doc__)
    parser.add_argument("train_file", type=Path, help="Tools, one in each line.")
    args, model_args, positional = parser.parse_args_into_dataclasses()
    main(args, model_args, positional.train_file)
