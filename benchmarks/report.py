"""
Writes docs/benchmarks.md with its plot, and the tables of README.md and MODEL_CARD.md, from benchmarks/results.

    python -m benchmarks.report
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from difflm_hf.evaluation import to_markdown

from .audit import audit_section
from .categories import categories_section
from .commits import commits_section
from .diffusion_lm.report import diffusion_lm_section, write_samples
from .distributed import NUM_STEPS, distributed_section
from .markdown import fill, to_table
from .nested import nested_section
from .numbers import numbers_section
from .page import page_section
from .privacy import privacy_section
from .protocol import protocol_section
from .ray import ray_section
from .reading import reading_section
from .report_control import control_section
from .report_documents import documents_section, pretrained_section
from .results import load_result
from .robustness import robustness_section
from .speed import NUM_ROWS, speed_section
from .streaming import streaming_section
from .tables import LOG_TARGET, MAX_MINUTES, MODELS, OURS, SEED


DOCS, README, PLOT = Path("docs/benchmarks.md"), Path("README.md"), Path("docs/images/benchmarks.png")
MODEL_CARD, CARD_DATASET = Path("MODEL_CARD.md"), "adult"
# Models that are trained on all rows, and asked for as many.
COMPARED = [name for name, model in MODELS.items() if model.max_rows is None]
COLORS = ("#d55e00", "#1a80c4", "#7f7f7f", "#1b9e5a", "#a55bc4")

PAGE = """# Benchmarks

Written by `python -m benchmarks.report` from the figures in `benchmarks/results`, which
`python -m benchmarks.tables` measures: it trains each model on the same splits, in a process and a virtual environment
of its own, one after the other, has it generate as many rows as it was trained on, and
scores them by [`evaluate_table`](evaluation.md). All figures are of one processor with 2 cores and bf16 matrix units,
no GPU. The splits are those of the DiffLM paper's published preparation. All seeds are {seed}.

Versions: {versions}. Peers: {peers}.

![C2ST and MLE of all models on all tables](images/benchmarks.png)

{standing}

## Fidelity and utility

{fidelity}

*Shapes* and *trends* are SDMetrics' Column Shapes and Column Pair Trends against the training split (1 is best).
*C2ST* is the AUC of an XGBoost that tells generated rows from the test split (0.5 is best); *train* the same against
the training split, which has more rows to learn from, but where copied rows would flatter; *logistic* the same as the
first by logistic regression. *α-precision* and *β-recall* are good when they are those of real rows, and so is *MLE*:
the AUC on the test split of an XGBoost trained on generated rows, mean of five seeds; for {log_target} it is the RMSE
of log(1 + PM2.5), where less is better. Lines of *real rows* have the test split in place of generated rows, or for
MLE the training split.

## The same before and after a change of the code

`python -m benchmarks.commits` trains two commits on the same tables with the same seeds, and scores both by one code.
Figures are means of three seeds, of each a mean over four draws by its model, with half of their 95 % interval by
Student's t; the columns are those above.

{commits}

### By the protocol of publications

`benchmarks.protocol` scores the same rows of the newer commit as TabSyn and TabDiff do, on the same preparation of the
tables: errors of shapes and of trends against the training split in per cent, trends over *all* pairs of columns; and
C2ST against the test split by 300 trees of depth 6 in 5 folds. Means of three seeds, and their range; figures of
others are those of their papers.

{protocol}

On magic the shapes fall behind. All of its ten numbers have more values than tokens, and each position has weights of
its own, which 1,500 steps train, half of the records for conditions. With 16 epochs and no conditions the error was
0.84 %. The trends of magic hang on a few far rows: of five draws by one model, four had an error of 0.8 to 1.1 %, and
one of 2.1 %.

## Speed

`python -m benchmarks.speed` loads saved models, and asks each in turn for {num_rows:,} rows as a DataFrame, three
times: the best time counts. Models of this package are loaded by `from_pretrained` with no dtype, as README.md shows
it. Its commits are those of the tables above.

{speed}

## Control

Measured by `benchmarks/control.py` and `benchmarks/control_documents.py`.

{control}

## Diffusion-LM

Measured by `benchmarks/diffusion_lm`.

{diffusion_lm}

## Data as people have it

