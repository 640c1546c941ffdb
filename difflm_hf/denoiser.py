"""The network F of the latent diffusion."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

from .float32_buffers import Float32Buffers
from .hub.mixin import PushToHubMixin


class ResidualBlock(nn.Module):
    """Two linear layers around an activation, on top of a layer norm that the timestep scales and shifts."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, hidden: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(temb).chunk(2, dim=-1)
        return hidden + self.layers(torch.addcmul(shift, self.norm(hidden), 1 + scale))


class AttentionBlock(nn.Module):
    """Self-attention among the latent's dimensions, then a [`ResidualBlock`] for each."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.mlp = ResidualBlock(width)

    def forward(self, hidden: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        normed = self.norm(hidden)
        hidden = hidden + self.attention(normed, normed, normed, need_weights=False)[0]
        return self.mlp(hidden, temb)


class DiffLMDenoiser(Float32Buffers, PushToHubMixin, ModelMixin, ConfigMixin):
    """
    F(c_in x; c_noise) of EDM (arXiv 2206.00364, eq. 7), on latents whose mean and deviation it also keeps, in float32.

    Args:
        latent_size (`int`, defaults to 8): Dimension of the latents.
        architecture (`str`, defaults to `"mlp"`):
            `"mlp"`, or `"transformer"`, which takes each dimension of the latent as a token.
        width (`int`, defaults to 256): Hidden size.
        num_layers (`int`, defaults to 4): Residual blocks.
        num_heads (`int`, defaults to 4): Attention heads of the transformer.
        condition_size (`int`, defaults to 0): Size of the vector that says what is known of a record, or 0.
        training_id (`str`, *optional*): What all components of one training carry.
    """

    _keep_in_fp32_modules = ["latent_mean", "latent_std"]  # in loading

    @register_to_config
    def __init__(
        self,
        latent_size: int = 8,
        architecture: str = "mlp",
        width: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        condition_size: int = 0,
        training_id: str | None = None,
    ):
        super().__init__()
        if architecture not in ("mlp", "transformer"):
            raise ValueError(f"architecture={architecture!r} is neither 'mlp' nor 'transformer'")
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1000.0)
        self.time_embedding = TimestepEmbedding(width, width)
        if condition_size:
            self.condition_embedding = TimestepEmbedding(condition_size, width)
        if architecture == "mlp":
            self.proj_in = nn.Linear(latent_size, width)
            self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(num_layers))
            self.proj_out = nn.Linear(width, latent_size)
        else:
            self.proj_in = nn.Linear(1, width)
            self.position_embedding = nn.Parameter(torch.randn(latent_size, width) * 0.02)
            self.blocks = nn.ModuleList(AttentionBlock(width, num_heads) for _ in range(num_layers))
            self.proj_out = nn.Linear(width, 1)
        # The network starts as F = 0, which EDM's preconditioning turns into the best linear denoiser.
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)
        self.register_buffer("latent_mean", torch.zeros(latent_size, dtype=torch.float32))
        self.register_buffer("latent_std", torch.ones(latent_size, dtype=torch.float32))

    @classmethod
    def from_pretrained(cls, *args, low_cpu_mem_usage: bool | None = None, **kwargs) -> DiffLMDenoiser:
        """As `ModelMixin.from_pretrained`, whatever `low_cpu_mem_usage`: the model is small."""
        # For a model with parts that stay in float32, diffusers refuses False.
        return super().from_pretrained(*args, **kwargs)

    def save_config(self, *args, **kwargs) -> None:
        name = self.config.get("_name_or_path", "")
        self.register_to_config(_name_or_path="")  # a path of this machine says nothing elsewhere
        try:
            super().save_config(*args, **kwargs)
        finally:
            self.register_to_config(_name_or_path=name)

    def normalize_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents z, of shape `(batch_size, latent_size)`, on the scale of the diffusion, in float32."""
        return (latents - self.latent_mean) / self.latent_std

    def denormalize_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalize_latents`, in float32."""
        return latents * self.latent_std + self.latent_mean

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor | float, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            sample (`torch.Tensor` of shape `(batch_size, latent_size)`): Noisy latents times c_in.
            timestep (`torch.Tensor` of shape `()` or `(batch_size,)`): c_noise = ln(σ) / 4.
            condition (`torch.Tensor` of shape `(batch_size, condition_size)`, *optional*):
                What is known, as [`KnownFields`] says it; nothing when not given.

        Returns:
            `torch.Tensor` of shape `(batch_size, latent_size)`, in the dtype of `sample`.
        """
        timestep = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        hidden = sample.to(self.proj_in.weight.dtype)
        # One timestep for all needs one embedding only: it broadcasts.
        temb = self.time_embedding(self.time_proj(timestep).to(hidden.dtype))
        if self.config.condition_size:
            nothing = hidden.new_zeros(1, self.config.condition_size)
            known = self.condition_embedding(nothing if condition is None else condition.to(hidden.dtype))
            temb = temb + known
        temb = nn.functional.silu(temb)
        if self.config.architecture == "mlp":
            hidden = self.proj_in(hidden)
            if self.config.condition_size:
                hidden = hidden + known
        else:
            hidden = self.proj_in(hidden[..., None]) + self.position_embedding
            temb = temb[:, None]
        for block in self.blocks:
            hidden = block(hidden, temb)
        output = self.proj_out(hidden)
        return output.reshape(sample.shape).to(sample.dtype)
