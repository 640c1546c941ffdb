"""The command `difflm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape


if TYPE_CHECKING:
    import pandas as pd

    from ..pipeline_difflm import DiffLMPipeline
    from ..processing_difflm import DiffLMProcessor

app = typer.Typer(help="Learn the distribution of records, and generate new ones.", no_args_is_help=True)
console = Console(stderr=True)
RARE_HELP = "Publish the names of categories of fewer than 10 records, and all of the vocabulary of texts."


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Records: a .csv, .parquet, .json or .jsonl file.")],
    output_dir: Annotated[Path, typer.Option(help="A new or empty folder for the model.")],
    validation: Annotated[Path | None, typer.Option(help="Records to select by; a tenth of DATA by default.")] = None,
    recipe: Annotated[str, typer.Option(help="Sizes and hyper-parameters: small or base.")] = "small",
    base_model: Annotated[
        str | None, typer.Option(help="A pretrained causal LM of the Hub, to write records.")
    ] = None,
    base_encoder: Annotated[
        str | None, typer.Option(help="A pretrained encoder of the Hub, beside the base model.")
    ] = None,
    tuning: Annotated[
        str, typer.Option(help="What of the base model is trained: frozen (nothing), lora or full.")
    ] = "frozen",
    quantization: Annotated[
        str | None, typer.Option(help="Load the base model in 8bit or 4bit, by bitsandbytes.")
    ] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Less memory, about a third more time.")
    ] = False,
    injection: Annotated[
        str, typer.Option(help="soft_prompt, prefix_soft_prompt, kv_memory or input_embed.")
    ] = "soft_prompt",
    categorical: Annotated[list[str] | None, typer.Option(help="A column to take as categories; repeatable.")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="A JSON Schema of the records; inferred from them by default.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens that a document, or the texts of a row, may take.")] = 1024,
    overlong: Annotated[str, typer.Option(help="What becomes of longer records: raise an error, or drop.")] = "raise",
    key_order: Annotated[str, typer.Option(help="Of JSON records in training: schema or shuffled.")] = "schema",
    max_minutes: Annotated[float | None, typer.Option(help="Time for training, in minutes.")] = None,
    min_category_count: Annotated[
        int, typer.Option(help="Leave out records with rarer categories, whose names would be in the model's files.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on where a run into OUTPUT_DIR was cut off.")] = False,
    push_to_hub: Annotated[bool, typer.Option("--push-to-hub", help="Push the model to the Hub at the end.")] = False,
    hub_model_id: Annotated[
        str | None, typer.Option(help="The repository; the name of OUTPUT_DIR by default.")
    ] = None,
    hub_strategy: Annotated[
        str,
        typer.Option(help="What to push while training: end (nothing), every_save, checkpoint or all_checkpoints."),
    ] = "every_save",
    hub_revision: Annotated[str | None, typer.Option(help="The branch; a new one is made.")] = None,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, as the Hub names it.")] = None,
    allow_rare_categories: Annotated[bool, typer.Option("--allow-rare-categories", help=RARE_HELP)] = False,
) -> None:
    """Train a model on records."""
    from ..records import RecordSchema
    from ..training import DataArguments, HubArguments, ModelArguments, train

    hub_args = HubArguments(
        hub_model_id=hub_model_id,
        hub_strategy=hub_strategy,
        hub_private_repo=private,
        hub_revision=hub_revision,
        license=license,
        allow_rare_categories=allow_rare_categories,
    )
    train(
        data,
        output_dir,
        validation=validation,
        schema=None if schema is None else RecordSchema.from_json_schema(_read_json(schema)),
        recipe=recipe,
        data_args=DataArguments(tuple(categorical or ()), max_length, overlong, key_order, min_category_count),
        model_args=ModelArguments(base_model, base_encoder, tuning, quantization, activation_checkpointing, injection),
        hub_args=hub_args if push_to_hub else None,
        max_minutes=max_minutes,
        seed=seed,
        resume=resume,
    )
    console.print(f"saved in {output_dir}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a trained model.")],
    num_records: Annotated[int, typer.Option(help="Records to generate.")],
    output: Annotated[
        Path | None,
        typer.Option(help="A .csv, .parquet or .jsonl file, or a folder for many records, in Parquet files."),
    ] = None,
    profile: Annotated[bool, typer.Option(help="Measure where the time goes, and write no records.")] = False,
    num_inference_steps: Annotated[int, typer.Option(help="Steps of the scheduler.")] = 12,
    temperature: Annotated[float, typer.Option(help="Of the causal LM.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the causal LM.")] = 1.0,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; the fastest of this machine by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and dtype give the same records.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model of the Hub.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="A copy of the frozen base LM, in place of the one that the model names.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Push the records to this dataset repository, with a card.")
    ] = None,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the records, as the Hub names it.")] = None,
    allow_rare_categories: Annotated[
        bool, typer.Option("--allow-rare-categories", help="Publish records whose categories may be rare, and texts.")
    ] = False,
) -> None:
    """Generate records with a trained model."""
    from ..hub.datasets import push_dataset
    from ..pipeline_difflm import DiffLMPipeline
    from ..records import write_table
    from ..shards import write_shards
    from ..utils import default_dtype, no_progress_bars

    if profile == (output is not None or push_to_hub is not None):
        raise ValueError("give either --output or --push-to-hub, for the records, or --profile, to measure")
    if push_to_hub is not None and output is not None and output.suffix:
        raise ValueError(f"--push-to-hub goes with a folder of Parquet files; name one in place of --output {output}")
    if output is not None:
        check_output(output)
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} is neither 'float32' nor 'bfloat16'")
    with no_progress_bars():
        pipe = DiffLMPipeline.from_pretrained(
            model,
            base_model=base_model,
            revision=revision,
            dtype=getattr(torch, dtype) if dtype else default_dtype(),
        )
    if torch.cuda.is_available():
        pipe.to("cuda")
    pipe.set_progress_bar_config(unit=" records", smoothing=0.02)
    sampling = {"num_inference_steps": num_inference_steps, "temperature": temperature, "top_p": top_p}
    if profile:
        _print_profile(pipe, num_records, sampling)
        return
    if push_to_hub is not None:
        commit = push_dataset(
            pipe,
            push_to_hub,
            num_records,
            seed,
            **sampling,
            output_dir=output,
            allow_rare_categories=allow_rare_categories,
            license=license,
            private=private,
        )
        console.print(f"{num_records} records in {commit.repo_url}", markup=False, highlight=False, soft_wrap=True)
        return
    if not output.suffix:
        write_shards(pipe, output, num_records, seed, **sampling)
    else:
        generator = torch.Generator().manual_seed(seed)
        write_table(pipe(num_records, **sampling, generator=generator, output_type="pandas").records, output)
    console.print(f"{num_records} records in {output}", markup=False, highlight=False, soft_wrap=True)


def _print_profile(pipe: DiffLMPipeline, num_records: int, sampling: dict[str, Any]) -> None:
    from rich.table import Table

    from ..profiling import STAGES, profile_generation

    pipe.set_progress_bar_config(disable=True)
    profile = profile_generation(pipe, num_records, **sampling)
    table = Table("stage", "", "share of the time")
    for name, share in profile.stages.items():
        table.add_row(name, STAGES[name], f"{share:.1%}")
    console.print(table)
    console.print(
        f"{profile.records_per_second:,.0f} records/s, {profile.flops_per_record / 1e6:,.1f} MFLOP each: "
        f"{profile.share_of_limit:.1%} of the {profile.matrix_flops / 1e9:,.0f} GFLOP/s of large matrix products here"
    )


@app.command()
def push(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    repo_id: Annotated[str, typer.Argument(help="Where to: NAME, or NAMESPACE/NAME.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="A folder of `difflm evaluate`, for the figures in the card.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="A model card, in place of a generated one.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, as the Hub names it.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Hub id of the training data; repeatable.")] = None,
    revision: Annotated[str | None, typer.Option(help="The branch; a new one is made.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    include_code: Annotated[
        bool, typer.Option("--include-code", help="Push the code too, for those who have not installed difflm_hf.")
    ] = False,
    base_model: Annotated[
        str | None, typer.Option(help="A copy of the frozen base LM, in place of the one that the model names.")
    ] = None,
    include_base_weights: Annotated[
        bool,
        typer.Option(
            "--include-base-weights", help="Push the weights of a frozen base LM too, and not only its name."
        ),
    ] = False,
    allow_rare_categories: Annotated[bool, typer.Option("--allow-rare-categories", help=RARE_HELP)] = False,
) -> None:
    """Push a trained model to the Hub, with a card."""
    from ..pipeline_difflm import DiffLMPipeline
    from ..utils import no_progress_bars

    with no_progress_bars():
        pipe = DiffLMPipeline.from_pretrained(model, base_model=base_model)
    commit = pipe.push_to_hub(
        repo_id,
        card=card,
        evaluation=evaluation,
        license=license,
        datasets=dataset or (),
        include_code=include_code,
        include_base_weights=include_base_weights,
        allow_rare_categories=allow_rare_categories,
        revision=revision,
        create_pr=create_pr,
        private=private,
        **({} if message is None else {"commit_message": message}),
    )
    url = commit.pr_url or commit.commit_url
    console.print(f"pushed to {url}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    real: Annotated[Path, typer.Option(help="The records that the generator was trained on.")],
    synthetic: Annotated[Path, typer.Option(help="Generated records.")],
    output: Annotated[Path, typer.Option(help="A folder for report.html, report.json and plots.")],
    holdout: Annotated[
        Path | None, typer.Option(help="Real records that the generator has not seen; needed for tables.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict, to measure utility.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="A column to take as categories; repeatable.")] = None,
    log_target: Annotated[bool, typer.Option(help="Predict log(1 + target).")] = False,
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of a model, to map rows by its latents.")] = None,
    kind: Annotated[str, typer.Option(help="What records are: table, json, code or text.")] = "table",
    column: Annotated[str | None, typer.Option(help="The column that holds the code or text.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="A JSON Schema that JSON records should follow.")] = None,
    key: Annotated[str | None, typer.Option(help="The key that tells whether a JSON record is new.")] = None,
    max_rows: Annotated[int, typer.Option(help="Rows of a table that the costly metrics draw at most.")] = 50_000,
    seed: Annotated[int, typer.Option(help="Seed of subsamples and models.")] = 0,
) -> None:
    """Measure how good generated records are, and write a report."""
    from rich.table import Table

    from ..evaluation import summarize, write_report

    if output.is_file():
        raise ValueError(f"--output {output} is a file; name a folder")
    unused = (
        {"--column": column, "--json-schema": json_schema, "--key": key}
        if kind == "table"
        else {"--holdout": holdout, "--target": target, "--categorical": categorical}
        | {"--log-target": log_target, "--model": model}
        | ({"--column": column} if kind == "json" else {"--json-schema": json_schema, "--key": key})
    )
    if given := [option for option, value in unused.items() if value]:
        raise ValueError(f"{given[0]} has no use with --kind {kind}; leave it out")
    if kind == "table":
        if holdout is None:
            raise ValueError("a table needs --holdout: real records that the generator has not seen")
        scores, figures = _evaluate_table(
            real, holdout, synthetic, model, target, categorical, log_target, max_rows, seed
        )
    else:
        scores, figures = {"documents": _evaluate_documents(kind, real, synthetic, column, json_schema, key, seed)}, {}
    page = write_report(scores, output, figures, title=f"Evaluation of {synthetic.name}")

    table = Table("", "metric", "value", "to compare with", "good")
    section = None
    for row in summarize(scores):
        table.add_row("" if row.section == section else row.section, row.name, row.value, row.reference, row.good)
        section = row.section
    console.print(table)
    for note in scores.get("notes", []):
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    for alarm in scores.get("privacy", {}).get("alarms", []):
        console.print(f"[red]privacy alarm:[/red] {escape(alarm)}", highlight=False)
    console.print(f"report in {page}", markup=False, highlight=False, soft_wrap=True)


def _evaluate_table(
    real: Path,
    holdout: Path,
    synthetic: Path,
    model: str | None,
    target: str | None,
    categorical: list[str] | None,
    log_target: bool,
    max_rows: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    from ..evaluation import evaluate_table, table_figures
    from ..latents import encode_latents, to_dataset
    from ..pipeline_difflm import DiffLMPipeline
    from ..records import read_table
    from ..utils import no_progress_bars

    tables = [read_table(path) for path in (synthetic, real, holdout)]
    latents = None
    if model is not None:
        with no_progress_bars():
            pipe = DiffLMPipeline.from_pretrained(model)
        rows = [table.sample(min(len(table), 2000), random_state=seed) for table in (tables[1], tables[0])]
        rows = [_encodable(pipe.processor, table) for table in rows]
        posteriors = [encode_latents(pipe.vae, to_dataset(pipe.processor, table), False) for table in rows]
        latents = tuple(posterior.tensors["mean"].numpy() for posterior in posteriors)
    scores = evaluate_table(
        *tables,
        target=target,
        categorical=categorical,
        log_target=log_target,
        max_rows=max_rows,
        seed=seed,
        show_progress=True,
    )
    return scores, table_figures(*tables, scores, latents, seed)


def _encodable(processor: DiffLMProcessor, table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a model can encode: not those with texts longer, or values other, than it was trained on."""

    def error_of(rows: pd.DataFrame) -> ValueError | None:
        try:
            processor(rows)
        except ValueError as error:
            return error

    if (error := error_of(table)) is None:
        return table
    rows = table[[error_of(table.iloc[[i]]) is None for i in range(len(table))]]
    if rows.empty:
        raise error
    return rows


