"""The sections of docs/benchmarks.md on pretrained language models and on documents."""

from __future__ import annotations

import json
import math
from typing import Any

from difflm_hf.training import DOCUMENT_RECIPES

from .ablations import ablations_section
from .base_lm import base_lm_section
from .markdown import to_table, to_threads
from .results import load_result


INJECTION = """`python -m benchmarks.injection` takes a Llama of {parameters:.1f} million parameters in {layers}
layers, which [`examples/pretrain_base_lm.py`](../examples/pretrain_base_lm.py) trained on tables, tools, sentences
and code (with `--num-steps 400`), and lets it write the records of {table}, which it has never seen: as JSON,
{tokens:.0f} tokens a record, of which the grammar leaves {open_tokens:.0f} open. Trained are the map from its hidden
states to latents and the injection, beside the LM as it is (*frozen*) or with LoRA layers. One run each, of as many
steps of {batch_size} records as stand there.

{table_of_runs}

*Reconstruction* is −log p(x|z) of the test split in nats per record, by the choices that the grammar leaves, z drawn
from the record's own posterior; *other* the same with z from another record. Without latents, the LM takes
{base:,.0f} nats a record for that ({forced:,.0f} without a grammar); *less* says how much of it is gone. *KL* is what
latents hold. *Valid* is the share of texts that were records when they were written. *Shapes*, *trends*, *C2ST* and
*MLE* are as above, of as many records as *records* says; MLE of as many real rows is {mle_real:.3f}.

{standing}"""

OWN_BASE = "base-lm"
REAL_BASE = """`python -m benchmarks.injection` lets {name} ({parameters:.0f} million parameters) write rows of {table}
as JSON, {tokens:.0f} tokens a record, after {minutes:g} minutes of training each, in {threads} of an
{processor}. Without latents it takes {base:,.0f} nats a record.

{table_of_runs}

Bounds are of 300 records of the test split. The LM of the section before, which is small and was trained on other
tables, had in its time: {own}. A model from scratch by the compact codec, after {seconds:.0f} s, has C2ST {c2st:.3f}
and shapes {shapes:.3f} of as many rows as the table has."""

WAYS = """Of the four ways, the paper, which injects into an LM of 7 billion parameters, finds soft prompts best.
Here the order by reconstruction is {ranking}, after {steps} steps each{difference}."""

# Where a memory comes first
DIFFERENCE = """. A memory gives each layer keys and values of its own, and trains more parameters for it; soft
prompts pass through layers of a frozen LM that have never seen their like, of which a small one seems to make less"""

UNUSED = """After so few steps the decoders make no use of latents yet: another record's do as well. What was
learnt is what all records have in common, by the parts of the injection, and of the LM, that are the same for all."""

PRETRAINED = """`python -m benchmarks.pretrained` trains steps of DiffLM beside LMs with the configurations of
models of the Hub and random weights, in batches of {batch_size} records of {length} tokens, on {device}. Memory is
the peak of the process, libraries and the loading of weights included.

{table}

*Checkpointing* computes activations anew in the backward pass. 8 and 4 bits are those of bitsandbytes, whose
products are made for GPUs. {cut}"""

DOCUMENTS = """`python -m benchmarks.documents` runs the examples, each for a given time; `--help` says what data they
need. smollm2 is SmolLM2-135M-Instruct, as [`examples/smollm2.py`](../examples/smollm2.py) makes it from a file of
4 bits a weight."""

TOOLS = """### Tools{title}

`examples/train_tools.py`: {num_records:,} function specifications, {minutes:.0f} minutes of training {how}
with {threads}, {num_steps:,} steps; {num_dropped} of more than 512 tokens were left out, and counted.
{num_documents:,} were generated{filtered}.

{table}

*Hold-out* is what the test split scores in place of generated tools: a third of it are near-copies of training
tools, which are many variants of fewer ones. *Schema valid* is the share whose `parameters` are a valid JSON
Schema, *required declared* of those whose required parameters are all among the declared ones, which the form of
the records sees to. *Coverage* is the share of the test split that has a near neighbour.{of_real} The first ones, as
they came:

{samples}
"""

REAL_TOOLS = """ New names cost
coverage even where tools are real: with 1,000 of the training tools taken as known, those of the others whose names
are new, {num_documents:.0f} of them, cover {coverage:.2f} of the test split, and {duplicates:.1%} of them are
near-copies (means of 3 draws)."""

