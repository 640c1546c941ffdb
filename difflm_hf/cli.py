"""The command `difflm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape


app = typer.Typer(help="Learn the distribution of records, and generate new ones.", no_args_is_help=True)
console = Console(stderr=True)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Records: a .csv, .parquet, .json or .jsonl file.")],
    output_dir: Annotated[Path, typer.Option(help="A new or empty folder for the model.")],
    validation: Annotated[Path | None, typer.Option(help="Records to select by; a tenth of DATA by default.")] = None,
    config: Annotated[str, typer.Option(help="The recipe: small or base.")] = "small",
    base_model: Annotated[str | None, typer.Option(help="A pretrained causal LM of the Hub, to write JSON.")] = None,
    base_encoder: Annotated[str | None, typer.Option(help="A pretrained encoder of the Hub, with it.")] = None,
    injection: Annotated[
        str, typer.Option(help="soft_prompt, prefix_soft_prompt, kv_memory or input_embed.")
    ] = "soft_prompt",
    categorical: Annotated[list[str] | None, typer.Option(help="A column to take as categories; repeatable.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens that the texts of a record may take.")] = 1024,
    max_minutes: Annotated[float | None, typer.Option(help="Time for training, in minutes.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on where a run into OUTPUT_DIR was cut off.")] = False,
) -> None:
    """Train a model on records."""
    from .training import train

    train(
        data,
        output_dir,
        validation=validation,
        categorical=categorical or (),
        config=config,
        base_model=base_model,
        base_encoder=base_encoder,
        injection=injection,
        max_length=max_length,
        max_minutes=max_minutes,
        seed=seed,
        resume=resume,
    )
    console.print(f"saved in {output_dir}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a trained model.")],
    num_records: Annotated[int, typer.Option(help="Records to generate.")],
    output: Annotated[Path, typer.Option(help="A .csv, .parquet or .jsonl file.")],
    num_inference_steps: Annotated[int, typer.Option(help="Steps of the scheduler.")] = 16,
    temperature: Annotated[float, typer.Option(help="Of the causal LM.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the causal LM.")] = 1.0,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; the fastest of this machine by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and dtype give the same records.")] = 0,
) -> None:
    """Generate records with a trained model."""
    from .pipeline_difflm import DiffLMPipeline
    from .records import write_table
    from .utils import default_dtype, no_progress_bars

    check_output(output)
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} is neither 'float32' nor 'bfloat16'")
    with no_progress_bars():
        pipe = DiffLMPipeline.from_pretrained(model, dtype=getattr(torch, dtype) if dtype else default_dtype())
    if torch.cuda.is_available():
        pipe.to("cuda")
    generator = torch.Generator().manual_seed(seed)
    table = pipe(
        num_records,
        num_inference_steps=num_inference_steps,
        temperature=temperature,
        top_p=top_p,
        generator=generator,
        output_type="pandas",
    ).records
    write_table(table, output)
    console.print(f"{num_records} records in {output}", markup=False, highlight=False, soft_wrap=True)


def check_output(path: Path) -> None:
    """Raises a `ValueError` for a file that records cannot be written to, before the work rather than after it."""
    from .records.table import WRITERS

    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: {path.suffix or 'no ending'} is not one of {', '.join(WRITERS)}")


def main() -> None:
    """Runs the command; what the user can mend is told in one line."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        message = escape(" ".join(str(error).split()))
        console.print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
