"""
Trains on functions, from scratch or beside a pretrained LM; then generates new ones and compares them with real ones,
and the model with a language model of the same size without latents.

    python examples/stdlib_functions.py --output stdlib.jsonl
    python examples/train_code.py stdlib_train.jsonl --test stdlib_test.jsonl --output-dir code-model

Each line of a file is an object with Python code, `{"code": ...}`. The output folder gets the model, `code.jsonl` and
`scores.json`.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from train_text import read_texts
from transformers import HfArgumentParser, PreTrainedModel

from difflm_hf import DataArguments, ModelArguments, train
from difflm_hf.base_model import load_causal_lm
from difflm_hf.evaluation import (
    evaluate_code,
    evaluate_latents,
    generate_completions,
    perplexity,
    train_language_model,
)
from difflm_hf.lora import add_lora
from difflm_hf.records import write_table


NUM_VALIDATION = 300
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
)
TOKENS_PER_STEP = 1024  # of the language model, whose rows are full; batches of DiffLM have fewer


@dataclass
class Arguments:
    test: Path = field(metadata={"help": "Functions that the model has not seen."})
    output_dir: Path = field(metadata={"help": "A new or empty folder."})
    max_minutes: float = field(default=40, metadata={"help": "Time that training may take."})
    max_length: int = field(default=256, metadata={"help": "Tokens; longer functions are left out."})
    num_records: int = field(default=500, metadata={"help": "Functions to generate."})
    temperature: float = field(default=0.8, metadata={"help": "Of both LMs; lower is more typical, and less diverse."})
    top_p: float = field(default=1.0, metadata={"help": "Share of the probability to sample from."})
    seed: int = field(default=0, metadata={"help": "Seed of training, generation and measures."})


def plain_lm(model_args: ModelArguments, lora: dict[str, Any] | None) -> PreTrainedModel | None:
    """The pretrained LM as it was, with new LoRA layers where DiffLM has some; `None` where there is none."""
    if model_args.base_model is None:
        return None
    lm = load_causal_lm(model_args.base_model, dtype=torch.float32 if lora is None else torch.bfloat16)
    if lora is not None:
        add_lora(lm, lora)
    return lm


def main(args: Arguments, model_args: ModelArguments, train_file: Path) -> None:
    functions, unseen = (read_texts(path, "code") for path in (train_file, args.test))
    real, validation = functions[NUM_VALIDATION:], functions[:NUM_VALIDATION]
    pipe = train(
        real,
        args.output_dir,
        validation=validation,
        data_args=DataArguments(max_length=args.max_length, overlong="drop"),
        model_args=model_args,
        max_minutes=args.max_minutes,
        seed=args.seed,
    )
    sampling = {"temperature": args.temperature, "top_p": args.top_p}
    generator = torch.Generator().manual_seed(args.seed)
    table = pipe(args.num_records, **sampling, generator=generator, output_type="pandas").records
    write_table(table, args.output_dir / "code.jsonl")

    # Of all of these, what is short enough for the model: in characters, as the schema has it, and in tokens.
    tables, longest = [real, validation, unseen], pipe.processor.schema["code"].max_length
    tables = [part[part["code"].str.len() <= longest] for part in tables]
    tables = [part[~pipe.processor.too_long(part)] for part in tables]
    real, validation, held_out = (part["code"].tolist() for part in tables)
    tokenizer, config = pipe.processor.tokenizer, pipe.vae.config.decoder_config
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token  # as DiffLM has it
    length = min(args.max_length, getattr(config, "max_position_embeddings", math.inf) - 1)
    phase = pipe.config.training["phases"][0]
    lm, _ = train_language_model(
        real,
        validation,
        tokenizer,
        plain_lm(model_args, pipe.vae.config.lora),
        config=None if model_args.base_model else {name: getattr(config, name) for name in SIZES},
        length=length,
        num_steps=phase["num_steps"],
        batch_size=max(1, TOKENS_PER_STEP // length),
        max_minutes=phase["seconds"] / 60,
        seed=args.seed,
    )
    written = generate_completions(
        lm,
        tokenizer,
        [tokenizer.bos_token] * args.num_records,
        max_new_tokens=length,
        **sampling,
        seed=args.seed,
        add_special_tokens=False,
    )
    scores = {
        "difflm": evaluate_code(table["code"].tolist(), real, seed=args.seed)
        | evaluate_latents(pipe, tables[2], seed=args.seed),
        "lm": evaluate_code([code for (code,) in written], real, seed=args.seed) | perplexity(lm, tokenizer, held_out),
        "parameters": {"difflm": pipe.vae.num_parameters(), "lm": lm.num_parameters()},
    }
    (args.output_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = HfArgumentParser((Arguments, ModelArguments), description=__doc__)
    parser.add_argument("train_file", type=Path, help="A .jsonl, .csv or .parquet file.")
    args, model_args, positional = parser.parse_args_into_dataclasses()
    if model_args.base_model is not None and model_args.tuning == "frozen":
        parser.error("an LM that is not trained has none of its own to compare with; take --tuning lora or full")
    main(args, model_args, positional.train_file)