Measured by `benchmarks/reading.py`, `benchmarks/numbers.py` and `benchmarks/categories.py`.

{reading}

{numbers}

{categories}

## Privacy, validity, diversity

{privacy}

*DCR* is the share of generated rows that lie nearer to the training split than to an equally large hold-out (0.5 is
best; ± the standard error; copying all rows would yield what stands in brackets). *NNDR* is the median ratio of the
distances to the closest and the second closest training row (that of held-out rows in brackets). *Membership* is the
AUC of a membership-inference attack (0.5 is best), *disclosure* the risk that a value of a training row is guessed (0
is best). *Copies* is the share of rows that equal a training row (of held-out rows in brackets). *Valid* is the share
of rows with known categories and numbers in range. *Unique* is the share of distinct rows (in the training split).
*Pairs* is the share of the pairs of categories in the training split that are generated (what a bootstrap of the
training split has in expectation).

{alarms}

## Cost

{cost}

*Train* covers fitting, *rows/s* sampling into a DataFrame, *memory* is the peak of the process, libraries included.
{remarks}

## How to read this

Each figure is of one run with one seed. The recipe of difflm_hf was chosen with scores against the test split in view:
sizes and noise levels on adult and magic, the depth of the decoder on adult, magic, default and beijing; shoppers was
looked at, but nothing was chosen by it. Peers run with their
defaults. TabularARGN validates on rows of its own choice, and gets the validation split as training rows for that, so
that what it gives away of that split is not seen; difflm_hf uses it to select a checkpoint; the other peers do not
validate. REaLTabFormer, GReaT and the paper's loop are too slow here to be compared but in speed: they sample fewer
rows, after as much training as stands beside them, and GReaT starts from random weights, since no pretrained ones were
at hand. Where a model did not end within {max_minutes} minutes, or failed, the table says so.

## Generation

`python -m benchmarks.generation` measures the default model of adult, alone on the machine.

{generation}

### Schedulers

{schedulers}

### Endless runs

`python -m benchmarks.endless` runs `difflm generate --output DIR/` on the same model.

{endless}

### Grammars

{grammars}

## Pretrained language models

{pretrained}

## Documents

{documents}

## Records with lists

`python -m benchmarks.nested` learns records with lists [as rows inside rows](nested.md): `compat`, nested records of
what browsers support, and `beijing`, of which days and their hours are two tables that belong together. *C2ST* is by
XGBoost on flat columns against the test split, each list by its number of items and by position; *lengths* and
*presence* are total variation distances from the training split, of the numbers of items and of optional keys, in the
mean and at worst; *autocorrelation* is the largest difference of any number at lags 1 to 12, and *parents and
children* the mean difference of correlations between them. *Real records* are as many of the training split as the
test split has.

{nested}

## Several processes

