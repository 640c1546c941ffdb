"""
What 10^9 and 10^12 records take: bytes, operations, machines and money, and what limits each way to make them.

    python -m benchmarks.scaling [--model DIR --data-dir DIR]

Without options it writes docs/scaling.md from figures that are there: those of benchmarks/results, and what is given
below with its source. With both it first measures, in one thread: of the model that `benchmarks.commits` trained on
adult, and of adult's train.csv and info.json in the other folder. These figures go to benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from difflm_hf import DiffLMDenoiser, DiffLMPipeline, DiffLMProcessor
from difflm_hf.batches import TensorDataset
from difflm_hf.blocks import RECORDS_PER_SHARD
from difflm_hf.latents import encode_latents, to_dataset
from difflm_hf.modeling_difflm import DiffLMModel
from difflm_hf.records import JSONCodec, RecordSchema, read_table
from difflm_hf.sampling import ACCELERATOR_PASS_TOKENS, PASS_TOKENS
from difflm_hf.training.recipes import DOCUMENT_BLOCK_SIZE, DOCUMENT_RECIPES

from .grammars import train_tokenizer
from .markdown import fill, to_table
from .pretrained import LAYERS, MODELS
from .results import load_result, save_result


PAGE = Path("docs/scaling.md")
SIZES = (10**9, 10**12)
LMS = {"HuggingFaceTB/SmolLM2-135M": "LM of 135 M", "mistralai/Mistral-7B-Instruct-v0.3": "LM of 7 B"}
ROWS = "record decoder"
BATCHES = (DOCUMENT_BLOCK_SIZE, 1024)  # records that an LM writes together: as it comes, and by `block_size=1024`
BYTES_BF16 = 2
HOUR, DAY = 3600, 86400


class Given(float):
    """A number that was not measured here, what it is, and where it comes from."""

    def __new__(cls, value: float, what: str, source: str):
        number = super().__new__(cls, value)
        number.what, number.source = what, source
        return number


H100 = "NVIDIA's data sheet of the H100 SXM"
GPU_FLOPS = Given(989.4e12, "operations a second of a GPU, bf16, dense", H100)
GPU_BANDWIDTH = Given(3.35e12, "bytes a second of a GPU's memory", H100)
GPU_MEMORY = Given(80e9, "bytes of a GPU's memory", H100)
GPU_FLOPS_SHARE = Given(0.4, "share of a GPU's operations that is reached", "assumed")
GPU_BANDWIDTH_SHARE = Given(0.6, "share of a GPU's memory bandwidth that is reached", "assumed")
GPU_MEMORY_SHARE = Given(0.8, "share of a GPU's memory for weights and cache", "assumed")
GPUS = Given(8, "GPUs of a GPU machine", "assumed")
CORES_PER_GPU = Given(16, "processor cores beside each GPU", "assumed")
CORES = Given(64, "cores of a processor machine", "assumed, each as one of the two measured ones")
MACHINE_BANDWIDTH = Given(
    460.8e9, "bytes a second of a machine's memory", "12 channels of DDR5-4800, as AMD's EPYC 9004 has"
)
CORE_SHARE = Given(0.8, "share of its speed that a core keeps where all of them work", "assumed")
MACHINE_MEMORY = Given(512e9, "bytes of memory of a machine", "assumed")
NETWORK = Given(25e9 / 8, "bytes a second between a machine and object storage", "assumed, 25 Gbit/s")
OBJECT_STORE = Given(1e12 / 8, "bytes a second of an object store to all machines", "assumed, 1 Tbit/s")
PUTS = Given(3500, "files a second that one prefix of an object store takes", "Amazon S3's user guide")
QUEUE = Given(1000, "tasks a second that one driver hands out", "assumed")
CORE_HOUR = Given(0.04, "dollars a core-hour", "assumed")
GPU_HOUR = Given(3.0, "dollars a GPU-hour, with its cores", "assumed")
STORED_GB_MONTH = Given(0.023, "dollars a month for a gigabyte in object storage", "assumed")
SHORT_DEADLINE = Given(1 * DAY, "seconds for 10⁹ records", "assumed, a day")
LONG_DEADLINE = Given(30 * DAY, "seconds for 10¹² records", "assumed, 30 days")
MORE_STEPS = Given(10, "times the steps that were measured, for a table this large", "assumed")
DEADLINES = dict(zip(SIZES, (SHORT_DEADLINE, LONG_DEADLINE)))
GIVEN = {name: value for name, value in globals().items() if isinstance(value, Given)}


class ByteCounter(TorchDispatchMode):
    """Counts the bytes that operations read and write, as if nothing stayed in a cache between two of them."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, torch.Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return output


