"""
What of the paper's choices matters (arXiv 2411.03250, section 4): a pretrained LM writes sentences after trainings of
equal time, each of which differs from the first by one choice.

    python examples/smollm2.py LM
    python -m benchmarks.ablations --data-dir DIR --base-model LM [--work-dir DIR] [--runs NAME ...] [--minutes 10]

DIR holds e2e (train.jsonl, valid.jsonl, test.jsonl), and LM is a folder. A model that is complete in the work folder
is not trained again, whatever its time. Figures go to benchmarks/results/ablations.json; `python -m benchmarks.report`
writes docs/benchmarks.md from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from difflm_hf import DiffLMPipeline, ModelArguments, train
from difflm_hf.evaluation import evaluate_latents, evaluate_text, perplexity, train_language_model
from difflm_hf.latents import encode_latents, to_dataset
from difflm_hf.lora import add_lora
from difflm_hf.records import read_table
from difflm_hf.training import DOCUMENT_RECIPES

from .generation import processor
from .markdown import to_table, to_threads
from .results import load_result, save_result


COLUMN, NUM_VALIDATION, NUM_RECORDS, SEED = "text", 128, 200, 0
NUM_TRAINING = 600  # sentences that all learn from: how many can be encoded in time would differ by chance
NUM_EVALUATED = 300  # validation sentences that bounds are of
# The LM that finds sentences likely; it has seen those of the test split alone.
SCORING_LM = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2}
SCORING_STEPS = 200


@dataclass
class Choices:
    """
    What a training does otherwise than others.

    Args:
        tuning, injection (`str`): As in `ModelArguments`.
        latent_size, num_latent_tokens (`int`): As in `Recipe`.
        vae, denoiser_config (`dict`): Fields of those of the recipe.
        encoder (`str`): `"LM"` for the LM itself, `"scratch"` for a new BERT of 4 layers.
    """

    tuning: str = "lora"
    injection: str = "kv_memory"
    latent_size: int = 32
    num_latent_tokens: int = 16
    vae: dict[str, Any] = field(default_factory=dict)
    denoiser_config: dict[str, Any] = field(default_factory=dict)
    encoder: str = "LM"


BY_BOUND = {"metric_for_best_model": "eval_bound", "greater_is_better": False}  # which compares across β
PAPER_BETA = {"beta_schedule": "decreasing", "beta_max": 0.1, "beta_min": 0.001, "beta_decay": 0.7, **BY_BOUND}
RUNS = {
    "reference": Choices(),
    "frozen": Choices(tuning="frozen"),
    "full": Choices(tuning="full"),
    "soft_prompt": Choices(injection="soft_prompt"),
    "prefix_soft_prompt": Choices(injection="prefix_soft_prompt"),
    "input_embed": Choices(injection="input_embed"),
    "latent size 8": Choices(latent_size=8),
    "latent size 128": Choices(latent_size=128),
    "4 tokens": Choices(num_latent_tokens=4),
    "32 tokens": Choices(num_latent_tokens=32),
    "β as in the paper": Choices(vae=PAPER_BETA),
    "β cyclical": Choices(vae={"beta_schedule": "cyclical", "beta_max": 0.1, **BY_BOUND}),
    "β 1": Choices(vae={"beta_max": 1.0}),
    "attention denoiser": Choices(denoiser_config={"architecture": "transformer", "width": 64}),
    "encoder from scratch": Choices(encoder="scratch"),
}
SOURCES = ("denoiser", "prior", "records")  # of latents
TITLES = {"denoiser": "of the diffusion", "prior": "of N(0, I)", "records": "of training records"}
ABLATIONS = """`python -m benchmarks.ablations` lets {base_model} write sentences on restaurants (E2E) after trainings
of {minutes:g} minutes each, in {threads} of an {processor}. All learn from the same {num_training:,}
sentences. Each differs by one choice from the reference, which has LoRA layers, `kv_memory`, a latent of size 32 in 16
tokens, β 0.1, and an MLP as denoiser, and whose LM itself encodes. *Plain* is the LM with LoRA layers and without
latents, trained for as long.

{runs}

*Reconstruction* is by a sentence's own latent, *other* by that of another one. *KL* is that to N(0, I), *of diffusion*
that to what the denoiser has learnt, *bound* the sum of reconstruction and KL: all in nats a sentence, of
{num_evaluated} of the validation split. *Perplexity* is that of {num_records} generated sentences under a small LM of
the test sentences, which finds {real_perplexity:.1f} for the validation split; *self-BLEU* of as many real
ones is {self_bleu:.3f}. Of the reference, by where latents come from:

{sources}