`python -m benchmarks.distributed` trains the first {distributed_steps} steps on adult in float32, by one process and
by [two that train as one](training.md#several-devices), at the same batch of all together. *Loss differs by* is the
largest difference of any step's loss from that of one process with one thread. At the recipe's learning rate
rounding grows tenfold in some three steps, so that losses drift apart without one being worse; at a rate of 1e-4 they
do not.

{distributed}

## Training on a sample

`python -m benchmarks.streaming` trains [on a sample of Parquet files](large_tables.md#millions-of-rows-in) of more and
more rows, which were drawn from adult with replacement. A file is read in parts, and its memory is that of the sample.

{streaming}

## Generation by Ray

{ray}

## Differential privacy

{differential_privacy}

## What models give away

{audit}

## The way in the page

{page}

## The Hub

{hub}

## Faults and attacks

{robustness}

## Evaluation

`python -m benchmarks.evaluation` times [`difflm evaluate`](evaluation.md), with a target to predict, on rows that were
generated from adult, and on a million real, held-out and synthetic rows each, drawn from it with replacement.

{evaluation}

## Latents

{latents}

*KL* is that of the posterior from the prior, in nats per record of the validation split; *active* counts the
dimensions of the latent with more than 0.1 nats. *Own* and *other* are the nats that a record costs the decoder, given
latents drawn from its own posterior and from another record's: turning the latents turns the record. *JSON valid* is
the share of records that the JSON Schema of the training data accepts.

## Information in the latents against fidelity

{tradeoff}
"""
TRADEOFF = """![KL against C2ST](images/tradeoff.png)

`python -m benchmarks.tradeoff` trains {dataset} with several amounts of free bits, all else as by default.
Without any the posterior collapses, and the decoder alone is the worst generator of them. Beyond, up to 16 nats, C2ST
moves by 0.01: information in the latents is not paid for in fidelity, as long as the denoiser learns them.

{table}
"""


GENERATION = """{records:,.0f} records a second of {num_records:,}, in {dtype} ({shares}). {versus} A record takes
{mflop:.1f} million floating-point operations in matrix products and attention, and large matrix products run at
{gflops:,.0f} billion a second here: if nothing else took time, there would be {limit:,.0f} records a second, of which
{share:.0%} are reached. The rest goes into memory, into operations on single elements, and into Python around them.

{solvers}

*Evaluations* are those of the denoiser. C2ST is against the test split and against the training split, of as many
records as that has; differences of up to 0.01 are noise.

![Records per second against records computed together, and against columns](images/generation.png)

Records per second for blocks of {batches}. Tables of three columns of numbers to one of categories, with models of the
default size: {columns}.
"""
SCHEDULERS = """`python -m benchmarks.schedulers` samples from two distributions of one dimension, of which the optimal
denoiser is known, so that nothing is wrong but what the scheduler gets wrong.

{table}

*Evaluations* are those of the denoiser. *Spread* is the standard deviation of samples of a Gaussian in units of its
own (1 is best), *distance* the Wasserstein distance between samples of a mixture of two Gaussians and the mixture, in
units of its standard deviation (0 is best). Noise levels are those of `train()`; beside them stands the spread with
those that EDM uses for images, 0.002 to 80.
"""
ENDLESS = """- {records:,} records in {files} files took {seconds:,.0f} s, {rate:,.0f} a second. The peak of memory was
  {after:,.0f} MiB after the first million, and {peak:,.0f} MiB in the end.
- {killed:,} records: killed by SIGKILL at {kills} random moments ({moments} s after the start) and started again each
  time, a run ended with {same} as one that was left alone.
"""
HUB = """`python -m benchmarks.hub` takes models of Shoppers through a Hub on the loopback interface, by the real
client over HTTP. The model is pushed with its card, all that is on the machine is deleted, and another process loads
and generates with the same seed.

{table}

- The frozen LM, of the shape of SmolLM2-135M and with random weights, has {base:.0f} MB; what is pushed of a model
  with it has {share:.1%} of that. Of the paper's pair, BERT-base as encoder and Mistral-7B frozen in bfloat16, it
  would be {trained:.2f} GB of {published:.1f}: {pair_share:.1%}.
- Of {cuts} pushes of {bytes:.1f} MB whose connections were cut off at a random byte, {failed} failed. Of these {empty}
  left the repository empty. Repeated, {whole} of {cuts} were whole.
- A dataset of {rows:,} generated records, loaded by `load_dataset`, had {features} features and {equal} rows.
"""
GRAMMARS = """`python -m benchmarks.grammars` compares libraries for JSON by a grammar, on adult and a byte-level BPE
of 32,000 ids, in one thread; times are in microseconds for a record and step, mean and 99th percentile.

{table}

*Wrong* are keywords of JSON Schema for which the library lets invalid records through or refuses valid ones without
saying so, of {num_features} that were tried; *errors* those that it says it does not support. xgrammar has its masks
ready, but goes wrong in what records need: {misread}. llguidance was chosen for what it lets through, for its forced
tokens, and since it needs no other package.

A Llama of two layers and width 128, with random weights and the same vocabulary, wrote adult by its grammar, in
batches of 64:

{json}

*Grammar* is the share of the time that goes into masks and parsing. Masks are computed in the background while the LM
runs.
"""


def _mle(figures: dict[str, Any], rows: str = "synthetic") -> dict[str, float]:
    """Mean, low and high of the first score of MLE: AUC or RMSE."""
    return next(iter(figures["scores"]["utility"][rows].values()))


def _scored(models: dict[str, Any]) -> dict[str, Any]:
    """The compared models that have scores."""
    return {name: models[name] for name in COMPARED if "scores" in models.get(name, {})}


def fidelity_table(tables: dict[str, Any]) -> str:
    rows = []
    for dataset, models in tables.items():
        scored = _scored(models)
        for name, figures in scored.items():
            f, mle = figures["scores"]["fidelity"], _mle(figures)
            keys = ("column_shapes", "pair_trends", "c2st", "c2st_train", "c2st_logistic")
            rows.append(
                [dataset, MODELS[name].title, *(f"{f[key]:.3f}" for key in keys)]
                + [f"{f['alpha_precision']:.3f}", f"{f['beta_recall']:.3f}"]
                + [f"{mle['mean']:.3f} ± {mle['high'] - mle['mean']:.3f}"]
            )
        figures = next(iter(scored.values()))
        f, mle = figures["scores"]["fidelity"], _mle(figures, "real")
        keys = ("column_shapes_holdout", "pair_trends_holdout", "c2st_holdout")
        rows.append(
            [dataset, "*real rows*", *(f"{f[key]:.3f}" for key in keys), "", ""]
            + [f"{f['alpha_precision_holdout']:.3f}", f"{f['beta_recall_holdout']:.3f}"]
            + [f"{mle['mean']:.3f} ± {mle['high'] - mle['mean']:.3f}"]
        )
    header = ["table", "model", "shapes", "trends", "C2ST", "train", "logistic", "α-precision", "β-recall", "MLE"]
    return to_table(header, rows)


def privacy_table(tables: dict[str, Any]) -> str:
    rows = []
    for dataset, models in tables.items():
        for name, figures in _scored(models).items():
            p, covered = figures["scores"]["privacy"], figures["scores"]["diversity"]
            d = p["distance_to_closest_record"]
            ratio, copies = p["nearest_neighbor_distance_ratio"], p["exact_copies"]
            rows.append(
                [
                    dataset,
                    MODELS[name].title,
                    f"{d['share']:.3f} ± {d['standard_error']:.3f} ({d['share_of_copies']:.2f})",
                    f"{ratio['synthetic']['q50']:.2f} ({ratio['holdout']['q50']:.2f})",
                    f"{p['membership_inference']['auc']:.3f}",
                    f"{p['attribute_disclosure']['risk']:.3f}",
                    f"{copies['synthetic']:.2%} ({copies['holdout']:.2%})",
                    str(len(p["alarms"])),
                    f"{figures['scores']['validity']['domain']:.1%}",
                    f"{covered['unique_rows']:.1%} ({covered['unique_rows_train']:.1%})",
                    ""
                    if math.isnan(covered["pair_coverage"])
                    else f"{covered['pair_coverage']:.2f} ({covered['pair_coverage_expected']:.2f})",
                ]
            )
    header = ["table", "model", "DCR", "NNDR", "membership", "disclosure", "copies", "alarms", "valid", "unique"]
    return to_table([*header, "pairs"], rows)


def alarms_list(tables: dict[str, Any]) -> str:
    """The alarms of all models, in words."""
    lines = [
        f"- {dataset}, {MODELS[name].title}: {alarm}."
        for dataset, models in tables.items()
        for name, figures in _scored(models).items()
        for alarm in figures["scores"]["privacy"]["alarms"]
    ]
    return "\n".join(["[Alarms](evaluation.md#privacy-alarms):", "", *lines]) if lines else "There are no alarms."


def cost_table(tables: dict[str, Any]) -> str:
    rows = []
    for dataset, models in tables.items():
        for name in MODELS:
            if name not in models:
                continue
            row = [dataset, MODELS[name].title]
            if "error" in models[name]:
                rows.append([*row, f"failed: {models[name]['error'][:120]}", "", "", "", ""])
                continue
            run = models[name]["run"]
            trained = "" if name == "paper_loop" else f"{run['train_seconds']:,.0f} s"
            speed = run["rows_per_second"]
            rows.append(
                [*row, trained, f"{run['rows']:,}", f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"]
                + [f"{run['peak_gib']:.1f} GiB", MODELS[name].note]
            )
    return to_table(["table", "model", "train", "rows", "rows/s", "memory", ""], rows)


def latents_table(tables: dict[str, Any]) -> str:
    rows = []
    for dataset, models in tables.items():
        run = models[OURS]["run"]
        z = run["latents"]
        rows.append(
            [dataset, str(run["tokens"]), f"{run['parameters'] / 1e6:.2f} M", f"{z['kl']:.2f}", str(z["active"])]
            + [f"{z['own']:.1f}", f"{z['other']:.1f}", f"{run['json_valid']:.0%}"]
        )
    return to_table(["table", "tokens", "parameters", "KL", "active", "own", "other", "JSON valid"], rows)


def standing(tables: dict[str, Any]) -> str:
    """On how many tables this package comes first, and the ratio of its speed to that of others."""
    first = {"C2ST": 0, "MLE": 0}
    for models in tables.values():
        scored = _scored(models)
        sign = 1 if models[OURS]["task"] == "regression" else -1
        ranks = {
            "C2ST": {name: abs(f["scores"]["fidelity"]["c2st"] - 0.5) for name, f in scored.items()},
            "MLE": {name: sign * _mle(f)["mean"] for name, f in scored.items()},
        }
        for metric, values in ranks.items():
            first[metric] += min(values, key=values.get) == OURS
    sentences = [f"difflm_hf is first in C2ST on {first['C2ST']} of {len(tables)} tables, in MLE on {first['MLE']}."]
    for name, model in MODELS.items():
        for dataset, models in tables.items():
            if model.max_rows is not None and "run" in models.get(name, {}):
                ratio = models[OURS]["run"]["rows_per_second"] / models[name]["run"]["rows_per_second"]
                sentences.append(f"On {dataset} it samples {ratio:,.0f} times as fast as {model.title}.")
    return "\n".join(sentences)


def plot(tables: dict[str, Any]) -> None:
    """C2ST and MLE of the compared models, a group of points for each table."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, name in enumerate(COMPARED):
        offset = (index - len(COMPARED) / 2) * 0.09
        style = {"color": COLORS[index], "s": 60 if name == OURS else 30, "zorder": 3}
        for position, models in enumerate(tables.values()):
            if name not in _scored(models):
                continue
            figures = models[name]
            real, ours = _mle(figures, "real")["mean"], _mle(figures)["mean"]
            lost = (ours - real if figures["task"] == "regression" else real - ours) / real
            label = MODELS[name].title.strip("*") if position == 0 else None
            left.scatter(position + offset, figures["scores"]["fidelity"]["c2st"], label=label, **style)
            right.scatter(position + offset, 100 * lost, **style)
    left.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    right.axhline(0, color="black", linewidth=0.8, linestyle=":")
    left.set_title("C2ST: 0.5 is best", fontsize=10)
    right.set_title("MLE lost against real rows (%): 0 is best", fontsize=10)
    right.set_yscale("symlog", linthresh=2)
    ticks = [0, 1, 2, 5, 10, 20, 50, 100]
    right.set_yticks(ticks, labels=map(str, ticks))
    right.set_yticks([], minor=True)
    right.set_ylim(-0.3, 100)
    for axes in (left, right):
        axes.set_xticks(range(len(tables)), labels=list(tables))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(COMPARED), frameon=False)
    figure.savefig(PLOT, dpi=120)


def generation_section(tables: dict[str, Any]) -> str:
    result = load_result("generation")
    profile, rates = result["profile"], {}
    for name, peer in tables[CARD_DATASET].items():
        if "run" in peer:
            rates[name] = peer["run"]["rows_per_second"]
    ours = profile["records_per_second"]
    versus = f"That is {ours / rates['paper_loop']:,.0f} times the paper's loop on the same weights, and "
    versus += f"{ours / rates['realtabformer']:,.0f} times REaLTabFormer."
    solvers = [
        [row["name"], str(row["evaluations"]), f"{row['c2st_test']:.3f}", f"{row['c2st_train']:.3f}"]
        + [f"{row['records_per_second']:,.0f}"]
        for row in result["solvers"]
    ]
    return GENERATION.format(
        records=ours,
        num_records=profile["num_records"],
        dtype=profile["dtype"],
        shares=", ".join(f"{name} {share:.0%}" for name, share in profile["stages"].items()),
        versus=versus,
        mflop=profile["flops_per_record"] / 1e6,
        gflops=profile["matrix_flops"] / 1e9,
        limit=profile["matrix_flops"] / profile["flops_per_record"],
        share=profile["share_of_limit"],
        solvers=to_table(["solver", "evaluations", "C2ST", "C2ST, train", "records/s"], solvers)
        + f"\n\nSolvers were timed on an {result['solvers_processor']}.",
        batches=", ".join(f"{int(size):,}: {rate:,.0f}" for size, rate in result["batches"].items()),
        columns=", ".join(
            f"{row['columns']} columns ({row['tokens']} tokens) {row['records_per_second']:,.0f}, "
            f"{row['columns'] * row['records_per_second'] / 1e6:.2f} million cells a second, "
            f"{row['peak_gib']:.1f} GiB at most so far"
            for row in result["columns"]
        ),
    )


def schedulers_section() -> str:
    result = load_result("schedulers")
    rows = [
        [row["solver"], str(row["steps"]), str(row["evaluations"])]
        + [f"{figure:.4f}" for figure in (row["spread"], row["distance"], images["spread"])]
        for row, images in zip(result["latents"], result["images"], strict=True)
    ]
    header = ["solver", "steps", "evaluations", "spread", "distance", "spread, 0.002 to 80"]
    return SCHEDULERS.format(table=to_table(header, rows))


def endless_section() -> str:
    result = load_result("endless")
    many, killed = result["many"], result["killed"]
    return ENDLESS.format(
        records=many["records"],
        files=many["files"],
        seconds=many["seconds"],
        rate=many["records"] / many["seconds"],
        after=many["peak_mib_after_million"],
        peak=many["peak_mib"],
        killed=killed["alone"]["records"],
        kills=len(killed["kills"]),
        moments=", ".join(f"{kill['seconds']:.0f}" for kill in killed["kills"]),
        same="the same bytes" if killed["is_same"] else "other bytes",
    )


def grammars_section() -> str:
    result = load_result("grammars")
    rows, misread = [], []
    for name in ("llguidance", "xgrammar"):
        figures = result[name]
        coverage = figures["coverage"]
        wrong = [key for key, f in coverage.items() if f.get("invalid") or f.get("valid_but_refused")]
        errors = [key for key, f in coverage.items() if "error" in f]
        misread = wrong
        times = [figures[kind]["batch of 64"]["mask_us"] for kind in ("real", "random")]
        rows.append(
            [f"{name} {figures['version']}", f"{figures['compile_seconds'] * 1e3:.0f} ms"]
            + [f"{time['mean']:.0f} / {time['p99']:.0f}" for time in times]
            + [f"{figures['forced']['share_of_forced_tokens'] or 0:.0%}", str(len(wrong)), str(len(errors))]
        )
    header = ["library", "compile", "mask, real records", "mask, random records", "forced tokens", "wrong", "errors"]
    json_rows = [
        [temperature, f"{row['valid']:,} of {row['records']:,}", f"{row['tokens']:.0f}"]
        + [f"{row['records_per_second']:.0f}", f"{row['grammar']:.0%}"]
        for temperature, row in load_result("generation")["json"].items()
    ]
    return GRAMMARS.format(
        table=to_table(header, rows),
        num_features=len(coverage),
        misread="; ".join(misread),
        json=to_table(["temperature", "valid", "tokens each", "records/s", "grammar"], json_rows),
    )


def hub_section() -> str:
    result = load_result("hub")
    rows = []
    for name, key in (("from scratch", "table"), ("frozen LM", "frozen")):
        f = result[key]
        rows.append(
            [name, str(f["files"]), f"{f['bytes'] / 1e6:.1f} MB", f"{f['push_seconds']:.1f} s"]
            + [f"{f['load_seconds']:.1f} s", f"{f['num_records']:,}"]
            + ["yes" if f[same] else "no" for same in ("same_by_id", "same_by_commit")]
        )
    frozen, pair, cut, loaded = result["frozen"], result["frozen"]["published_pair"], result["cut"], result["rows"]
    header = ["model", "files", "size", "push", "load", "records", "the same by id", "the same by commit"]
    return HUB.format(
        table=to_table(header, rows),
        base=frozen["base_bytes"] / 1e6,
        share=frozen["bytes"] / frozen["base_bytes"],
        trained=pair["trained"] / 1e9,
        published=pair["base"] / 1e9,
        pair_share=pair["trained"] / pair["base"],
        cuts=cut["cuts"],
        bytes=cut["bytes"] / 1e6,
        failed=cut["failed"],
        empty=cut["empty"],
        whole=cut["whole"],
        rows=loaded["num_records"],
        features="equal" if loaded["features"] else "other",
        equal="equal" if loaded["rows"] else "other",
    )


def evaluation_table() -> str:
    rows = [
        [f"{int(num_rows):,}", f"{figures['seconds']:.0f} s", f"{figures['peak_gib']:.1f} GiB"]
        for num_rows, figures in load_result("evaluation").items()
        if num_rows != "versions"
    ]
    return to_table(["synthetic rows", "time", "memory"], rows)


def tradeoff_section() -> str:
    result = load_result("tradeoff")
    points = sorted((p for p in result.values() if isinstance(p, dict) and "kl" in p), key=lambda p: p["kl"])
    keys = ("beta", "free_bits", "kl", "own", "other", "column_shapes", "pair_trends", "c2st", "mle")
    header = ["β", "free bits", "KL", "own", "other", "shapes", "trends", "C2ST", "MLE"]
    table = to_table(header, [[f"{p[key]:.3f}".rstrip("0").rstrip(".") for key in keys] for p in points])
    return TRADEOFF.format(dataset=result["dataset"], table=table)


def readme_table(tables: dict[str, Any]) -> str:
    """Ours, and in brackets the best peer's C2ST and what real rows have."""
    rows = []
    for dataset, models in tables.items():
        ours = models[OURS]
        f, run, mle = ours["scores"]["fidelity"], ours["run"], _mle(ours)["mean"]
        peers = [p["scores"]["fidelity"]["c2st"] for name, p in _scored(models).items() if name != OURS]
        rows.append(
            [
                dataset,
                f"{f['column_shapes']:.3f}",
                f"{f['c2st']:.3f}",
                f"{min(peers, key=lambda c2st: abs(c2st - 0.5)):.3f}",
                f"{mle:.3f}",
            ]
            + [
                f"{_mle(ours, 'real')['mean']:.3f}",
                f"{ours['scores']['privacy']['distance_to_closest_record']['share']:.3f}",
            ]
            + [f"{run['train_seconds'] / 60:.1f} min", f"{run['rows_per_second']:,.0f}"]
        )
    header = ["table", "shapes", "C2ST", "best peer's C2ST", "MLE", "MLE of real rows", "DCR", "training", "rows/s"]
    return to_table(header, rows)


def main() -> None:
    tables = load_result("tables")
    versions = ", ".join(f"{name} {number}" for name, number in tables.pop("versions").items())
    remarks = tables.pop("remarks", "")
    tables = {dataset: tables[dataset] for dataset in tables if OURS in tables[dataset]}
    page = PAGE.format(
        seed=SEED,
        versions=versions,
        peers=", ".join(sorted({" ".join(m.requirements[0].split("==")) for m in MODELS.values() if m.requirements})),
        standing=standing(tables),
        fidelity=fidelity_table(tables),
        commits=commits_section(),
        protocol=protocol_section(),
        num_rows=NUM_ROWS,
        speed=speed_section(),
        control=control_section(),
        diffusion_lm=diffusion_lm_section(),
        reading=reading_section(),
        numbers=numbers_section(),
        categories=categories_section(),
        log_target=" and ".join(LOG_TARGET),
        privacy=privacy_table(tables),
        alarms=alarms_list(tables),
        cost=cost_table(tables),
        remarks=remarks,
        max_minutes=MAX_MINUTES,
        generation=generation_section(tables),
        schedulers=schedulers_section(),
        endless=endless_section(),
        grammars=grammars_section(),
        pretrained=pretrained_section(),
        documents=documents_section(),
        distributed=distributed_section(),
        distributed_steps=NUM_STEPS,
        streaming=streaming_section(),
        ray=ray_section(),
        page=page_section(),
        differential_privacy=privacy_section(),
        audit=audit_section(),
        hub=hub_section(),
        robustness=robustness_section(),
        nested=nested_section(),
        evaluation=evaluation_table(),
        latents=latents_table(tables),
        tradeoff=tradeoff_section(),
    )
    plot(tables)
    write_samples()
    DOCS.write_text(page, encoding="utf-8")
    fill(README, "benchmarks", readme_table(tables))
    fill(MODEL_CARD, "evaluation", to_markdown(tables[CARD_DATASET][OURS]["scores"]))


if __name__ == "__main__":
    main()
