"""`difflm train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import DATA_HELP, RARE_HELP, Read, check_options, command, read_json, say, say_messages, words


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..records import RecordSchema

MODELS = ("difflm", "diffusion-lm")
OF_TEXTS = {  # what training of diffusion-lm can be told
    *("data", "output_dir", "model", "validation", "recipe", "text_column", "max_minutes", "seed", "resume"),
    *("push_to_hub", "hub_model_id", "hub_revision", "private", "license"),
}


def _read_schema(path: Path) -> RecordSchema:
    from ..records import RecordSchema

    state = read_json(path)
    try:
        if isinstance(state, list) or "fields" in state:
            return RecordSchema.from_dict(state)
        return RecordSchema.from_json_schema(state)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no schema of records ({error})") from error


def _told(pipe: DiffusionPipeline, folder: Path) -> dict[str, Any]:
    """What `--json` prints of a training."""
    record = pipe.config.training
    return {
        "folder": str(folder),
        "minutes": sum(phase["seconds"] for phase in record["phases"]) / 60,
        "losses": {
            phase["name"]: {name.removeprefix("eval_"): value for name, value in phase["metrics"].items()}
            for phase in record["phases"]
        },
        **{name: value for name, value in record["data"].items() if name.startswith("num_")},
        "seed": record["arguments"]["seed"],
    }


@command(
    "difflm train table.csv --output-dir my-model --max-minutes 5",
    "difflm train table.csv --output-dir my-model --schema schema.json --seed 1",
    "difflm train table.csv --output-dir my-model --resume",
    "difflm train table.csv --output-dir private --schema schema.json --epsilon 8",
    "difflm train orders.jsonl --output-dir my-model --max-length 512",
    "difflm train table.csv --output-dir lm --base-model HuggingFaceTB/SmolLM2-135M",
    "difflm train texts.jsonl --output-dir lm --model diffusion-lm --max-minutes 60",
)
def train(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    output_dir: Annotated[Path, typer.Option(help="A new or empty folder for the model.")],
    model: Annotated[
        str, typer.Option(help="difflm, or diffusion-lm of texts.", autocompletion=words(*MODELS))
    ] = "difflm",
    validation: Annotated[Path | None, typer.Option(help="Records to select by; a tenth of DATA by default.")] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="Sizes and hyper-parameters: small or base; paper beside a base model, or of diffusion-lm.",
            autocompletion=words("small", "base", "paper"),
        ),
    ] = "small",
    text_column: Annotated[str, typer.Option(help="The column of texts, of diffusion-lm.")] = "text",
    base_model: Annotated[
        str | None, typer.Option(help="A pretrained causal LM to write records: of the Hub, a folder, or a GGUF file.")
    ] = None,
    base_encoder: Annotated[
        str | None, typer.Option(help="A pretrained encoder of the Hub, beside the base model.")
    ] = None,
    tuning: Annotated[
        str,
        typer.Option(
            help="What of the base model is trained: frozen (nothing), lora or full.",
            autocompletion=words("frozen", "lora", "full"),
        ),
    ] = "frozen",
    quantization: Annotated[
        str | None,
        typer.Option(
            help="Load the base model in 8bit or 4bit, by bitsandbytes.", autocompletion=words("8bit", "4bit")
        ),
    ] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Less memory, about a third more time.")
    ] = False,
    injection: Annotated[
        str,
        typer.Option(
            help="soft_prompt, prefix_soft_prompt, kv_memory or input_embed.",
            autocompletion=words("soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embed"),
        ),
    ] = "soft_prompt",
    attn_implementation: Annotated[
        str | None, typer.Option(help="How the base model computes attention: eager, sdpa or flash_attention_2.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the base model brings with it.")
    ] = False,
    categorical: Annotated[list[str] | None, typer.Option(help="A column to take as categories; repeatable.")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="Of the records: of `difflm schema`, or a JSON Schema; inferred by default.")
    ] = None,
    max_length: Annotated[
        int, typer.Option(help="Tokens of a document, a row's texts, or a row by a base model.")
    ] = 1024,
    overlong: Annotated[
        str,
        typer.Option(
            help="What becomes of longer records: raise an error, or drop.", autocompletion=words("raise", "drop")
        ),
    ] = "raise",
    key_order: Annotated[
        str,
        typer.Option(
            help="Of JSON records in training: schema or shuffled.", autocompletion=words("schema", "shuffled")
        ),
    ] = "schema",
    max_minutes: Annotated[float | None, typer.Option(help="Time for training, in minutes.")] = None,
    min_category_count: Annotated[
        int, typer.Option(help="Leave out records with rarer categories; their names would be in the model's files.")
    ] = 1,
    find_rules: Annotated[
        bool, typer.Option("--find-rules", help="Look for rules between columns, which generated records then keep.")
    ] = False,
    accept: Annotated[
        list[str] | None, typer.Option(help="A column that is as inferred, whatever the doubt; repeatable.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Take all that inference doubts for errors.")] = False,
    nested: Annotated[
        str,
        typer.Option(
            help="How nested values are learnt: auto, rows or json.", autocompletion=words("auto", "rows", "json")
        ),
    ] = "auto",
    max_records: Annotated[
        int | None, typer.Option(help="Learn from so many records, drawn at random; a Parquet file is read in parts.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Train with differential privacy of this ε; takes a --schema.")
    ] = None,
    delta: Annotated[float, typer.Option(help="δ, below 1 / the number of records, with --epsilon.")] = 1e-5,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on where a run into OUTPUT_DIR was cut off.")] = False,
    push_to_hub: Annotated[bool, typer.Option("--push-to-hub", help="Push the model to the Hub at the end.")] = False,
    hub_model_id: Annotated[
        str | None, typer.Option(help="The repository; the name of OUTPUT_DIR by default.")
    ] = None,
    hub_strategy: Annotated[
        str,
        typer.Option(
            help="What to push while training: end (nothing), every_save, checkpoint or all_checkpoints.",
            autocompletion=words("end", "every_save", "checkpoint", "all_checkpoints"),
        ),
    ] = "every_save",
    hub_revision: Annotated[str | None, typer.Option(help="The branch; a new one is made.")] = None,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, as the Hub names it.")] = None,
    allow_rare_categories: Annotated[bool, typer.Option("--allow-rare-categories", help=RARE_HELP)] = False,
    *,
    read: Read,
) -> dict[str, Any]:
    """Train a model on records."""
    if model not in MODELS:
        raise ValueError(f"model={model!r} is not one of {', '.join(MODELS)}")
    if model == "diffusion-lm":
        from ..training.diffusion_lm import train_diffusion_lm

        check_options(context, OF_TEXTS, "it is of --model difflm, and not of diffusion-lm")
        pipe = train_diffusion_lm(
            data, output_dir, validation, text_column, recipe, max_minutes=max_minutes, seed=seed, resume=resume
        )
        if push_to_hub:
            pipe.push_to_hub(hub_model_id or output_dir.name, license=license, private=private, revision=hub_revision)
        say(f"saved in {output_dir}")
        return _told(pipe, output_dir)
    from ..training import DataArguments, HubArguments, ModelArguments, PrivacyArguments, train

    hub_args = HubArguments(
        hub_model_id=hub_model_id,
        hub_strategy=hub_strategy,
        hub_private_repo=private,
        hub_revision=hub_revision,
        license=license,
        allow_rare_categories=allow_rare_categories,
    )
    fields = None if schema is None else _read_schema(schema)
    null_words = None if fields is None else fields.reading.null_words
    say_messages("difflm_hf.training.prepare")
    pipe = train(
        read(data, null_words),
        output_dir,
        validation=None if validation is None else read(validation, null_words, query=None),
        schema=fields,
        recipe=recipe,
        data_args=DataArguments(
            categorical or [],
            max_length,
            overlong,
            key_order,
            min_category_count,
            find_rules,
            accept or [],
            strict,
            nested,
            max_records,
        ),
        model_args=ModelArguments(
            base_model,
            base_encoder,
            tuning,
            quantization,
            activation_checkpointing,
            injection,
            attn_implementation,
            trust_remote_code,
        ),
        hub_args=hub_args if push_to_hub else None,
        privacy_args=None if epsilon is None else PrivacyArguments(epsilon, delta),
        max_minutes=max_minutes,
        seed=seed,
        resume=resume,
    )
    say(f"saved in {output_dir}")
    return _told(pipe, output_dir)
