"""
Trains a step of DiffLM beside language models of the Hub, in each way, and measures time and memory.

    python -m benchmarks.pretrained [--models Qwen/Qwen2.5-0.5B ...] [--modes frozen lora ...]

The LMs have the configurations of those models and random weights, so that nothing is downloaded. Figures go to
benchmarks/results/pretrained.json. Those with 8 or 4 bits need bitsandbytes, and are left out without it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from difflm_hf import DiffLMModel
from difflm_hf.utils import supports_bf16

from .results import load_result, save_result


# As their authors publish them, but for layers where memory asks for fewer.
MODELS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
    },
    "HuggingFaceTB/SmolLM2-135M": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "mistralai/Mistral-7B-Instruct-v0.3": {
        "model_type": "mistral",
        "vocab_size": 32768,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
LAYERS = {"mistralai/Mistral-7B-Instruct-v0.3": 32}  # of those that are cut here
MODES = ("frozen", "lora", "full", "frozen, checkpointing", "lora, checkpointing", "lora, 8 bits", "lora, 4 bits")
BATCH_SIZE, LENGTH = 4, 128


def build(base: str, mode: str) -> DiffLMModel:
    fields: dict[str, Any] = {"freeze_decoder": mode != "full"}
    if mode.startswith("lora"):
        fields["lora"] = {"r": 16, "lora_alpha": 32}
    if mode.endswith("8 bits"):
        fields["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif mode.endswith("4 bits"):
        fields["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    model = DiffLMModel.from_encoder_decoder_pretrained(
        None,
        base,
        latent_size=32,
        num_latent_tokens=8,
        **fields,
    )
    if mode.endswith("checkpointing"):
        model.activation_checkpointing_enable()
    return model.train()


def measure(base: str, mode: str) -> dict[str, Any]:
    """Of one training, in a process of its own, since memory is that of the process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(base, mode).to(device)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    vocab_size = model.config.get_text_config().vocab_size
    torch.manual_seed(0)
    ids = torch.randint(0, vocab_size, (BATCH_SIZE, LENGTH), device=device)
    losses = []
    for step in range(3):
        if step == 1:
            start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=supports_bf16()):
            loss = model(input_ids=ids, decoder_input_ids=ids, beta=0.0).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    seconds = (time.perf_counter() - start) / 2
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trained_parameters": sum(weight.numel() for weight in trained),
        "seconds_per_step": seconds,
        "tokens_per_second": BATCH_SIZE * LENGTH / seconds,
        "peak_bytes": peak or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def main(models: list[str], modes: list[str]) -> None:
    result = load_result("pretrained")
    for name in models:
        config = dict(MODELS[name])
        with TemporaryDirectory() as folder:
            base = AutoConfig.for_model(config.pop("model_type"), **config)
            AutoModelForCausalLM.from_config(base, dtype=torch.bfloat16).save_pretrained(folder)
            for mode in modes:
                if mode.endswith("bits") and find_spec("bitsandbytes") is None:
                    continue
                command = [sys.executable, "-m", "benchmarks.pretrained", "--measure", folder, "--modes", mode]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                figures = json.loads(output.splitlines()[-1])
                layers = {"layers": base.num_hidden_layers, "all_layers": LAYERS.get(name, base.num_hidden_layers)}
                result.setdefault("runs", {}).setdefault(name, {})[mode] = {**figures, **layers}
                print(name, mode, figures, flush=True)
                save_result("pretrained", {**result, "batch_size": BATCH_SIZE, "length": LENGTH})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        print(json.dumps(measure(str(args.measure), args.modes[0])))
    else:
        main(args.models, args.modes)
