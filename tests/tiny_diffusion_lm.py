"""A Diffusion-LM of a toy language, small enough to be trained in tests."""

import itertools

import torch

from difflm_hf.diffusion_lm import DiffusionLMConfig, DiffusionLMModel, DiffusionLMPipeline, make_scheduler
from difflm_hf.diffusion_lm.word_tokenizer import train_word_tokenizer
from difflm_hf.training.diffusion_lm import DiffusionLMRecipe


# "the red cat sees a dog." with all colours, animals and verbs: 192 sentences, of 4 to 6 words
COLOURS, ANIMALS, VERBS = ("red", "blue", "green", "grey"), ("cat", "dog", "bird", "fish"), ("sees", "likes", "hears")
SENTENCES = [f"the {c} {a} {v} a {b}." for c, a, v, b in itertools.product(COLOURS, ANIMALS, VERBS, ANIMALS)]
SENTENCES += [f"the {c} {a} sleeps." for c, a in itertools.product(COLOURS, ANIMALS)] * 4
ENCODER = {
    "model_type": "modernbert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}
SIZES = {"max_sequence_length": 10, "embedding_size": 16, "encoder_config": ENCODER}
SMALL = {
    "noise_factor": 2.0,
    "normalize_embeddings": True,
    "noisy_embeddings": False,
    "self_conditioning": True,
    "weighted_embeddings": True,
    "output_prior": True,
    "cross_entropy_weight": 1.0,
}
RECIPE = DiffusionLMRecipe(
    config={**SIZES, **SMALL},
    arguments={
        "learning_rate": 5e-3,
        "max_steps": 700,
        "warmup_steps": 20,
        "per_device_train_batch_size": 64,
        "ema_decay": 0.99,
    },
    min_frequency=1,
)


def make_tokenizer():
    return train_word_tokenizer(SENTENCES, min_frequency=1, max_length=SIZES["max_sequence_length"])


def make_pipeline(scheduler: str = "ddpm", seed: int = 0, **config) -> DiffusionLMPipeline:
    """One that is not trained."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    model = DiffusionLMModel(DiffusionLMConfig(vocab_size=len(tokenizer), **SIZES, **ids, **config)).eval()
    pipe = DiffusionLMPipeline(model, make_scheduler(model.config, scheduler), tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe
