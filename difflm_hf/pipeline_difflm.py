"""Noise → latents → records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import diffusers
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from datasets import Dataset
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .denoiser import DiffLMDenoiser
from .modeling_difflm import DiffLMModel
from .processing_difflm import DiffLMProcessor
from .records import JSONCodec


OutputType = Literal["dict", "pandas", "dataset", "text"]
MAX_ATTEMPTS = 20  # rounds of sampling for JSON records before giving up


@dataclass
class DiffLMPipelineOutput(BaseOutput):
    """
    Output of [`DiffLMPipeline`].

    Args:
        records (`list[dict]`, `pandas.DataFrame`, `datasets.Dataset` or `list[str]`): The records.
    """

    records: list[dict[str, Any]] | pd.DataFrame | Dataset | list[str]


class DiffLMPipeline(DiffusionPipeline):
    """
    Generates records.

    Args:
        vae ([`DiffLMModel`]): Encoder, injection and causal LM.
        denoiser ([`DiffLMDenoiser`]): The network of the latent diffusion.
        scheduler ([`LatentEDMScheduler`] or any EDM scheduler of diffusers): The sampler of latents.
        processor ([`DiffLMProcessor`]): Records to ids and back.
        block_size (`int`, defaults to 1024):
            Records that are generated together, from a generator of their own. It is part of what a seed means.
    """

    model_cpu_offload_seq = "denoiser->vae"

    def __init__(
        self,
        vae: DiffLMModel,
        denoiser: DiffLMDenoiser,
        scheduler: SchedulerMixin,
        processor: DiffLMProcessor,
        block_size: int = 1024,
    ):
        super().__init__()
        self.register_modules(vae=vae, denoiser=denoiser, scheduler=scheduler, processor=processor)
        self.register_to_config(block_size=block_size)

    @torch.no_grad()
    def __call__(
        self,
        num_records: int = 1,
        num_inference_steps: int = 20,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        output_type: OutputType = "dict",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffLMPipeline, int, torch.Tensor, dict[str, Any]], dict] | None = None,
    ) -> DiffLMPipelineOutput | tuple:
        """
        Args:
            num_records (`int`, defaults to 1): Records to generate. There are never fewer.
            num_inference_steps (`int`, defaults to 20): Steps of the scheduler.
            temperature (`float`, defaults to 1.0): Of the causal LM; 0 is greedy.
            top_p (`float`, defaults to 1.0): The causal LM samples from the likeliest tokens of this total probability.
            batch_size (`int`, *optional*):
                Records that the causal LM writes at once; a whole block (`pipe.config.block_size`) when not given.
                Records do not depend on it.
            generator (`torch.Generator`, *optional*): For reproducible records.
            output_type (`str`, defaults to `"dict"`):
                `"dict"` (a list of dicts), `"pandas"`, `"dataset"` (`datasets.Dataset`) or `"text"` (a JSON object
                for each record).
            return_dict (`bool`, defaults to `True`): Whether to return a [`DiffLMPipelineOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, {"latents": latents})` after each step of the scheduler in
                each block; latents that it returns under `"latents"` take the place of the block's.

        Returns:
            [`DiffLMPipelineOutput`], or a tuple of the records.

        Raises:
            `ValueError`: for arguments out of range.
            `RuntimeError`: when a JSON decoder writes too few valid records.

        Example:

        ```python
        >>> pipe = DiffLMPipeline.from_pretrained("my-model")
        >>> table = pipe(1000, generator=torch.Generator().manual_seed(0), output_type="pandas").records
        ```
        """
        self.check_inputs(num_records, num_inference_steps, temperature, top_p, batch_size, output_type)
        # One number of the generator stands for all records: each block then has a generator of its own.
        seed = int(torch.randint(2**62, (), generator=generator))
        tables = []
        with self.progress_bar(total=num_records) as progress_bar:
            while (num_done := sum(map(len, tables))) < num_records:
                block = self.generate_block(
                    seed, len(tables), num_inference_steps, temperature, top_p, batch_size, callback_on_step_end
                )
                tables.append(block.iloc[: num_records - num_done])
                progress_bar.update(len(tables[-1]))
        records = self.format_records(pd.concat(tables, ignore_index=True), output_type)
        self.maybe_free_model_hooks()
        return DiffLMPipelineOutput(records) if return_dict else (records,)

    def check_inputs(
        self,
        num_records: int,
        num_inference_steps: int,
        temperature: float,
        top_p: float,
        batch_size: int | None,
        output_type: str,
    ) -> None:
        """Raises a `ValueError` for the first argument out of range."""
        for name, value in (
            ("num_records", num_records),
            ("num_inference_steps", num_inference_steps),
            ("batch_size", batch_size if batch_size is not None else 1),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not a positive integer")
        if temperature < 0:
            raise ValueError(f"temperature={temperature} is negative; 0 is greedy, 1 the model's own distribution")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p} is not in (0, 1]")
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type={output_type!r} is not one of {', '.join(map(repr, get_args(OutputType)))}")

    def generate_block(
        self,
        seed: int,
        block: int,
        num_inference_steps: int = 20,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> pd.DataFrame:
        """
        Generates block number `block` of a seed: `block_size` records that depend on nothing else.

        Returns:
            `pandas.DataFrame` of `block_size` records.
        """
        size = self.config.block_size
        tables: list[pd.DataFrame] = []
        for attempt in range(MAX_ATTEMPTS):
            generator = torch.Generator().manual_seed(_mix(seed, block, attempt))
            latents = self.generate_latents(size, num_inference_steps, generator, callback_on_step_end)
            length = self.vae.config.max_record_length - 1
            uniforms = torch.rand(size, length, generator=generator)
            remainders = torch.rand(size, self.processor.num_remainders, generator=generator, dtype=torch.float64)
            table, _ = self.decode_latents(latents, uniforms, remainders, temperature, top_p, batch_size)
            tables.append(table)
            if (num_valid := sum(map(len, tables))) >= size:
                return pd.concat(tables, ignore_index=True).iloc[:size]
        raise RuntimeError(
            f"only {num_valid} of {MAX_ATTEMPTS * size} texts were valid records; train longer, or lower the temperature"
        )

    def generate_latents(
        self,
        num_latents: int,
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> torch.Tensor:
        """
        Samples latents z from the denoiser.

        Returns:
            `torch.Tensor` of shape `(num_latents, latent_size)`.
        """
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps, device=self.device)
        shape = (num_latents, self.denoiser.config.latent_size)
        latents = randn_tensor(shape, generator=generator, device=self.device) * scheduler.init_noise_sigma
        for step, timestep in enumerate(scheduler.timesteps):
            inputs = scheduler.scale_model_input(latents, timestep).to(self.denoiser.dtype)
            output = self.denoiser(inputs, timestep).float()
            latents = scheduler.step(output, timestep, latents, generator=generator).prev_sample
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, step, timestep, {"latents": latents}).get("latents", latents)
        return self.denoiser.denormalize_latents(latents).to(self.vae.dtype)

    def decode_latents(
        self,
        latents: torch.Tensor,
        uniforms: torch.Tensor,
        remainders: torch.Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Lets the causal LM write a record for each latent.

        Args:
            latents (`torch.Tensor` of shape `(num_latents, latent_size)`): Latents z.
            uniforms (`torch.Tensor` of shape `(num_latents, max_record_length - 1)`): Random numbers that choose ids.
            remainders (`torch.Tensor` of shape `(num_latents, num_remainders)`): And those that place numbers in steps.
            temperature, top_p, batch_size: As in the call.

        Returns:
            The valid records, and a mask of shape `(num_latents,)` that says which they are.
        """
        batches = [
            self.vae.decoder.sample_records(z, u, temperature, top_p)
            for z, u in zip(latents.split(batch_size or len(latents)), uniforms.split(batch_size or len(latents)))
        ]
        length = max(batch.shape[1] for batch in batches)
        pad_id = self.processor.special_ids[2]
        ids = torch.cat([F.pad(batch, (0, length - batch.shape[1]), value=pad_id) for batch in batches])
        return self.processor.decode_records(ids.cpu().numpy(), remainders.numpy())

    def format_records(self, table: pd.DataFrame, output_type: OutputType) -> Any:
        """A table of records as `output_type` says."""
        if output_type == "pandas":
            return table
        if output_type == "dataset":
            return Dataset.from_pandas(table, preserve_index=False)
        texts = JSONCodec(self.processor.schema).encode(table)
        return texts if output_type == "text" else [json.loads(text) for text in texts]


def _mix(*numbers: int) -> int:
    """One 64-bit seed from several numbers, none of which can be guessed from another's."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


# `DiffusionPipeline.from_pretrained` looks for the class that model_index.json names in diffusers itself.
diffusers.DiffLMPipeline = DiffLMPipeline