What the paper says, and what these runs say. Each is one run of minutes: differences of two nats, or of a fifth of a
perplexity, may be chance.

- *Latents pay.* Not in ten minutes: no bound comes down to that of the plain LM. 8 dimensions cost the least.
- *A soft prompt is the best injection.* Not here: by `soft_prompt` and `prefix_soft_prompt` the LM writes a sentence
  as well from another one's latent, so it does not listen. By `kv_memory`, which reaches each layer, a latent saves
  some 20 nats.
- *The LM may stay frozen.* It listens most then, as there is no other way to learn, but has not learnt to write such
  sentences yet. With LoRA layers it has; trained whole, it takes more time a step, and listens little.
- *N(0, I) does not fit the latents, a diffusion does.* Its KL is smaller by some 4 nats, of 30. The sentences are as
  likely by either; those by latents of training records differ more from each other.
- *β that falls from 0.1* stays near 0.1 in so few validations, and changes nothing that can be told from chance.
- *Large latents, 32 tokens.* Of 128 dimensions the KL has not come down yet: each starts with some of it. 8 save a
  quarter of what 32 do, for a third of their KL. 4, 16 and 32 virtual tokens are alike.
- *The denoiser is an MLP.* One with attention makes {attention_steps:,} steps where the MLP makes {mlp_steps:,}, and
  has learnt little more than N(0, I).
- *The encoder is a pretrained BERT.* One from scratch, of 4 layers, has learnt nothing that the LM listens to; the
  states of the LM itself tell much, and need no training. BERT's own weights were not at hand."""


def run_training(choices: Choices, data_dir: Path, base_model: str, folder: Path, minutes: float) -> DiffLMPipeline:
    if (folder / "model_index.json").exists():
        return DiffLMPipeline.from_pretrained(folder)
    small = DOCUMENT_RECIPES["small"]
    recipe = replace(
        small,
        latent_size=choices.latent_size,
        num_latent_tokens=choices.num_latent_tokens,
        vae={**small.vae, "num_train_epochs": 50, **choices.vae},
        denoiser_config=small.denoiser_config | choices.denoiser_config,
    )
    encoder = None
    if choices.encoder == "scratch":
        encoder = str(make_encoder(base_model, folder.with_name("encoder")))
    return train(
        training_sentences(data_dir),
        folder,
        validation=read_sentences(data_dir, "valid").head(NUM_VALIDATION),
        recipe=recipe,
        model_args=ModelArguments(base_model, encoder, tuning=choices.tuning, injection=choices.injection),
        max_minutes=minutes,
        seed=SEED,
    )


def read_sentences(data_dir: Path, split: str) -> pd.DataFrame:
    return read_table(data_dir / "e2e" / f"{split}.jsonl")[[COLUMN]].dropna(ignore_index=True)


def training_sentences(data_dir: Path) -> pd.DataFrame:
    return read_sentences(data_dir, "train").sample(NUM_TRAINING, random_state=SEED, ignore_index=True)


def make_encoder(base_model: str, folder: Path) -> Path:
    """A BERT with new weights, which reads the ids of the LM."""
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    torch.manual_seed(SEED)
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(pipe: DiffLMPipeline, data_dir: Path, sources: tuple[str, ...]) -> dict[str, Any]:
    phases = pipe.config.training["phases"]
    figures = {
        "num_steps": phases[0]["num_steps"],
        "denoiser_steps": phases[1]["num_steps"],
        "num_records": pipe.config.training["data"]["num_records"],
        "trained_parameters": sum(p.numel() for p in pipe.vae.parameters() if p.requires_grad),
        **evaluate_latents(pipe, read_sentences(data_dir, "valid").head(NUM_EVALUATED)),
    }
    return figures | {source: sentence_scores(write_sentences(pipe, data_dir, source), data_dir) for source in sources}


def write_sentences(pipe: DiffLMPipeline, data_dir: Path, source: str) -> list[str]:
    """Sentences by latents of the denoiser, of the prior N(0, I), or of records that the model was trained on."""
    if source != "denoiser":
        if source == "records":
            records = training_sentences(data_dir).head(NUM_RECORDS)
            posterior = encode_latents(pipe.vae, to_dataset(pipe.processor, records)).tensors
            mean, std = posterior["mean"], posterior["std"]
        else:
            mean, std = torch.zeros(NUM_RECORDS, pipe.vae.config.latent_size), 1.0
        latents = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(SEED))
        blocks = blocks_of(latents)
        pipe.generate_latents = lambda size, *args, **kwargs: next(blocks)[:size]
    try:
        generator = torch.Generator().manual_seed(SEED)
        return pipe(NUM_RECORDS, generator=generator, output_type="pandas").records[COLUMN].tolist()
    finally:
        vars(pipe).pop("generate_latents", None)