CODE = """### Code{title}

`examples/train_code.py`: {num_records:,} functions of the Python standard library{sampled}, {minutes:.0f} minutes of
training {how} with {threads}, {num_steps:,} steps; {num_dropped:,} of more than 256 tokens were left out,
and counted. Beside it, {plain} without latents, planned for as many steps, and ended where
validation stopped improving{all_minutes}. Its steps have 1,024 tokens, and those of DiffLM
{batch_size} functions, {tokens:.0f} tokens on average.

{table}

*Perplexity* is per token of the test split; that of DiffLM is an upper bound, exp of (reconstruction + KL) per
token, with {reconstruction:.0f} + {kl:.1f} nats a function{of_diffusion}.
What both write has the shape of Python more often than sense. The first short ones of DiffLM that parse:

{good}

And the first that do not:

{bad}

What synthetic functions are worth for training: an LM trained on {num_documents:,} real ones, on as many generated
ones, and on the real ones and then the generated ones.

{downstream}
"""

TEXT = """### Text{title}

`examples/train_text.py`: {num_records:,} sentences on restaurants (E2E), {minutes:.0f} minutes of training {how}
with {threads}, {num_steps:,} steps. {num_documents:,} were generated{temperature}.

{table}

*Perplexity* is under a small LM that was trained on the test sentences alone. A validation sentence takes {own:.1f}
nats given its own latents, which hold {kl:.1f}, and {other:.1f} given those of another sentence. The first ones, as
they came:

{samples}
"""

EXECUTION = """### Code that has to run

`python -m benchmarks.code_execution` runs the known solutions of MBPP's test split in the
[sandbox](evaluation.md#code-that-has-to-run): {passed} of {num_problems} pass, in {seconds:.0f} s with
{num_workers} processes at a time. {errors}"""


def pretrained_section() -> str:
    sections = []
    injection = load_result("injection")
    if own := injection.get(OWN_BASE):
        sections.append("### What injection does\n\n" + injection_section(own))
    for name in injection.keys() - {OWN_BASE, "versions"}:
        sections.append(f"### Tables by {name}\n\n" + real_base_section(name, injection))
    if ablations := ablations_section():
        sections.append("### Ablations\n\n" + ablations)
    if pretrained := load_result("pretrained"):
        sections.append("### Steps beside models of the Hub\n\n" + steps_section(pretrained))
    if speed := base_lm_section():
        sections.append("### Speed beside a pretrained LM\n\n" + speed)
    return "\n\n".join(sections)


def runs_table(result: dict[str, Any]) -> str:
    base, runs = result["base"], result["runs"]
    rows = []
    for name, run in runs.items():
        rows.append(
            [name, run["injection"], f"{run['latent_size']}", f"{run['num_latent_tokens']}"]
            + [f"{run['num_steps']:,}", f"{run['reconstruction']:.0f}", f"{run['reconstruction_other']:.0f}"]
            + [f"{1 - run['reconstruction'] / base['nats']:.0%}", f"{run['kl']:.1f}", f"{run['valid']:.1%}"]
            + [f"{run[key]:.3f}" for key in ("column_shapes", "pair_trends", "c2st", "mle")]
            + [f"{run['num_records']:,}"]
        )
    header = ["run", "injection", "latents", "tokens", "steps", "reconstruction", "other", "less", "KL", "valid"]
    header += ["shapes", "trends", "C2ST", "MLE", "records"]
    return to_table(header, rows)


def injection_section(result: dict[str, Any]) -> str:
    base, runs = result["base"], result["runs"]
    unused = [run["reconstruction_other"] - run["reconstruction"] < 1 for run in runs.values()]
    return INJECTION.format(
        parameters=base["parameters"] / 1e6,
        layers=base["layers"],
        table=result["table"],
        tokens=base["tokens"],
        table_of_runs=runs_table(result),
        base=base["nats"],
        mle_real=next(iter(runs.values()))["mle_real"],
        standing=UNUSED if all(unused) else ways_paragraph(runs),
        open_tokens=base["open_tokens"],
        batch_size=result["batch_size"],
        forced=base["nats_with_forced"],
    )


def real_base_section(name: str, results: dict[str, Any]) -> str:
    result = results[name]
    base, runs = result["base"], result["runs"]
    own = results[OWN_BASE]["runs"]
    compact = load_result("tables")[result["table"]]["difflm"]
    return REAL_BASE.format(
        name=name,
        parameters=base["parameters"] / 1e6,
        table=result["table"],
        tokens=base["tokens"],
        base=base["nats"],
        minutes=max(run["minutes"] for run in runs.values()),
        threads=to_threads(result["threads"]),
        processor=result["processor"],
        table_of_runs=runs_table(result),
        own="; ".join(
            f"{tuning} {own[tuning]['num_steps']:,} steps, C2ST {own[tuning]['c2st']:.3f}, shapes "
            f"{own[tuning]['column_shapes']:.3f}"
            for tuning in ("frozen", "lora")
        ),
        seconds=compact["run"]["train_seconds"],
        c2st=compact["scores"]["fidelity"]["c2st"],
        shapes=compact["scores"]["fidelity"]["column_shapes"],
    )