def cpu_seconds(function: Callable[[], Any], times: int = 3) -> float:
    """Of this process, at best, so that others on the machine matter little."""
    best = math.inf
    for _ in range(times):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def measure_machine() -> dict[str, float]:
    source, target = torch.ones(2, 2**26)
    seconds = cpu_seconds(lambda: target.copy_(source), times=20)
    return {"copy_bytes_per_second": 2 * source.numel() * source.element_size() / seconds}


def measure_rows(pipe: DiffLMPipeline, model: Path, table: pd.DataFrame, categorical: list[str]) -> dict[str, Any]:
    """Operations, bytes and seconds of a record, by the record decoder."""
    processor, vae, num = pipe.processor, pipe.vae, len(table)
    with ByteCounter() as moved:
        pipe.generate_block(0, 0)
    dataset = to_dataset(processor, table)
    part = TensorDataset(**dataset[torch.arange(8192)])
    with FlopCounterMode(display=False) as counter:
        latents = encode_latents(vae, part)
    figures: dict[str, Any] = {
        "encode_flops": counter.get_total_flops() / len(part),
        "moved_bytes": moved.total / pipe.config.block_size,
    }
    known = len(processor.codec.position_fields) if vae.config.condition_size else 0
    with TemporaryDirectory() as folder:
        real, generated = Path(folder, "real.parquet"), Path(folder, "generated.parquet")
        table.to_parquet(real)
        shard = pa.Table.from_batches(list(pipe.stream(RECORDS_PER_SHARD, generator=torch.Generator().manual_seed(0))))
        figures["seconds"] = {
            "write": cpu_seconds(lambda: pq.write_table(shard, generated)) / RECORDS_PER_SHARD,
            "read": cpu_seconds(lambda: read_table(real)) / num,
            "infer": cpu_seconds(lambda: RecordSchema.infer(table, categorical)) / num,
            "tokenize": cpu_seconds(lambda: processor(table)) / num,
            "encode": cpu_seconds(lambda: encode_latents(vae, part)) / len(part),
        }
        stored = {"real row": real.stat().st_size / num, "generated row": generated.stat().st_size / RECORDS_PER_SHARD}
    figures["stored_bytes"] = stored
    figures["memory_bytes"] = {
        "table": float(table.memory_usage(deep=True, index=False).sum() / num),
        "token ids": sum(t[0].numel() * t.element_size() for t in dataset.tensors.values()),
        "latents": sum(t[0].numel() * t.element_size() for t in latents.tensors.values()),
        "ids for conditions": known * dataset.tensors["input_ids"].element_size(),
    }
    figures["phases"] = {}
    for phase in ("vae", "denoiser"):
        record = json.loads((model / "checkpoints" / phase / "phase.json").read_text(encoding="utf-8"))
        batch_size = record["arguments"]["per_device_train_batch_size"]
        figures["phases"][phase] = {k: record[k] for k in ("num_steps", "seconds")} | {"batch_size": batch_size}
    return figures


def measure_json(table: pd.DataFrame, schema: RecordSchema) -> dict[str, Any]:
    """What an LM is fed in writing adult as JSON by its grammar, whatever it has learnt and however large it is."""
    tokenizer, _ = train_tokenizer(JSONCodec(schema).encode(table))
    tokenizer.bos_token = tokenizer.eos_token
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    processor = DiffLMProcessor.from_records(table, schema, tokenizer)
    encoder = AutoConfig.for_model("bert", **sizes, **ids)
    lm = LlamaForCausalLM(AutoConfig.for_model("llama", **sizes, **ids, max_position_embeddings=2048))
    config = processor.model_config(encoder_config=encoder, decoder_config=lm.config, latent_size=8)
    decoder = DiffLMModel(config, lm=lm).eval().decoder
    calls: list[tuple[int, int]] = []

    def count(module, args, kwargs):
        if kwargs.get("inputs_embeds") is not None:
            calls.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    decoder.lm.base_model.register_forward_pre_hook(count, with_kwargs=True)
    part = table.head(2000)
    figures: dict[str, Any] = {
        "tokens": processor(part)["decoder_attention_mask"].sum(1).float().mean().item(),
        "tokenize_seconds": cpu_seconds(lambda: processor(part)) / len(part),
        "batches": {},
    }
    for size in BATCHES:
        calls.clear()
        with torch.no_grad(), patch.dict(PASS_TOKENS, cpu=ACCELERATOR_PASS_TOKENS):
            latents, uniforms = torch.randn(size, 8), torch.rand(size, config.max_record_length - 1)
            decoder.sample_records(latents, uniforms, grammar=processor.grammar)
        lengths = np.cumsum([length for _, length in calls])
        figures["batches"][str(size)] = {
            "passes": len(calls),
            "fed": sum(rows * length for rows, length in calls) / size,
            "cached": float(sum(rows * length for (rows, _), length in zip(calls, lengths)) / size),
        }
    return figures