def blocks_of(latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Endless blocks of latents, each of as many as there are."""
    for start in range(0, 10**9, 64):
        yield latents.roll(-start, 0)


@cache
def scoring_lm(data_dir: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    test = read_sentences(data_dir, "test")[COLUMN].tolist()
    sizes = {"vocab_size": 1024, "config": SCORING_LM, "length": 128, "num_steps": SCORING_STEPS}
    return train_language_model(test, **sizes, seed=SEED)


def sentence_scores(sentences: list[str], data_dir: Path) -> dict[str, float]:
    real = read_sentences(data_dir, "train")[COLUMN].tolist()
    scores = evaluate_text(sentences, real, seed=SEED)
    scores["perplexity"] = perplexity(*scoring_lm(data_dir), sentences)["perplexity"]
    return scores


def measure_plain(data_dir: Path, base_model: str, minutes: float) -> dict[str, Any]:
    """The LM without latents, with LoRA layers that are trained for as long as the reference."""
    lm = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.bfloat16)
    add_lora(lm, DOCUMENT_RECIPES["small"].lora)
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    texts, validation = (
        part[COLUMN].tolist() for part in (training_sentences(data_dir), read_sentences(data_dir, "valid"))
    )
    sizes = {"length": 128, "batch_size": 2, "num_steps": 100_000}
    lm, _ = train_language_model(
        texts, validation[:NUM_VALIDATION], tokenizer, lm, **sizes, max_minutes=minutes, seed=SEED
    )
    return perplexity(lm, tokenizer, validation[:NUM_EVALUATED])


def ablations_section() -> str:
    result = load_result("ablations")
    if not result:
        return ""
    runs, rows = result["runs"], []
    for name in [*RUNS, "plain"]:
        if name not in runs:
            continue
        run = runs[name]
        if name == "plain":
            rows.append([name, *[""] * 5, f"{run['nats_per_document']:.1f}"])
            continue
        rows.append(
            [name, f"{run['num_steps']:,}"]
            + [
                f"{run[key]:.1f}"
                for key in ("reconstruction", "reconstruction_other", "kl", "kl_denoiser", "nats_per_document")
            ]
            + sentence_columns(run["denoiser"])
        )
    columns = ["perplexity", "self-BLEU", "not in training"]
    sources = [[TITLES[source], *sentence_columns(runs["reference"][source])] for source in SOURCES]
    return ABLATIONS.format(
        base_model=result["base_model"],
        minutes=result["minutes"],
        threads=to_threads(result["threads"]),
        processor=result["processor"],
        runs=to_table(["run", "steps", "reconstruction", "other", "KL", "of diffusion", "bound", *columns], rows),
        sources=to_table(["latents", *columns], sources),
        self_bleu=runs["reference"]["denoiser"]["self_bleu_real"],  # of as many
        real_perplexity=result["real"]["perplexity"],
        num_records=NUM_RECORDS,
        num_evaluated=NUM_EVALUATED,
        num_training=NUM_TRAINING,
        attention_steps=runs["attention denoiser"]["denoiser_steps"],
        mlp_steps=runs["reference"]["denoiser_steps"],
    )


def sentence_columns(scores: dict[str, float]) -> list[str]:
    return [f"{scores['perplexity']:.1f}", f"{scores['self_bleu']:.3f}", f"{scores['novelty']:.1%}"]


def main(data_dir: Path, base_model: str, work_dir: Path, runs: list[str], minutes: float) -> None:
    real = read_sentences(data_dir, "valid")[COLUMN].tolist()
    common: dict[str, Any] = {"base_model": Path(base_model).name, "minutes": minutes, "processor": processor()}
    save_result("ablations", common | {"threads": torch.get_num_threads(), "real": sentence_scores(real, data_dir)})
    for name in runs:
        if name == "plain":
            figures = measure_plain(data_dir, base_model, minutes)
        else:
            folder = work_dir / name.replace(" ", "-")
            pipe = run_training(RUNS[name], data_dir, base_model, folder, minutes)
            figures = measure(pipe, data_dir, SOURCES if name == "reference" else SOURCES[:1])
        save_result("ablations", {"runs": load_result("ablations").get("runs", {}) | {name: figures}})
        print(name, figures, flush=True)


if __name__ == "__main__":
    names = [*RUNS, "plain"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-ablations"))
    parser.add_argument("--runs", nargs="+", choices=names, default=names)
    parser.add_argument("--minutes", type=float, default=10, help="Of each training.")
    main(**vars(parser.parse_args()))
