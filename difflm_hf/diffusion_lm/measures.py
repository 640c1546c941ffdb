"""How well a Diffusion-LM knows texts."""

from __future__ import annotations

import torch

from .modeling_diffusion_lm import DiffusionLMModel, cross_entropy
from .schedule import alphas_cumprod


@torch.no_grad()
def likelihood_bound(
    model: DiffusionLMModel,
    input_ids: torch.LongTensor,
    num_draws: int = 16,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """
    An upper bound of −log p of each text, padding included, estimated by random noise levels.

    With z_t ~ N(√ᾱ_t Emb(w), 1 − ᾱ_t) and SNR = ᾱ / (1 − ᾱ) it is the variational bound of the chain z_T−1 … z_0
    (arXiv 2107.00630, eq. 13 and 14):

    −log p(w) ≤ KL(q(z_T−1|w) ‖ N(0, 1)) + Σ_t≥1 ½ (SNR_t−1 − SNR_t) ‖Emb(w) − x̂₀(z_t)‖² − E log p(w|z_0).

    Args:
        model ([`DiffusionLMModel`]): The model.
        input_ids (`torch.LongTensor` of shape `(num_texts, length)`): Words, padded.
        num_draws (`int`, defaults to 16): Noise levels of each text.
        batch_size (`int`, defaults to 128): Texts at once.
        generator (`torch.Generator`, *optional*): For reproducible estimates.

    Returns:
        `torch.DoubleTensor` of shape `(num_texts,)`, in nats.
    """
    model.eval()
    alphas = alphas_cumprod(model.config).double()
    snr = alphas / (1 - alphas)
    num_levels, bounds = len(alphas), []
    for ids in input_ids.split(batch_size):
        ids = ids.to(model.device)
        embeddings = model.embed(ids)

        def noised(level: torch.Tensor, embeddings: torch.Tensor = embeddings) -> torch.Tensor:
            scale, deviation = model.noise_level(level)
            noise = torch.randn(embeddings.shape, generator=generator).to(embeddings.device)
            return scale * embeddings + deviation * noise

        squares = embeddings.double().square().sum((1, 2))
        last, size = alphas[-1], embeddings[0].numel()
        bound = (last * squares + size * (-last - torch.log1p(-last))) / 2
        first = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        logits = model.predict(noised(first), first).logits
        bound += cross_entropy(logits, ids).double().sum(1)
        for draw in range(num_draws):
            # Levels 1 to T − 1, spread evenly over draws
            shift = (torch.rand(len(ids), generator=generator) + draw) / num_draws
            level = 1 + (shift * (num_levels - 1)).long()
            clean = model.predict(noised(level.to(ids.device)), level.to(ids.device)).clean
            error = (embeddings - clean).double().square().sum((1, 2)).cpu()
            bound += ((num_levels - 1) / num_draws * (snr[level - 1] - snr[level]) / 2 * error).to(bound.device)
        bounds.append(bound.cpu())
    return torch.cat(bounds)


@torch.no_grad()
def rounding_accuracy(
    model: DiffusionLMModel, input_ids: torch.LongTensor, generator: torch.Generator | None = None
) -> float:
    """The share of words, without padding, that are the likeliest at their own embeddings with the noise of t = 0."""
    model.eval()
    ids = input_ids.to(model.device)
    embeddings, first = model.embed(ids), torch.zeros(1, dtype=torch.long, device=ids.device)
    scale, deviation = model.noise_level(first)
    noise = torch.randn(embeddings.shape, generator=generator).to(embeddings.device)
    found = model.head((scale * embeddings + deviation * noise) / scale).argmax(-1)
    is_word = ids != model.config.pad_token_id
    return float((found == ids)[is_word].float().mean())
