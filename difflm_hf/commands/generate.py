"""`difflm generate`."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import EscapeFormulas, check_options, command, console, say, words


if TYPE_CHECKING:
    from ..pipeline_difflm import DiffLMPipeline


OF_TEXTS = {  # what a Diffusion-LM can be told
    *("model", "num_records", "output", "num_inference_steps", "length", "temperature", "dtype", "seed", "revision"),
}


@command(
    "difflm generate my-model --num-records 10000 --output new.csv --seed 1",
    "difflm generate user/my-model --num-records 1000000 --output shards",
    "difflm generate my-model --num-records 9 --output new.csv --where 'age > 30'",
    "difflm generate my-model --conditions known.csv --output filled.csv",
    "difflm generate my-model --num-records 100000000 --output shards --ray auto",
    "difflm generate my-diffusion-lm --num-records 9 --output new.jsonl --length 12",
)
def generate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a trained model.")],
    num_records: Annotated[
        int | None, typer.Option(help="Records to generate; one for each row of --conditions if not given.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="A .csv, .parquet, .jsonl or .xlsx file, or a folder for many records, in Parquet files."),
    ] = None,
    database: Annotated[str | None, typer.Option(help="The URL of a database, in place of --output.")] = None,
    table: Annotated[str | None, typer.Option(help="A new table of that database.")] = None,
    profile: Annotated[bool, typer.Option(help="Measure where the time goes, and write no records.")] = False,
    num_inference_steps: Annotated[
        int | None, typer.Option(help="Steps of the scheduler; 12 by default, of a Diffusion-LM 20.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Words of each text, of a Diffusion-LM.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the causal LM, 1 by default; of the words of a Diffusion-LM, 0.7.")
    ] = None,
    top_p: Annotated[float, typer.Option(help="Nucleus of the causal LM.")] = 1.0,
    where: Annotated[
        str | None,
        typer.Option(help="What all records satisfy, in pandas' syntax: \"income == '>50K' and 30 <= age <= 40\"."),
    ] = None,
    conditions: Annotated[
        Path | None, typer.Option(help="A table with a row for each record, whose gaps are filled.")
    ] = None,
    guidance_scale: Annotated[float, typer.Option(help="How far records follow what is known of them.")] = 1.0,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32 or bfloat16; the fastest of this machine by default.",
            autocompletion=words("float32", "bfloat16"),
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Generate by the workers of a Ray cluster: auto, local, host:port or ray://host:10001.",
            autocompletion=words("auto", "local"),
        ),
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option(help="Workers of --ray; one for each GPU, or core, of the cluster by default.")
    ] = None,
    escape_formulas: EscapeFormulas = False,
    share: Annotated[
        str | None,
        typer.Option(help="Write one share of a folder's files: 2/8 is every eighth from the third on."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and dtype give the same records.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model of the Hub.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="A copy of the frozen base LM, in place of the one that the model names.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the base LM brings with it.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Push the records to this dataset repository, with a card.")
    ] = None,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the records, as the Hub names it.")] = None,
    allow_rare_categories: Annotated[
        bool, typer.Option("--allow-rare-categories", help="Publish records whose categories may be rare, and texts.")
    ] = False,
) -> dict[str, Any]:
    """Generate records with a trained model."""
    import pyarrow.parquet as pq
    import torch

    from ..blocks import write_shards
    from ..hub.datasets import push_dataset
    from ..pipeline_difflm import DiffLMPipeline
    from ..ray_generation import check_ray, on_ray
    from ..records import read_table, write_table
    from ..seeds import seeded_generator
    from ..utils import default_device, no_progress_bars

    if (database is None) != (table is None) or (database is not None and output is not None):
        raise ValueError("--database goes with --table, and without --output")
    if profile == (output is not None or push_to_hub is not None or database is not None):
        raise ValueError("give --output, --database or --push-to-hub, for the records, or --profile, to measure")
    if push_to_hub is not None and output is not None and output.suffix:
        raise ValueError(f"--push-to-hub goes with a folder of Parquet files; name one in place of --output {output}")
    if push_to_hub is None and (license is not None or private is not None or allow_rare_categories):
        raise ValueError("--license, --private and --allow-rare-categories go with --push-to-hub")
    if escape_formulas and (output is None or output.suffix not in (".csv", ".tsv", ".gz")):
        raise ValueError("--escape-formulas goes with a CSV file as --output")
    if ray is None and num_workers is not None:
        raise ValueError("--num-workers goes with --ray")
    if ray is not None:
        check_ray(ray, num_workers)
        if profile:
            raise ValueError("--profile measures this process; leave out --ray")
    if share is not None and (output is None or output.suffix or push_to_hub is not None):
        raise ValueError("--share goes with a folder as --output, and without --push-to-hub")
    if output is not None:
        check_output(output)
    parts = _shares(share)
    if num_records is None and conditions is None:
        raise ValueError("give --num-records, or --conditions with a row for each record")
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} is neither 'float32' nor 'bfloat16'")
    if _class_of(model, revision) == "DiffusionLMPipeline":
        given = {"num_inference_steps": num_inference_steps, "length": length, "temperature": temperature}
        sampling = {name: value for name, value in given.items() if value is not None}
        return _generate_texts(context, model, num_records, output, sampling, dtype, seed, revision)
    if length is not None:
        raise ValueError("--length is of Diffusion-LM; say what records are to be like by --where")
    given = {} if where is None else {"where": where}
    if conditions is not None:
        given["conditions"] = read_table(conditions)
    if not given and guidance_scale != 1:
        raise ValueError("--guidance-scale goes with --where or --conditions")
    if given:
        given["guidance_scale"] = guidance_scale
        if profile or push_to_hub is not None:
            raise ValueError("conditions go with --output alone")
    with no_progress_bars():
        pipe = DiffLMPipeline.from_pretrained(
            model,
            base_model=base_model,
            revision=revision,
            dtype=None if dtype is None else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
        )
    if ray is not None:
        pipe = on_ray(pipe, ray, num_workers)
    elif (device := default_device()).type != "cpu":
        pipe.to(device)
    if conditions is not None:
        schema = pipe.processor.schema
        given["conditions"] = schema.with_texts(read_table(conditions, schema.reading))
    pipe.set_progress_bar_config(unit=" records", smoothing=0.02)
    sampling = {
        "num_inference_steps": 12 if num_inference_steps is None else num_inference_steps,
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": top_p,
    }
    if profile:
        return _profile(pipe, num_records, sampling)
    start = time.perf_counter()
    with redirect_stdout(sys.stderr):  # Ray prints there; what is for programs comes after it
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
            say(f"{num_records} records in {commit.repo_url}")
            uploaded = {"url": str(commit.repo_url), "commit": commit.oid}
            return (
                _told(num_records, [] if output is None else sorted(output.glob("*.parquet")), start, seed) | uploaded
            )
        if database is None and not output.suffix:
            num_records = len(given["conditions"]) if num_records is None else num_records
            files = write_shards(pipe, output, num_records, seed, **sampling, share=parts, **given)
            if share is not None:
                num_records = sum(pq.read_metadata(file).num_rows for file in files)
        else:
            generator = seeded_generator(seed)
            records = pipe(num_records, **sampling, **given, generator=generator, output_type="pandas").records
            write_table(records, database or output, table, escape_formulas)
            num_records, files = len(records), [output] if database is None else []
    say(f"{num_records} records in {output or table}")
    return _told(num_records, files, start, seed) | ({} if table is None else {"table": table})


def _shares(share: str | None) -> tuple[int, int]:
    """Which share of how many."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", share or "0/1")
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"--share {share} is not one of 0/8 to 7/8, say")
    return int(match[1]), int(match[2])