def _evaluate_documents(
    kind: str, real: Path, synthetic: Path, column: str | None, json_schema: Path | None, key: str | None, seed: int
) -> dict[str, float]:
    from ..evaluation import evaluate_code, evaluate_json, evaluate_text
    from ..records import read_table

    if kind == "json":
        # Not `splitlines`, which takes characters inside JSON strings for ends of lines.
        documents = [_read_text(path).split("\n") for path in (synthetic, real)]
        documents = [[line for line in lines if line.strip()] for lines in documents]
        schema = None if json_schema is None else _read_json(json_schema)
        return evaluate_json(*documents, schema=schema, key=key, seed=seed)
    if kind not in ("code", "text"):
        raise ValueError(f"--kind {kind} is none of table, json, code, text")
    tables = [read_table(path) for path in (synthetic, real)]
    for path, table in zip((synthetic, real), tables):
        if column not in table:
            raise ValueError(f"{path} has no column {column!r}; name one by --column: {', '.join(table.columns)}")
        if not (is_text := table[column].map(lambda value: isinstance(value, str))).all():
            row = is_text.argmin()
            raise ValueError(
                f"{path}: {table[column].iloc[row]!r} in row {row} of column {column!r} is no text; drop it"
            )
    measure = evaluate_code if kind == "code" else evaluate_text
    return measure(*(table[column].tolist() for table in tables), seed=seed)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text ({error})") from error


def check_output(path: Path) -> None:
    """Raises a `ValueError` for a file that records cannot be written to, before the work rather than after it."""
    from ..records.readers import WRITERS

    if path.suffix and path.suffix not in WRITERS:
        raise ValueError(f"{path}: {path.suffix} is not one of {', '.join(WRITERS)}; a folder has no ending")
    if not path.suffix and path.is_file():
        raise ValueError(f"{path} is a file; name a folder, or a file that ends in {', '.join(WRITERS)}")


def main() -> None:
    """Runs the command; what the user can mend is told in one line."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        message = escape(" ".join(str(error).split()))
        console.print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
