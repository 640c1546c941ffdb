"""
The sampling loop of the DiffLM paper's published code, on the weights that the script `difflm` has trained: one record
at a time, 50 steps of Heun's method, and the causal LM run over the whole record again for each of its tokens.
"""

from __future__ import annotations

import pandas as pd
import torch

from difflm_hf import DiffLMPipeline

from .harness import Data, run


NUM_INFERENCE_STEPS = 50


def fit(data: Data) -> tuple[DiffLMPipeline, torch.Generator]:
    pipe = DiffLMPipeline.from_pretrained(data.work_dir.parent / "difflm" / "model")
    return pipe, torch.Generator().manual_seed(data.seed)


@torch.no_grad()
def sample(model: tuple[DiffLMPipeline, torch.Generator], num_rows: int) -> pd.DataFrame:
    pipe, generator = model
    decoder = pipe.vae.decoder
    tables = []
    for _ in range(num_rows):
        latents = pipe.generate_latents(1, NUM_INFERENCE_STEPS, generator)
        ids = torch.tensor([[decoder.lm.config.bos_token_id]])
        for start, end in decoder.config.position_ranges:
            logits = decoder(input_ids=ids, latents=latents, use_cache=False).logits[:, -1, start:end]
            ids = torch.cat([ids, start + torch.multinomial(logits.softmax(-1), 1, generator=generator)], dim=1)
        within_bin_offsets = torch.rand(1, pipe.processor.num_offsets, generator=generator, dtype=torch.float64)
        tables.append(pipe.processor.decode_records(ids.numpy(), within_bin_offsets.numpy())[0])
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    run(fit, sample)
