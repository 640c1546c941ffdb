"""
What `test_distributed.py` runs in several processes:

    torchrun --nproc-per-node=2 tests/distributed_workers.py FUNCTION ARGUMENTS
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from pytest import MonkeyPatch
from test_training import interrupt
from tiny import DOCUMENT_RECIPES, RECIPES, make_table, train
from tiny_diffusion_lm import RECIPE, SENTENCES
from transformers import Trainer, TrainerCallback, set_seed

from difflm_hf import LatentEDMScheduler, ModelArguments
from difflm_hf.batches import TensorDataset
from difflm_hf.diffusion_lm import DiffusionLMConfig, DiffusionLMModel
from difflm_hf.diffusion_lm.word_tokenizer import encode_texts, train_word_tokenizer
from difflm_hf.distributed import join_processes, process_index
from difflm_hf.latents import encode_latents, latent_moments
from difflm_hf.training import (
    DataArguments,
    DiffLMTrainer,
    DiffLMTrainingArguments,
    LatentDiffusionTrainer,
    LatentDiffusionTrainingArguments,
)
from difflm_hf.training.arguments import BaseTrainingArguments
from difflm_hf.training.build import build_autoencoder, build_denoiser
from difflm_hf.training.diffusion_lm import DiffusionLMTrainer
from difflm_hf.training.fit import Run, same_weights
from difflm_hf.training.prepare import prepare_records
from difflm_hf.training.recipes import NOISE_LEVELS


NUM_STEPS = 50
DOCUMENTS = [{"name": f"n{k % 7}", "of": {"sizes": [k % 5] * (k % 4)}} for k in range(64)]
COMMON = {
    **{"bf16": False, "learning_rate": 1e-4, "warmup_steps": 0, "num_train_epochs": 100, "logging_steps": 1},
    **{"max_steps": NUM_STEPS, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False},
}


class Steps(TrainerCallback):
    def __init__(self):
        self.losses: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.losses += [logs["loss"]] if "loss" in logs else []


def losses_of(trainer: Trainer) -> list[float]:
    steps = Steps()
    trainer.add_callback(steps)
    set_seed(0)
    trainer.train()
    return steps.losses


def build(records, recipe, run: Run):
    """An autoencoder, and its trainer."""
    set_seed(0)
    vae = build_autoencoder(records, recipe, ModelArguments())
    arguments = run.arguments(DiffLMTrainingArguments, "vae", recipe.vae | COMMON | {"free_bits": 0.3})
    fields = records.processor.codec.position_fields if vae.config.condition_size else None
    grammar = records.processor.grammar
    return vae, DiffLMTrainer(same_weights(vae), arguments, grammar, fields, train_dataset=records.train)


def losses(path: str) -> None:
    """The losses of 50 steps: of rows, of documents, whose states are standardized, of latents and of texts."""
    join_processes()
    run, found = Run(Path(path).parent / "runs"), {}
    table = make_table(256).drop(columns="note")
    records, recipe = prepare_records(table, table.head(20)), RECIPES["tiny"]
    vae, trainer = build(records, recipe, run)
    latents = encode_latents(vae, records.train)
    found["vae"] = losses_of(trainer)

    nested = prepare_records(DOCUMENTS, DOCUMENTS[:9], args=DataArguments(nested="json"))
    trainer = build(nested, DOCUMENT_RECIPES["tiny"], run)[1]
    weights = list(trainer.model.parameters())
    found["share"] = sum(getattr(w, "_local_tensor", w).numel() for w in weights) / sum(w.numel() for w in weights)
    found["posterior"] = losses_of(trainer)

    fields = records.processor.codec.position_fields
    latents.tensors["known_ids"] = records.train.tensors["input_ids"][:, 1 : 1 + len(fields)]
    scheduler = LatentEDMScheduler(**NOISE_LEVELS)
    denoiser = build_denoiser(latent_moments(latents), recipe, scheduler.config.sigma_data, recipe.condition_size)
    known = {"known_fields": vae.decoder.known_fields, "position_fields": fields}
    arguments = run.arguments(LatentDiffusionTrainingArguments, "denoiser", recipe.denoiser | COMMON)
    found["denoiser"] = losses_of(
        LatentDiffusionTrainer(same_weights(denoiser), arguments, scheduler, **known, train_dataset=latents)
    )

    tokenizer = train_word_tokenizer(SENTENCES, 1, RECIPE.config["max_sequence_length"])
    ids = encode_texts(SENTENCES, tokenizer, RECIPE.config["max_sequence_length"])[0][:192]
    names = ("bos", "eos", "unk", "pad")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    set_seed(0)
    model = DiffusionLMModel(DiffusionLMConfig(**RECIPE.config, vocab_size=len(tokenizer), **special))
    arguments = run.arguments(BaseTrainingArguments, "diffusion_lm", RECIPE.arguments | COMMON)
    found["diffusion_lm"] = losses_of(DiffusionLMTrainer(model, arguments, train_dataset=TensorDataset(input_ids=ids)))
    if process_index() == 0:
        Path(path).write_text(json.dumps(found))


def train_model(folder: str, seen: str, max_minutes: str | None = None) -> None:
    """A whole run, and what each process came to."""
    options = {} if max_minutes is None else {"recipe": "small", "max_minutes": float(max_minutes)}
    pipe = train(make_table(), Path(folder), **{"recipe": "tiny", **options})
    steps = {phase["name"]: phase["num_steps"] for phase in pipe.config.training["phases"]}
    weights = {name: float(weight.double().sum()) for name, weight in pipe.vae.state_dict().items()}
    facts = {"steps": {"vae": steps["autoencoder"], "denoiser": steps["latent diffusion"]}, "weights": weights}
    Path(f"{seen}.{process_index()}").write_text(json.dumps(facts))


def train_documents(folder: str, base: str, at_step: str = "") -> None:
    """A whole run of a small Llama, new or with LoRA layers, or one that is cut off, or the rest of that."""
    if at_step:
        interrupt(MonkeyPatch(), "autoencoder", int(at_step))
    tiny = DOCUMENT_RECIPES["tiny"]
    recipe = replace(
        tiny,
        decoder_config={**tiny.decoder_config, "num_hidden_layers": 2},
        vae={**tiny.vae, "bf16": False, "ema_decay": 0.9, "num_train_epochs": 8},
        denoiser={**tiny.denoiser, "bf16": False},
    )
    lm = {"base_model": base, "tuning": "lora"} if base else {}
    options = {"validation": DOCUMENTS[:9], "nested": "json", "resume": Path(folder).exists(), **lm}
    train(DOCUMENTS, folder, recipe=recipe, **options)


def latents(path: str) -> None:
    """The latents of a number of records that no two processes share evenly."""
    join_processes()
    table = make_table(37)
    records = prepare_records(table, table)
    set_seed(0)
    vae = build_autoencoder(records, RECIPES["tiny"], ModelArguments())
    found = encode_latents(vae, records.train)
    if process_index() == 0:
        torch.save(torch.cat([found.tensors["mean"], found.tensors["std"]], dim=1), path)


if __name__ == "__main__":
    workers = {"losses": losses, "train": train_model, "documents": train_documents, "latents": latents}
    workers[sys.argv[1]](*sys.argv[2:])