def ways_paragraph(runs: dict[str, dict[str, Any]]) -> str:
    ways = sorted(
        (run for name, run in runs.items() if name.startswith("way ")), key=lambda run: run["reconstruction"]
    )
    if not ways:
        return ""
    steps = sorted(run["num_steps"] for run in ways)
    return WAYS.format(
        ranking=", ".join(f"`{run['injection']}` ({run['reconstruction']:.0f})" for run in ways),
        steps=f"{steps[0]:,}" if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,}",
        difference=DIFFERENCE if ways[0]["injection"] == "kv_memory" else "",
    )


def steps_section(result: dict[str, Any]) -> str:
    rows, cut, device = [], [], ""
    for name, modes in result["runs"].items():
        for mode, run in modes.items():
            rows.append(
                [name, mode, f"{run['parameters'] / 1e6:,.0f} M", f"{run['trained_parameters'] / 1e6:,.1f} M"]
                + [f"{run['seconds_per_step']:.1f} s", f"{run['tokens_per_second']:,.0f}"]
                + [f"{run['peak_bytes'] / 2**30:.1f} GiB"]
            )
            device = run["device"] if run["device"] != "cpu" else f"a processor, {to_threads(run['threads'])}"
        if run["layers"] < run["all_layers"]:
            cut.append(f"{name} has {run['layers']} of its {run['all_layers']} layers here, for memory.")
    header = ["model", "trained of the LM", "parameters", "trained", "time of a step", "tokens/s", "memory"]
    return PRETRAINED.format(
        batch_size=result["batch_size"],
        length=result["length"],
        device=device,
        table=to_table(header, rows),
        cut=" ".join(cut),
    )


def documents_section() -> str:
    result = load_result("documents")
    sections = [DOCUMENTS]
    for kind, write in WRITERS.items():
        sections += [write(figures) for name, figures in result.items() if name.split(" ")[0] == kind]
    if execution := load_result("code_execution"):
        sections.append(execution_section(execution))
    return "\n\n".join(sections)


def tools_section(figures: dict[str, Any]) -> str:
    s = figures["scores"]
    rows = [
        ["parse", f"{s['parse_rate']:.1%}", "", "100 %"],
        ["schema valid", f"{s['schema_valid']:.1%}", f"{s['schema_valid_real']:.1%}", ""],
        ["required declared", f"{s['required_declared']:.1%}", f"{s['required_declared_real']:.1%}", ""],
        ["described parameters", f"{s['described']:.1%}", f"{s['described_real']:.1%}", ""],
        ["names not in training", f"{s['novelty']:.1%}", "", f"{s['novelty_holdout']:.1%}"],
        *([["the same, of all that were written", f"{s['new_names']:.1%}", "", ""]] if "new_names" in s else []),
        ["near-copies of training", f"{s['duplicates']:.1%}", "", f"{s['duplicates_holdout']:.1%}"],
        ["distinct-2", f"{s['distinct_2']:.3f}", f"{s['distinct_2_real']:.3f}", ""],
        ["types of parameters, similarity", f"{s['type_similarity']:.3f}", "1", ""],
        ["number of parameters, similarity", f"{s['num_parameters_similarity']:.3f}", "1", ""],
        ["coverage", f"{s['coverage']:.3f}", f"{s['coverage_real']:.3f}", ""],
    ]
    samples = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in figures["samples"]["first"])
    return TOOLS.format(
        **_facts(figures),
        filtered="; what had the name of a training tool was left out, and written anew" if "new_names" in s else "",
        table=to_table(["", "generated", "training", "hold-out"], rows),
        of_real=REAL_TOOLS.format(**real) if (real := figures.get("real")) else "",
        samples=_block(samples, "json"),
    )


