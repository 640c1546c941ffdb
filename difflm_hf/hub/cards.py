"""What a model, or a dataset that one generated, says of itself on the Hub: only what is recorded or measured."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import ChainableUndefined, Environment, PackageLoader, Undefined
from PIL import Image

from ..evaluation.report.summary import HEADINGS, METRICS, SECTIONS, summarize
from ..processing_difflm import MIN_CATEGORY_COUNT
from ..records import RecordCodec, RecordSchema


if TYPE_CHECKING:
    from ..pipeline_difflm import DiffLMPipeline


UNKNOWN = "not recorded"
MAX_CHARACTERS = 40  # of a name, for tables that fit a page
PLOTS_FOLDER = "plots"
DATA_PLOTS = ("marginals", "map")  # show categories however rare, and single records as points
TAGS = ("difflm", "synthetic-data", "latent-diffusion")
DATASET_TAGS = ("synthetic", "difflm")
# "Other" is a task that the Hub knows; of those with "tabular" in their names, none generates tables.
TASK = "other"
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
SIZES += ("10B<n<100B", "100B<n<1T", "n>1T")
# Ends of lines, seen; other control characters, and those that turn the direction of what follows, not.
ONE_LINE = dict.fromkeys([*range(32), *range(127, 160)], " ") | dict.fromkeys([10, 13, 0x85, 0x2028, 0x2029], "↵")
ONE_LINE |= dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF], "")
QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")  # as Python writes strings
MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$&!#])")


def model_card(
    pipeline: DiffLMPipeline,
    repo_id: str | None = None,
    evaluation: str | os.PathLike | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    language: str | Sequence[str] | None = None,
    tags: Sequence[str] = (),
    include_data_plots: bool = False,
) -> ModelCard:
    """
    Writes the card of a model, from what its training recorded in `pipeline.config.training` and from an evaluation.

    What is not known is said to be not known. Of the training data it tells what the training recorded: columns, their
    common categories and percentiles, but no record.

    Args:
        pipeline ([`DiffLMPipeline`]): The model.
        repo_id (`str`, *optional*): Its id on the Hub, such as `"user/model"`.
        evaluation (`str` or `Path`, *optional*):
            The folder that `difflm evaluate` or [`write_report`] wrote. [`plot_files`] are the plots that the card
            shows.
        license (`str`, *optional*): The licence of the weights, as the Hub names it, such as `"apache-2.0"`.
        datasets (`Sequence[str]`, defaults to none): Ids on the Hub of what it was trained on.
        language (`str` or `Sequence[str]`, *optional*): Codes of the languages of its texts, such as `"en"`.
        tags (`Sequence[str]`, defaults to none): Tags besides those that every such model has.
        include_data_plots (`bool`, defaults to `False`):
            Also show the plot of all columns, which names categories however rare, and the map of rows, in which
            single training records are points; a report does not tell whether that gives anyone away.

    Returns:
        `huggingface_hub.ModelCard`, to be saved as `README.md`.

    Raises:
        `ValueError`: for an id that the Hub does not allow, and for an evaluation that is damaged.
        `OSError`: when `evaluation` is no folder of an evaluation, or a plot in it is damaged.

    Example:

    ```python
    >>> card = model_card(pipe, "user/adult", evaluation="report", license="apache-2.0")
    >>> card.save("adult-model/README.md")
    ```
    """
    for hub_id in filter(None, (repo_id, *datasets)):
        validate_repo_id(hub_id)
    training = pipeline.config.get("training") or {}
    arguments = training.get("arguments") or {}
    scores = None if evaluation is None else _read_scores(evaluation)
    # An LM that was trained whole is no longer one that the model loads.
    base_model = getattr(pipeline.vae.config, "base_model", None) or arguments.get("base_model")
    name = repo_id.split("/")[-1] if repo_id else "DiffLM model"
    source = (training.get("data") or {}).get("source") or ", ".join(datasets)
    seconds = [phase.get("seconds") for phase in training.get("phases") or ()]
    data = ModelCardData(
        license=license,
        language=language,
        library_name="difflm_hf",
        pipeline_tag=TASK,
        base_model=base_model if _is_hub_id(base_model) else None,
        datasets=list(datasets) or None,
        tags=[*TAGS, _modality(pipeline.processor.schema), *tags],
        model_name=name,
        # The Hub wants a dataset for each figure, and by this name takes none.
        eval_results=list(_eval_results(scores, datasets[0] if len(datasets) == 1 else "unknown", source)) or None,
    )
    if data.eval_results is None:
        data.model_name = None  # says nothing without them
    body = render(
        "model_card.md.jinja",
        name=name,
        repo_id=repo_id,
        license=license,
        datasets=datasets,
        training=training,
        pipeline=pipeline,
        vae=pipeline.vae.config,
        base_model=data.base_model,
        is_pretrained=bool(base_model or pipeline.vae.config.freeze_decoder),
        num_parameters={part: count_parameters(getattr(pipeline, part)) for part in ("vae", "denoiser")},
        dtype=str(pipeline.vae.dtype).removeprefix("torch."),
        schema=pipeline.processor.schema,
        min_text_count=pipeline.processor.min_text_count,
        seconds=sum(seconds) if seconds and None not in seconds else None,
        hardware=describe_hardware(training.get("hardware") or {}),
        few_records=MIN_CATEGORY_COUNT,
        rare_columns=_rare_columns(training.get("columns") or pipeline.processor.schema.to_dict()),
        rare_numbers=_rare_numbers(pipeline.processor.codec),
        **_evaluation_context(scores, evaluation, include_data_plots),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def dataset_card(
    schema: RecordSchema,
    num_records: int,
    repo_id: str | None = None,
    model: str | None = None,
    model_revision: str | None = None,
    seed: int | None = None,
    sampling: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    date: str | None = None,
    evaluation: str | os.PathLike | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    task_categories: Sequence[str] = (),
    tags: Sequence[str] = (),
    data_files: str = "data/*.parquet",
    include_data_plots: bool = False,
) -> DatasetCard:
    """
    Writes the card of a dataset of generated records.

    What is not known is said to be not known.

    Args:
        schema ([`RecordSchema`]): That of the records, `pipe.processor.schema`.
        num_records (`int`): How many there are.
        repo_id (`str`, *optional*): The id of the dataset on the Hub.
        model (`str`, *optional*): The id on the Hub of the model that generated them, where it is there.
        model_revision (`str`, *optional*): The commit of that model.
        seed (`int`, *optional*): The seed of the records.
        sampling (`Mapping[str, Any]`, *optional*):
            Arguments that they were generated with, such as `num_inference_steps`, `temperature` and `top_p`.
        versions (`Mapping[str, str]`, *optional*): Versions of packages by their names.
        date (`str`, *optional*): The day on which they were generated.
        evaluation (`str` or `Path`, *optional*): As for [`model_card`], an evaluation of these records.
        license (`str`, *optional*): The licence of the records, as the Hub names it.
        language (`str` or `Sequence[str]`, *optional*): Codes of the languages of their texts.
        task_categories (`Sequence[str]`, defaults to none):
            What the records may serve for, in the Hub's words, such as `"tabular-classification"`.
        tags (`Sequence[str]`, defaults to none): Tags besides those that every such dataset has.
        data_files (`str`, defaults to `"data/*.parquet"`): The pattern of the files.
        include_data_plots (`bool`, defaults to `False`): As for [`model_card`].

    Returns:
        `huggingface_hub.DatasetCard`, to be saved as `README.md`.

    Raises:
        `ValueError`, `OSError`: As [`model_card`].

    Example:

    ```python
    >>> sampling = {"num_inference_steps": 12, "temperature": 1.0, "top_p": 1.0}
    >>> card = dataset_card(pipe.processor.schema, 10_000, "user/rows", "user/model", seed=0, sampling=sampling)
    >>> card.save("rows/README.md")
    ```
    """
    if repo_id:
        validate_repo_id(repo_id)
    scores = None if evaluation is None else _read_scores(evaluation)
    name = repo_id.split("/")[-1] if repo_id else "Synthetic records"
    data = DatasetCardData(
        pretty_name=name,
        license=license,
        language=language,
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"] if any(f.type == "text" for f in schema) else None,
        size_categories=[_size_category(num_records)],
        task_categories=list(task_categories) or None,
        tags=list(dict.fromkeys([*DATASET_TAGS, _modality(schema), *tags])),
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": data_files}]}],
    )
    body = render(
        "dataset_card.md.jinja",
        name=name,
        repo_id=repo_id,
        license=license,
        num_records=num_records,
        model=model if _is_hub_id(model) else None,
        model_revision=model_revision,
        seed=seed,
        sampling=sampling,
        versions=versions,
        date=date,
        data_files=data_files,
        schema=schema,
        arrow_schema=schema.to_arrow(),
        **_evaluation_context(scores, evaluation, include_data_plots),
    )
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def plot_files(evaluation: str | os.PathLike, include_data_plots: bool = False) -> dict[str, Path]:
    """
    The plots that a card with this evaluation shows.

    Args:
        evaluation (`str` or `Path`): The folder that `difflm evaluate` or [`write_report`] wrote.
        include_data_plots (`bool`, defaults to `False`): As for [`model_card`].

    Returns:
        `dict[str, Path]`: The files by their paths beside the card, such as `"plots/distances.png"`.

    Raises:
        `OSError`: for a plot that is damaged.
    """
    files = {}
    for name in HEADINGS:
        path = Path(evaluation) / f"{name}.png"
        if path.is_file() and (include_data_plots or name not in DATA_PLOTS):
            try:
                with Image.open(path) as image:
                    image.load()
            except (OSError, SyntaxError, ValueError) as error:
                raise OSError(f"{path} is damaged ({error}); evaluate anew") from error
            files[f"{PLOTS_FOLDER}/{path.name}"] = path
    return files


def _read_scores(folder: str | os.PathLike) -> dict[str, Any]:
    paths = [path for name in ("report.json", "audit.json") if (path := Path(folder) / name).is_file()]
    if not paths:
        path = Path(folder) / "report.json"
        raise FileNotFoundError(f"{path} is missing: {folder} holds no evaluation; write one by `difflm evaluate`")
    scores = {}
    for path in paths:
        scores |= _read_file(path)
    return scores


def _read_file(path: Path) -> dict[str, Any]:
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        # What is null in the file was NaN.
        scores |= {section: _with_nan(scores[section]) for section in SECTIONS if section in scores}
        rows = summarize(scores)
        if not isinstance(alarms := scores.get("privacy", {}).get("alarms", []), list) or {*map(type, alarms)} - {str}:
            raise ValueError("alarms are no list of sentences")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); evaluate anew") from error
    if not rows:
        raise ValueError(f"{path} holds no figures of an evaluation; write one by `difflm evaluate`")
    return scores


def _with_nan(scores: Any) -> Any:
    if isinstance(scores, dict):
        return {key: _with_nan(value) for key, value in scores.items()}
    return math.nan if scores is None else scores


def _eval_results(scores: dict[str, Any] | None, dataset: str, source: str) -> Iterator[EvalResult]:
    """The figures that [`summarize`] tells, as numbers."""
    for metric in METRICS:
        value = reduce(lambda part, key: part.get(key) if isinstance(part, Mapping) else None, metric.path, scores)
        value = value["mean"] if isinstance(value, Mapping) else value
        if value is not None and math.isfinite(value):
            yield EvalResult(
                task_type=TASK,
                task_name="Generation of synthetic records",
                dataset_type=dataset,
                dataset_name=_plain(source) if source else UNKNOWN,
                metric_type="_".join(key for key in metric.path[1:] if key != "synthetic"),
                metric_name=metric.name,
                metric_value=round(value, 6),
            )


def _evaluation_context(
    scores: dict[str, Any] | None, evaluation: str | os.PathLike | None, include_data_plots: bool
) -> dict[str, Any]:
    """What the templates need of an evaluation, or of none."""
    if scores is None:
        return {"scores": None}
    sections = {name: [] for name in SECTIONS.values()}
    for row in summarize(scores):
        sections[row.section].append(row)
    for name in (SECTIONS["documents"], SECTIONS["audit"]):
        if not sections[name]:
            del sections[name]
    plots = [(*HEADINGS[Path(name).stem], name) for name in plot_files(evaluation, include_data_plots)]
    return {"scores": scores, "sections": sections, "plots": plots}


def describe_hardware(hardware: Mapping[str, Any]) -> str:
    """One line on a machine."""
    count = hardware.get("num_cpus")
    cores = f"processor cores: {UNKNOWN}" if count is None else f"{count} processor core{'s' if count > 1 else ''}"
    gpu = (_text(hardware["gpu"]) or "no GPU") if "gpu" in hardware else f"GPU: {UNKNOWN}"
    return f"{cores}, of type {_text(hardware.get('processor')) or UNKNOWN}; {gpu}" if hardware else UNKNOWN


def _modality(schema: RecordSchema) -> str:
    """What the Hub calls this kind of records."""
    return "text" if schema.is_of_documents else "tabular"


def _rare_columns(columns: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Columns with a category, or a word among numbers, in few records; `None` where that is not known of each."""
    naming = [column for column in columns if column.get("type") == "category" or column.get("num_words")]
    rarest = {column.get("name"): column.get("rarest") for column in naming}
    if not columns or None in rarest.values():
        return None
    return [name for name, count in rarest.items() if count < MIN_CATEGORY_COUNT]


