"""Word embeddings, the network that takes noise from them, and the loss of both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from ..distributed import draw, num_processes, randn_like
from ..hub.mixin import PushToHubMixin
from .configuration_diffusion_lm import DiffusionLMConfig
from .schedule import alphas_cumprod


@dataclass
class DiffusionLMOutput(ModelOutput):
    """
    Output of [`DiffusionLMModel`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Of words that were given.
        terms (`dict[str, torch.Tensor]`, *optional*): Its parts.
        sample (`torch.Tensor` of shape `(batch_size, length, embedding_size)`):
            What the configuration's `prediction_type` says: clean embeddings, or noise.
        clean (`torch.Tensor` of the same shape): The prediction x̂₀ of the clean embeddings.
        logits (`torch.Tensor` of shape `(batch_size, length, vocab_size)`): Of the words, given that prediction.
    """

    loss: torch.Tensor | None = None
    terms: dict[str, torch.Tensor] | None = None
    sample: torch.Tensor | None = None
    clean: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class DiffusionLMModel(PushToHubMixin, PreTrainedModel):
    """
    Diffusion-LM (arXiv 2205.14217): embeddings of words, learnt end to end, and a bidirectional transformer that
    predicts the clean embeddings of a text from noisy ones.

    Embeddings, and all that is diffused, are in float32; the transformer computes in the dtype of the model.
    """

    config_class = DiffusionLMConfig
    base_model_prefix = "diffusion_lm"
    main_input_name = "sample"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["word_embeddings", "head_bias"]

    def __init__(self, config: DiffusionLMConfig):
        super().__init__(config)
        size = config.encoder_config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.word_embeddings.weight.requires_grad_(config.train_embeddings)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.timesteps = Timesteps(size, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(size, 4 * size, out_dim=size)
        num_inputs = config.embedding_size * (2 if config.self_conditioning else 1)
        self.input = nn.Sequential(nn.Linear(num_inputs, size), nn.Tanh(), nn.Linear(size, size))
        self.encoder = AutoModel.from_config(config.encoder_config)
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None
        num_outputs = config.vocab_size if config.weighted_embeddings else config.embedding_size
        self.output = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, num_outputs))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.word_embeddings:
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            # As large as their inputs: embeddings have few dimensions, and BERT's 0.02 would all but silence them.
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif module is self:
            nn.init.zeros_(self.head_bias)

    @property
    def embeddings(self) -> torch.Tensor:
        """Emb of all words, of shape `(vocab_size, embedding_size)`, float32."""
        weight = self.word_embeddings.weight.float()
        if not self.config.normalize_embeddings:
            return weight
        return F.normalize(weight, dim=-1) * self.config.embedding_size**0.5

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of words, of shape `(batch_size, length, embedding_size)`, float32."""
        return F.embedding(input_ids, self.embeddings)

    def head(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits of words at embeddings: the rounding p(w|x₀), tied to the embeddings (section 4.1)."""
        return embeddings @ self.embeddings.T + self.head_bias.float()

    def noise_level(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t) of timesteps, of shape `(batch_size, 1, 1)`, to multiply embeddings by."""
        alphas = alphas_cumprod(self.config).to(timestep.device)[timestep].view(-1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()

    def forward(
        self,
        sample: torch.Tensor | None = None,
        timestep: torch.Tensor | int | None = None,
        self_condition: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
    ) -> DiffusionLMOutput:
        """
        Args:
            sample (`torch.Tensor` of shape `(batch_size, length, embedding_size)`, *optional*): Noisy embeddings x_t.
            timestep (`torch.Tensor` of shape `(batch_size,)` or `()`, or `int`, *optional*):
                Their noise levels t, from 0 to `num_train_timesteps` − 1. With `input_ids` they are drawn when not
                given, spread evenly over the batch.
            self_condition (`torch.Tensor` of the shape of `sample`, *optional*):
                The last prediction of the clean embeddings, if there was one.
            input_ids (`torch.Tensor` of shape `(batch_size, length)`, *optional*):
                Words, in place of `sample`: they are embedded, noise is added, and the loss computed.

        Returns:
            [`DiffusionLMOutput`].
        """
        if input_ids is not None:
            return self._loss(input_ids, timestep)
        return self.denoise(sample, timestep, self_condition)

    def denoise(
        self, sample: torch.Tensor, timestep: torch.Tensor | int, self_condition: torch.Tensor | None = None
    ) -> DiffusionLMOutput:
        """
        What [`~DiffusionLMModel.forward`] does with noisy embeddings. (It does not call itself, as the autocast that
        accelerate wraps it in does not bear being entered twice.)
        """
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        inputs = [sample]
        if self.config.self_conditioning:
            inputs.append(torch.zeros_like(sample) if self_condition is None else self_condition)
        scale, noise = self.noise_level(timestep)
        dtype = self.input[0].weight.dtype  # that of the model, whose embeddings are in float32
        hidden = self.input(torch.cat(inputs, dim=-1).to(dtype))
        # The network sees times of 0 to 1000, whatever T is.
        time = self.timesteps(timestep * 1000 / self.config.num_train_timesteps).to(dtype)
        hidden = self.encoder(inputs_embeds=hidden + self.time_embedding(time)[:, None]).last_hidden_state
        output = self.output(hidden).float()
        if self.config.weighted_embeddings:
            logits = output + self._prior(sample, scale, noise)
            clean = logits.softmax(-1) @ self.embeddings
            return DiffusionLMOutput(sample=clean, clean=clean, logits=logits)
        is_noise = self.config.prediction_type == "epsilon"
        clean = (sample - noise * output) / scale if is_noise else output
        return DiffusionLMOutput(
            sample=output, clean=clean, logits=self.head(clean) + self._prior(sample, scale, noise)
        )

    def _prior(self, sample: torch.Tensor, scale: torch.Tensor, noise: torch.Tensor) -> torch.Tensor | float:
        if not self.config.output_prior:
            return 0.0
        embeddings = self.embeddings
        # log N(x_t; √ᾱ e, 1 − ᾱ), but for what is the same for all words
        products = sample @ embeddings.T - scale * embeddings.square().sum(-1) / 2
        return products * scale / noise**2

    def _loss(self, input_ids: torch.Tensor, timestep: torch.Tensor | None) -> DiffusionLMOutput:
        """
        The paper's loss (section 4.2), and the cross-entropy of the words given x̂₀, each a mean over words:

        - `mse`: ‖x̂₀ − x₀‖² / d, with Emb(w) for x₀ where t = 0; or that of the noise;
        - `rounding`: −log p(w|x₀), of x₀ = Emb(w) + σ₀ε;
        - `prior`: ‖√ᾱ_T x₀‖² / d;
        - `cross_entropy`: −log p(w|x̂₀).
        """
        config, num_levels = self.config, self.config.num_train_timesteps
        if timestep is None:
            shift = torch.rand((), device=input_ids.device)
            order = draw(torch.randperm, len(input_ids), device=input_ids.device)
            timestep = ((order + shift) / (num_processes() * len(input_ids)) * num_levels).long()
        embeddings = self.embed(input_ids)
        scale, deviation = self.noise_level(timestep)
        smallest = self.noise_level(torch.zeros_like(timestep))[1]
        start = embeddings + smallest * randn_like(embeddings)
        clean = start if config.noisy_embeddings else embeddings
        noise = randn_like(clean)
        sample = scale * clean + deviation * noise
        output = self.predict(sample, timestep)
        target = torch.where(timestep.view(-1, 1, 1) == 0, embeddings, clean)
        difference = output.sample - (noise if config.prediction_type == "epsilon" else target)
        last = self.noise_level(torch.full_like(timestep, num_levels - 1))[0]
        terms = {
            "mse": difference.square().mean(-1),
            "rounding": cross_entropy(self.head(start), input_ids),
            "prior": (last * clean).square().mean(-1),
            "cross_entropy": cross_entropy(output.logits, input_ids),
        }
        weights = torch.where(input_ids == config.pad_token_id, config.pad_weight, 1.0)
        terms = {name: (weights * term).sum() / weights.sum() for name, term in terms.items()}
        loss = terms["mse"] + terms["rounding"] + terms["prior"] + config.cross_entropy_weight * terms["cross_entropy"]
        return DiffusionLMOutput(
            loss=loss, terms=terms, sample=output.sample, clean=output.clean, logits=output.logits
        )

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor) -> DiffusionLMOutput:
        """
        What [`~DiffusionLMModel.forward`] gives, with a prediction of its own to look at, in training for half of the
        texts alone (arXiv 2208.04202, section 2.2): a function of x_t and t.
        """
        if not self.config.self_conditioning:
            return self.denoise(sample, timestep)
        shown = torch.zeros_like(sample)
        half = len(sample) // 2 if self.training else len(sample)
        if half:
            with torch.no_grad():
                shown[:half] = self.denoise(sample[:half], timestep[:half]).clean
        return self.denoise(sample, timestep, shown)


def cross_entropy(logits: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    # In two dimensions, which it is several times faster in.
    return F.cross_entropy(logits.flatten(0, 1), input_ids.flatten(), reduction="none").view_as(input_ids)


AutoModel.register(DiffusionLMConfig, DiffusionLMModel, exist_ok=True)