def _told(num_records: int, files: list[Path], start: float, seed: int) -> dict[str, Any]:
    """What `--json` prints of records that were generated since `start`."""
    seconds = time.perf_counter() - start
    return {"num_records": num_records, "files": list(map(str, files)), "seconds": seconds, "seed": seed}


def check_output(path: Path) -> None:
    """Raises an error for a file that records cannot be written to, before the work rather than after it."""
    from ..files import check_writable
    from ..records.readers import WRITERS, check_library, ending_of

    if path.suffix and (ending := ending_of(path)) not in WRITERS:
        raise ValueError(f"{path}: {ending} is not one of {', '.join(WRITERS)}; a folder has no ending")
    if not path.suffix and os.path.isfile(path):  # unlike `Path.is_file`, it takes names that are too long
        raise ValueError(f"{path} is a file; name a folder, or a file that ends in {', '.join(WRITERS)}")
    if path.suffix:
        check_library(path)
        check_writable(path)


def _profile(pipe: DiffLMPipeline, num_records: int, sampling: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

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
    return asdict(profile)


def _class_of(model: str, revision: str | None) -> str | None:
    """The class of a saved pipeline; `None` where there is none, which loading says more about."""
    from diffusers import DiffusionPipeline

    from ..hub.upload import check_reach, explain_hub_errors

    with suppress(OSError, ValueError), explain_hub_errors(model, is_upload=False):
        check_reach(model, "model_index.json", revision)
        return DiffusionPipeline.load_config(model, revision=revision).get("_class_name")
    return None


def _generate_texts(
    context: typer.Context,
    model: str,
    num_texts: int | None,
    output: Path | None,
    sampling: dict[str, float],
    dtype: str | None,
    seed: int,
    revision: str | None,
) -> dict[str, Any]:
    """Writes texts of a Diffusion-LM into a column of a table."""
    import pandas as pd
    import torch

    from ..diffusion_lm import DiffusionLMPipeline
    from ..records import write_table
    from ..seeds import seeded_generator
    from ..utils import default_device, no_progress_bars

    check_options(context, OF_TEXTS, "a Diffusion-LM does not take it")
    if output is None or not output.suffix:
        raise ValueError("give --output, a .csv, .parquet or .jsonl file")
    with no_progress_bars():
        pipe = DiffusionLMPipeline.from_pretrained(
            model, revision=revision, dtype=None if dtype is None else getattr(torch, dtype)
        )
    pipe.to(default_device())
    generator = seeded_generator(seed)
    start = time.perf_counter()
    texts = pipe(num_texts, generator=generator, **sampling).texts
    write_table(pd.DataFrame({"text": texts}), output)
    say(f"{num_texts} texts in {output}")
    return _told(num_texts, [output], start, seed)