def _rare_numbers(codec: RecordCodec) -> list[str]:
    """Columns of numbers that are listed one by one, with one of few records, or of a number that is not known."""
    return [
        f.name
        for f in codec.schema
        if f.is_numeric and codec.rarest.get(f.name, MIN_CATEGORY_COUNT) < MIN_CATEGORY_COUNT
    ]


def render(template: str, **context: Any) -> str:
    environment = Environment(
        loader=PackageLoader("difflm_hf.hub", "."),
        # The one place that says of what is missing that it is unknown, wherever a template writes a value.
        undefined=ChainableUndefined,
        finalize=lambda value: UNKNOWN if _is_unknown(value) else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {filter.__name__[1:]: filter for filter in (_code, _text, _sentence, _number, _duration)}
    return environment.get_template(template).render(unknown=UNKNOWN, **context)


def _is_unknown(value: Any) -> bool:
    return value is None or isinstance(value, Undefined)


def _plain(value: Any) -> str:
    """A value as one short line."""
    text = str(value).translate(ONE_LINE).encode(errors="replace").decode()
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _code(value: Any) -> str | None:
    """A name as inline code, in which no character means anything, also in a table."""
    if _is_unknown(value):
        return None
    text = _plain(value) or " "
    if "|" in text:
        # Tables end a cell there. How they read a backslash before it differs; a character reference is one to all.
        return f"<code>{re.sub('[!-/:-@[-`{-~]', lambda match: f'&#{ord(match[0])};', text)}</code>"
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    # One space on either side is not shown.
    padding = " " if text[0] + text[-1] != (text[0] + text[-1]).strip("` ") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _text(value: Any) -> str | None:
    """A few words in which Markdown sees no markup."""
    return None if _is_unknown(value) else MARKDOWN.sub(r"\\\1", _plain(value))


def _sentence(value: str) -> str:
    """A sentence of an evaluation, with what it quotes as code."""
    pieces = QUOTED.split(value.translate(ONE_LINE))
    return "".join(_code(piece[1:-1]) if i % 2 else MARKDOWN.sub(r"\\\1", piece) for i, piece in enumerate(pieces))


def _number(value: Any) -> str | None:
    if _is_unknown(value):
        return None
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"


def _duration(seconds: Any) -> str | None:
    if _is_unknown(seconds):
        return None
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _is_hub_id(name: str | None) -> bool:
    """Whether a model's name may be one of the Hub, and is no folder here."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return False
    return not os.path.exists(name)


def count_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _size_category(num_records: int) -> str:
    return SIZES[min(max(len(str(num_records)) - 3, 0), len(SIZES) - 1)]