def measure_lm(name: str) -> dict[str, Any]:
    """Sizes of an LM, and the processor's seconds to start all operations of a pass, of which none takes long."""
    fields = MODELS[name] | {"num_hidden_layers": LAYERS.get(name, MODELS[name]["num_hidden_layers"])}
    config = AutoConfig.for_model(**fields)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"head_dim": 16, "vocab_size": 64}
    quick = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(fields | small))).eval()
    with torch.no_grad():
        cache = quick(torch.tensor([[1]]), use_cache=True).past_key_values
        seconds = cpu_seconds(lambda: quick(torch.tensor([[1]]), past_key_values=cache, use_cache=True), times=30)
    head_size = config.hidden_size // config.num_attention_heads
    return {
        "parameters": sum(weight.numel() for weight in lm.parameters()),
        "cache_bytes": 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * BYTES_BF16,
        "pass_seconds": seconds,
    }


def measure(model: Path, data: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    categorical = json.loads((data / "info.json").read_text(encoding="utf-8"))["categorical"]
    table = pd.read_csv(data / "train.csv")
    schema = RecordSchema.infer(table, categorical)
    table = schema.conform(table)
    pipe = DiffLMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    latent_size = DOCUMENT_RECIPES["small"].latent_size
    denoiser = DiffLMDenoiser(latent_size=latent_size, **DOCUMENT_RECIPES["small"].denoiser_config)
    return {
        "machine": measure_machine(),
        "rows": measure_rows(pipe, model, table, categorical),
        "json": measure_json(table, schema),
        "lms": {name: measure_lm(name) for name in LMS},
        "lm_denoiser_parameters": sum(weight.numel() for weight in denoiser.parameters()),
        "block_size": pipe.config.block_size,
    }


@dataclass
class Decoder:
    """
    What a decoder takes.

    Args:
        name (`str`): Its name, with the records that it writes together where that can be chosen.
        kind (`str`): "core" or "GPU", which hours are of.
        limits (`dict[str, float]`): Seconds of one for a record in generation, by each of [`LIMITS`] alone.
        seconds (`float`): Of one for a record in generation.
        prepare, encode (`float`): Seconds of one for a record: to read, infer and tokenize it, and for its latents.
        steps (`float`): Seconds of one for the steps of both phases.
        seen (`tuple[float, float]`): Records that the steps of each phase take.
        latent_bytes (`float`): Mean and deviation of a record, in float32.
        block_size (`int`): Records that share a generator.
        flops, moved_bytes (`float`): Operations of a record in products, and bytes of memory that it reads and writes.
    """

    name: str
    kind: str
    limits: dict[str, float]
    seconds: float
    prepare: float
    encode: float
    steps: float
    seen: tuple[float, float]
    latent_bytes: float
    block_size: int
    flops: float
    moved_bytes: float

    @property
    def bound_by(self) -> str:
        return max(self.limits, key=self.limits.get)

    @property
    def price(self) -> float:
        """Dollars a second of a core or GPU."""
        return (CORE_HOUR if self.kind == "core" else GPU_HOUR) / HOUR

    def machines(self, seconds: float, num_records: int) -> int:
        """That do the work of one core or GPU in the time for so many records."""
        return math.ceil(seconds / DEADLINES[num_records] / (CORES if self.kind == "core" else GPUS))


LIMITS = ("arithmetic", "memory", "single operations and Python", "grammar", "storage")


def row_decoder() -> Decoder:
    """The record decoder of the recipe `small`, on processors."""
    profile, figures = load_result("generation")["profile"], load_result("scaling")
    machine, rows = load_result("speed")["machine"], figures["rows"]
    seconds, phases = rows["seconds"], rows["phases"]
    generate = machine["cores"] / profile["records_per_second"] + seconds["write"]
    limits = {
        "arithmetic": profile["flops_per_record"] * machine["cores"] / profile["matrix_flops"],
        "memory": rows["moved_bytes"] / figures["machine"]["copy_bytes_per_second"],
        "storage": rows["stored_bytes"]["generated row"] * CORES / NETWORK,
    }
    limits["single operations and Python"] = generate - limits["arithmetic"] - limits["memory"]
    return Decoder(
        name=ROWS,
        kind="core",
        limits=limits,
        seconds=generate / CORE_SHARE,
        prepare=(seconds["read"] + seconds["infer"] + seconds["tokenize"]) / CORE_SHARE,
        encode=seconds["encode"] / CORE_SHARE,
        steps=MORE_STEPS * sum(phase["seconds"] for phase in phases.values()),
        seen=tuple(MORE_STEPS * phase["num_steps"] * phase["batch_size"] for phase in phases.values()),
        latent_bytes=rows["memory_bytes"]["latents"],
        block_size=figures["block_size"],
        flops=profile["flops_per_record"],
        moved_bytes=rows["moved_bytes"],
    )


def lm_decoder(name: str, batch_size: int) -> Decoder:
    """A frozen LM that writes rows as JSON, on GPUs."""
    figures, forced = load_result("scaling"), load_result("grammars")["llguidance"]
    lm, json_rows, seconds = figures["lms"][name], figures["json"], figures["rows"]["seconds"]
    written = json_rows["batches"][str(batch_size)]
    microseconds = sum(forced["real"]["batch of 64"][part]["mean"] for part in ("mask_us", "advance_us"))
    gpu_flops, gpu_bandwidth = GPU_FLOPS * GPU_FLOPS_SHARE, GPU_BANDWIDTH * GPU_BANDWIDTH_SHARE
    weight_bytes = BYTES_BF16 * lm["parameters"]
    flops = 2 * lm["parameters"] * written["fed"]
    moved = written["passes"] * weight_bytes / batch_size + written["cached"] * lm["cache_bytes"]
    limits = {
        "arithmetic": flops / gpu_flops,
        "memory": moved / gpu_bandwidth,
        "single operations and Python": written["passes"] * lm["pass_seconds"] / batch_size,
        "grammar": written["passes"] * microseconds / 1e6 / CORES_PER_GPU,
        "storage": figures["rows"]["stored_bytes"]["generated row"] * GPUS / NETWORK,
    }
    read_seconds = 2 * lm["parameters"] * json_rows["tokens"] / gpu_flops
    recipe = DOCUMENT_RECIPES["small"]
    vae_batch, batch = (part["per_device_train_batch_size"] for part in (recipe.vae, recipe.denoiser))
    vae_steps = MORE_STEPS * load_result("injection")["base-lm"]["runs"]["frozen"]["num_steps"]
    steps = MORE_STEPS * recipe.denoiser["max_steps"]
    # A step of a frozen LM: it reads the record, writes it, and goes back through what it wrote.
    vae_step = max(3 * vae_batch * read_seconds, 3 * lm["pass_seconds"])
    step = 6 * figures["lm_denoiser_parameters"] * batch / gpu_flops
    return Decoder(
        name=f"{LMS[name]}, {batch_size:,} at a time",
        kind="GPU",
        limits=limits,
        seconds=max(limits.values()),
        prepare=(seconds["read"] + seconds["infer"] + json_rows["tokenize_seconds"]) / CORES_PER_GPU,
        encode=read_seconds,
        steps=vae_steps * vae_step + steps * step,
        seen=(vae_steps * vae_batch, steps * batch),
        latent_bytes=2 * 4 * recipe.latent_size,
        block_size=batch_size,
        flops=flops,
        moved_bytes=moved,
    )


def memory_of(lm: dict[str, Any], batch_size: int) -> float:
    """Bytes of an LM's weights and of its cache, in the end of a batch."""
    positions = load_result("scaling")["json"]["batches"][str(batch_size)]["fed"]
    return BYTES_BF16 * lm["parameters"] + batch_size * positions * lm["cache_bytes"]


def decoders() -> list[Decoder]:
    return [row_decoder(), *(lm_decoder(name, batch_size) for name in LMS for batch_size in BATCHES)]


def amount(number: float) -> str:
    """Two digits, or all before the point."""
    if number == 0 or number >= 100:
        return f"{number:,.0f}"
    return f"{number:.{max(0, 1 - math.floor(math.log10(number)))}f}"


def scaled(number: float, unit: str = "B") -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{amount(number)} {prefix}{unit}"
        number /= 1000
    return f"{amount(number)} P{unit}"


def percent(share: float) -> str:
    return f"{amount(100 * share)}%"


def power(number: int) -> str:
    return f"10{str(round(math.log10(number))).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def given_section() -> str:
    def shown(value: Given) -> str:
        return f"{value:,.7g}" if value < 1e7 else f"{value:.4g}".replace("e+", "e")

    return to_table(
        ["constant", "value", "what it is", "source"],
        [[f"`{name}`", shown(value), value.what, value.source] for name, value in GIVEN.items()],
    )


def measured_section() -> str:
    figures, machine = load_result("scaling"), load_result("speed")["machine"]
    profile, rows, json_rows = load_result("generation")["profile"], figures["rows"], figures["json"]
    seconds, grammar = rows["seconds"], load_result("grammars")["llguidance"]["real"]["batch of 64"]
    stages = ("read", "infer", "tokenize", "encode", "write")
    lms = [
        f"{LMS[name]} has {lm['parameters'] / 1e6:,.0f} million parameters, {scaled(lm['cache_bytes'])} of cache a "
        f"token, and takes {1000 * lm['pass_seconds']:.1f} ms a pass"
        for name, lm in figures["lms"].items()
    ]
    lines = [
        f"{profile['records_per_second']:,.0f} records a second by the record decoder on {machine['cores']} cores of "
        f"an {machine['processor']}, {profile['flops_per_record'] / 1e6:.1f} million operations each, where products "
        f"of large matrices run at {profile['matrix_flops'] / 1e9:,.0f} billion a second "
        "(`measure_matrix_flops`; `benchmarks.generation`).",
        f"{scaled(figures['machine']['copy_bytes_per_second'])} a second read and written by a core that copies "
        "memory.",
        "Microseconds of a core for a record: "
        + ", ".join(f"{stage} {1e6 * seconds[stage]:.1f}" for stage in stages)
        + f"; as JSON, tokenize {1e6 * json_rows['tokenize_seconds']:,.0f}.",
        f"The encoder takes {scaled(rows['encode_flops'], 'FLOP')} for a record.",
        f"A row of adult in Parquet takes {rows['stored_bytes']['real row']:.1f} bytes, a generated one "
        f"{rows['stored_bytes']['generated row']:.1f}.",
        f"As JSON a row has {json_rows['tokens']:.0f} tokens in a BPE vocabulary that was made of such rows. To write "
        + " and ".join(
            f"{int(batch):,} rows together takes {of['passes']} passes, which feed {of['fed']:.0f} positions of each,"
            for batch, of in json_rows["batches"].items()
        )
        + " by an LM with random weights: what a grammar forces is fed along, padded to the longest of the batch.",
        f"The grammar takes {grammar['mask_us']['mean'] + grammar['advance_us']['mean']:.0f} microseconds of a core "
        "for a record and pass (`benchmarks.grammars`).",
        f"The {'; the '.join(lms)}: the time of a processor to start its operations, with its layers but a width of "
        "32.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def record_section() -> str:
    header = ["decoder", "operations", "memory traffic", *(f"{limit}, µs" for limit in LIMITS), "bound by"]
    rows = []
    for of in decoders():
        limits = [amount(1e6 * of.limits[name]) if name in of.limits else "" for name in LIMITS]
        rows.append([of.name, scaled(of.flops, "FLOP"), scaled(of.moved_bytes), *limits, of.bound_by])
    of_rows = row_decoder()
    traffic = CORES * of_rows.moved_bytes / of_rows.seconds
    return (
        to_table(header, rows) + f"\n\n{CORES:.0f} cores that run the {ROWS} move {scaled(traffic)} a second, "
        f"{percent(traffic / MACHINE_BANDWIDTH)} of what the memory of a machine gives, if caches hold nothing."
    )


def generation_section() -> str:
    row_bytes = load_result("scaling")["rows"]["stored_bytes"]["generated row"]
    header = ["records", "decoder", "records/s of a core or GPU", "hours", "machines", "dollars"]
    rows = [
        [
            power(num),
            of.name,
            amount(1 / of.seconds),
            f"{amount(num * of.seconds / HOUR)} {of.kind}-hours",
            f"{of.machines(num * of.seconds, num):,}",
            amount(num * of.seconds * of.price),
        ]
        for num in SIZES
        for of in decoders()
    ]
    stored = [
        f"{power(num)} rows are {scaled(num * row_bytes)} in {math.ceil(num / RECORDS_PER_SHARD):,} files: "
        f"{scaled(num * row_bytes / DEADLINES[num])} a second, "
        f"{percent(num * row_bytes / DEADLINES[num] / OBJECT_STORE)} of what the store takes, and "
        f"{amount(num * row_bytes / 1e9 * STORED_GB_MONTH)} dollars a month."
        for num in SIZES
    ]
    return to_table(header, rows) + "\n\n" + " ".join(stored)


def training_section() -> str:
    header = [
        "records",
        "decoder",
        "read and tokenize",
        "encode",
        "steps",
        "bound by",
        "machines",
        "dollars",
        "latents",
    ]
    header += ["their dollars a month", "dollars for a sample"]
    rows = []
    for num in SIZES:
        for of in decoders():
            if of.block_size == BATCHES[1]:  # a matter of generation alone
                continue
            # Cores beside a GPU work while it does.
            each = max(of.prepare, of.encode) if of.kind == "GPU" else of.prepare + of.encode
            parts = {"read and tokenize": num * of.prepare, "encode": num * of.encode, "steps": of.steps}
            latents = num * of.latent_bytes
            rows.append(
                [
                    power(num),
                    of.name.partition(",")[0],
                    *(f"{amount(seconds / HOUR)} h" for seconds in parts.values()),
                    max(parts, key=parts.get),
                    f"{of.machines(num * each, num):,}",
                    amount((num * each + of.steps) * of.price),
                    scaled(latents),
                    amount(latents / 1e9 * STORED_GB_MONTH),
                    amount((max(of.seen) * each + of.steps) * of.price + num * look_seconds() * CORE_HOUR / HOUR),
                ]
            )
    return to_table(header, rows)


def look_seconds() -> float:
    """Of a core, to read a record and to look at its values."""
    seconds = load_result("scaling")["rows"]["seconds"]
    return (seconds["read"] + seconds["infer"]) / CORE_SHARE


def memory_section() -> str:
    parts = load_result("scaling")["rows"]["memory_bytes"]
    total = sum(parts.values())
    listed = ", ".join(f"{name} {amount(number)}" for name, number in parts.items())
    seen = {of.name.partition(",")[0]: of.seen for of in decoders()}
    saw = "; ".join(
        f"{name}: {first / 1e6:.1f} and {second / 1e6:.1f} million" for name, (first, second) in seen.items()
    )
    return (
        f"A record of adult takes {total:,.0f} bytes while rows are trained on ({listed}), so that a machine of "
        f"{scaled(MACHINE_MEMORY)} holds {MACHINE_MEMORY / total / 1e6:,.0f} million, and {power(SIZES[-1])} would "
        f"take {scaled(SIZES[-1] * total)}. The steps of autoencoder and denoiser take fewer records than that, "
        f"whatever the size of the table. {saw[0].upper()}{saw[1:]}.\n\n"
        "To read all records and to look at their values, as a sample of all of them takes it, keeps a core "
        f"busy for {' and '.join(f'{amount(num * look_seconds() / HOUR)} hours ({power(num)})' for num in SIZES)}."
    )


def driver_section() -> str:
    shards = {num: math.ceil(num / RECORDS_PER_SHARD) for num in SIZES}
    rows = []
    for num in SIZES:
        rows.append(
            [
                power(num),
                f"{shards[num]:,}",
                f"{amount(shards[num] / QUEUE)} s",
                amount(shards[num] / DEADLINES[num]),
                percent(shards[num] / DEADLINES[num] / PUTS),
            ]
        )
    header = ["records", "files", "to hand them all out", "files a second in the time given", "of what a prefix takes"]
    return to_table(header, rows)


SECTIONS = {
    "given": given_section,
    "measured": measured_section,
    "record": record_section,
    "generation": generation_section,
    "training": training_section,
    "memory": memory_section,
    "driver": driver_section,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data-dir", type=Path)
    args = parser.parse_args()
    if (args.model is None) != (args.data_dir is None):
        parser.error("--model and --data-dir go together: give both to measure, or neither")
    if args.model is not None:
        save_result("scaling", measure(args.model, args.data_dir))
    for name, section in SECTIONS.items():
        fill(PAGE, name, section())


if __name__ == "__main__":
    main()
