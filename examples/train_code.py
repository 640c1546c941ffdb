"""
Trains on functions, from scratch; then generates new ones and compares them with real ones, and the model with a
language model of the same size without latents.

    python examples/stdlib_functions.py --output stdlib.jsonl
    python examples/train_code.py stdlib_train.jsonl --test stdlib_test.jsonl --output-dir code-model

Each line of a file is an object with Python code, `{"code": ...}`. The output folder gets the model, `code.jsonl` and
`scores.json`.
"""

import argparse
import json
from pathlib import Path

import torch

from difflm_hf import DataArguments, train
from difflm_hf.evaluation import (
    evaluate_code,
    evaluate_latents,
    generate_completions,
    perplexity,
    train_language_model,
)
from difflm_hf.records import read_table, write_table


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


def main(
    train_file: Path,
    test: Path,
    output_dir: Path,
    max_minutes: float,
    max_length: int,
    num_records: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> None:
    functions, unseen = (read_table(path)[["code"]].dropna(ignore_index=True) for path in (train_file, test))
    real, validation = functions[NUM_VALIDATION:], functions[:NUM_VALIDATION]
    pipe = train(
        real,
        output_dir,
        validation=validation,
        data_args=DataArguments(max_length=max_length, overlong="drop"),
        max_minutes=max_minutes,
        seed=seed,
    )
    sampling = {"temperature": temperature, "top_p": top_p}
    table = pipe(num_records, **sampling, generator=torch.Generator().manual_seed(seed), output_type="pandas").records
    write_table(table, output_dir / "code.jsonl")

    # Of all of these, what is short enough for the model: in characters, as the schema has it, and in tokens.
    tables, longest = [real, validation, unseen], pipe.processor.schema["code"].max_length
    tables = [part[part["code"].str.len() <= longest] for part in tables]
    tables = [part[~pipe.processor.too_long(part)] for part in tables]
    real, validation, held_out = (part["code"].tolist() for part in tables)
    tokenizer, size = pipe.processor.tokenizer, pipe.vae.config.decoder_config.to_dict()
    length = min(max_length, size["max_position_embeddings"] - 1)
    phase = pipe.config.training["phases"][0]
    lm, _ = train_language_model(
        real,
        validation,
        tokenizer,
        config={name: size[name] for name in SIZES},
        length=length,
        num_steps=phase["num_steps"],
        batch_size=max(1, TOKENS_PER_STEP // length),
        max_minutes=phase["seconds"] / 60,
        seed=seed,
    )
    written = generate_completions(
        lm, tokenizer, [tokenizer.bos_token] * num_records, max_new_tokens=length, **sampling, seed=seed
    )
    scores = {
        "difflm": evaluate_code(table["code"].tolist(), real, seed=seed)
        | evaluate_latents(pipe, tables[2], seed=seed),
        "lm": evaluate_code([code for (code,) in written], real, seed=seed) | perplexity(lm, tokenizer, held_out),
        "parameters": {"difflm": pipe.vae.num_parameters(), "lm": lm.num_parameters()},
    }
    (output_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_file", type=Path, help="A .jsonl, .csv or .parquet file.")
    parser.add_argument("--test", type=Path, required=True, help="Functions that the model has not seen.")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--max-minutes", type=float, default=40)
    parser.add_argument("--max-length", type=int, default=256, help="Tokens; longer functions are left out.")
    parser.add_argument("--num-records", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