def code_section(figures: dict[str, Any]) -> str:
    ours, lm = figures["scores"]["difflm"], figures["scores"]["lm"]
    rows = [
        [name, f"{ours[key]:.3f}", f"{lm[key]:.3f}"] + ([f"{lm[real]:.3f}"] if real else [""])
        for name, key, real in (
            ("parse", "parse_rate", ""),
            ("perplexity", "perplexity", ""),
            ("not in training", "novelty", ""),
            ("distinct-2", "distinct_2", "distinct_2_real"),
        )
    ]
    rows.append(["nats a function", f"{ours['nats_per_document']:.0f}", f"{lm['nats_per_document']:.0f}", ""])
    parameters = figures["scores"]["parameters"]
    rows.append(["parameters", f"{parameters['difflm'] / 1e6:.1f} M", f"{parameters['lm'] / 1e6:.1f} M", ""])
    downstream = [
        [name.replace("_", " "), f"{run['bits_per_byte']:.3f}", f"{run['perplexity']:.1f}", f"{run['parse_rate']:.1%}"]
        for name, run in figures["downstream"].items()
    ]
    return CODE.format(
        **_facts(figures),
        plain=f"{base} with layers of its own" if (base := figures.get("base_model")) else SAME_LM,
        all_minutes=f": {figures['minutes']:.0f} minutes in all" if "minutes" in figures else "",
        table=to_table(["", "DiffLM", "LM without latents", "real"], rows),
        reconstruction=ours["reconstruction"],
        kl=ours["kl"],
        of_diffusion=diffusion_bound(ours, lm) if "kl_denoiser" in ours else "",
        batch_size=(batch_size := DOCUMENT_RECIPES["small"].vae["per_device_train_batch_size"]),
        tokens=batch_size * lm["nats_per_document"] / math.log(lm["perplexity"]),
        good="\n\n".join(_block(code, "python") for code in figures["samples"]["good"]),
        bad="\n\n".join(_block(code, "text") for code in figures["samples"]["bad"]),
        downstream=to_table(["trained on", "bits per byte", "perplexity", "parse"], downstream),
    )


def diffusion_bound(ours: dict[str, Any], lm: dict[str, Any]) -> str:
    """What the bound is by the prior that latents come from in generation."""
    nats = ours["reconstruction"] + ours["kl_denoiser"]
    return (
        ". Under the diffusion, which latents come from in generation, they hold "
        f"{ours['kl_denoiser']:.1f}: the bound is then {nats:.0f}, {nats / lm['nats_per_document']:.2f} times what "
        f"the LM takes, and with N(0, I) {ours['nats_per_document'] / lm['nats_per_document']:.2f} times"
    )


def text_section(figures: dict[str, Any]) -> str:
    s, real = figures["scores"]["text"], figures["scores"]
    rows = [
        ["self-BLEU", f"{s['self_bleu']:.3f}", f"{s['self_bleu_real']:.3f}", ""],
        ["distinct-1", f"{s['distinct_1']:.4f}", f"{s['distinct_1_real']:.4f}", ""],
        ["distinct-2", f"{s['distinct_2']:.3f}", f"{s['distinct_2_real']:.3f}", ""],
        ["perplexity"] + [f"{real[name]['perplexity']:.1f}" for name in ("synthetic", "train", "validation")],
        ["not in training", f"{s['novelty']:.1%}", "", ""],
        ["lengths, similarity", f"{s['length_similarity']:.3f}", "1", ""],
    ]
    samples = "\n".join(record["text"] for record in figures["samples"]["first"])
    return TEXT.format(
        **_facts(figures),
        own=real["latents"]["reconstruction"],
        other=real["latents"]["reconstruction_other"],
        kl=real["latents"]["kl"],
        table=to_table(["", "generated", "training", "validation"], rows),
        samples=_block(samples, "text"),
    )


def execution_section(figures: dict[str, Any]) -> str:
    split = figures["mbpp_test"]
    errors = " ".join(f"Task {task} ends with `{error}`." for task, error in split["errors"].items())
    return EXECUTION.format(**{**split, "errors": errors})


SAME_LM = "an LM of the same architecture"
WRITERS = {"tools": tools_section, "code": code_section, "text": text_section}


def _facts(figures: dict[str, Any]) -> dict[str, Any]:
    base, temperature = figures.get("base_model"), figures.get("temperature")
    parts = {"frozen": "", "lora": " with LoRA layers", "full": ", all of it"}
    data = figures["data"]
    is_sampled = data["num_records"] < 0.9 * data.get("num_given_records", 0)
    return {
        "title": f" by {base}" if base else "",
        "how": f"(of {figures['max_minutes']:.0f} given) beside {base}{parts[figures['tuning']]} and `kv_memory`,"
        if base
        else "from scratch",
        "sampled": f" (of {data['num_given_records']:,}, as many as could be read in time)" if is_sampled else "",
        "num_records": data["num_records"],
        "num_dropped": data["num_dropped_records"],
        "minutes": figures["training_minutes"],
        "num_steps": figures["num_steps"],
        "num_documents": figures["num_documents"],
        "temperature": f", at temperature {temperature}, a choice by these scores" if temperature else "",
        "threads": to_threads(figures["threads"]),
    }


def _block(text: str, language: str) -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"
