"""Noise → latents → records."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetInfo
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import CommitInfo, ModelCard
from torch.profiler import record_function
from tqdm.auto import tqdm
from transformers import AutoConfig

from .configuration_difflm import DiffLMPipelineConfig
from .denoiser import DiffLMDenoiser
from .hub.loading import load_vae_with_base, pipeline_folder
from .hub.publishing import push_pipeline
from .modeling_difflm import DiffLMModel
from .processing_difflm import DiffLMProcessor
from .records import JSONCodec, TextCodec
from .scheduling_latent_edm import LatentEDMScheduler
from .utils import map_in_threads


OutputType = Literal["dict", "pandas", "dataset", "text"]
# What the causal LM writes at once, unless the caller says otherwise: activations of more records leave the caches of
# processors, and more tokens take much memory.
BATCH_SIZE, BATCH_TOKENS = 2048, 2**19
MAX_ATTEMPTS = 20  # rounds of sampling documents before giving up


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
        training (`dict`, *optional*): What training recorded, for the model card.
    """

    def __init__(
        self,
        vae: DiffLMModel,
        denoiser: DiffLMDenoiser,
        scheduler: SchedulerMixin,
        processor: DiffLMProcessor,
        block_size: int = 1024,
        training: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.register_modules(vae=vae, denoiser=denoiser, scheduler=scheduler, processor=processor)
        self.register_to_config(block_size=block_size, training=training)
        self.revision: str | None = None  # the commit, of a pipeline that comes from the Hub

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        base_model: str | os.PathLike | None = None,
        **kwargs,
    ) -> DiffLMPipeline:
        """
        Loads a pipeline from a folder or the Hub, after a look at its files.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): A folder, or a Hub id.
            base_model (`str` or `Path`, *optional*):
                A copy of the frozen base LM, in place of the one that the checkpoint names.
            kwargs (*optional*):
                Those of `DiffusionPipeline.from_pretrained`: `revision`, `token`, `cache_dir`, `local_files_only`,
                `dtype`, `device_map`, components to put in the place of saved ones, and so on.

        Raises:
            `OSError`: when there is no such pipeline, or a file of it is missing or damaged. The message names it.
            `ValueError`: when `base_model` is another than the one that the checkpoint was trained with.
        """
        register_components()
        name = os.fspath(pretrained_model_name_or_path)
        kwargs.setdefault("use_safetensors", True)
        folder = pipeline_folder(name, cls.download, **kwargs)
        if "vae" not in kwargs:
            kwargs |= load_vae_with_base(folder, base_model, kwargs)
        elif base_model is not None:
            raise ValueError("base_model and vae exclude each other: load the vae with that base_model")
        pipe = super().from_pretrained(folder, **kwargs)
        pipe.register_to_config(_name_or_path=name)
        # A snapshot of the Hub has its commit for a name.
        pipe.revision = None if os.path.isdir(name) else folder.name
        return pipe

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        config = super()._dict_from_json_file(json_file)
        # A repository that carries code names a module of its own; this class needs none.
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        return config

    def register_to_config(self, **kwargs) -> None:
        # diffusers would name the module of a component, and look for it in the repository.
        names = {(cls.__module__, cls.__name__): (lib, cls.__name__) for cls, lib in LIBRARIES.items()}
        super().register_to_config(**{k: names.get(v, v) if isinstance(v, tuple) else v for k, v in kwargs.items()})

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *,
        include_base_weights: bool = False,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        max_shard_size: int | str | None = None,
        **kwargs,
    ) -> None:
        """
        Saves the pipeline in a folder.

        Args:
            save_directory (`str` or `Path`): The folder.
            include_base_weights (`bool`, defaults to `False`):
                Save the weights of a frozen base LM too, rather than its name and commit.
            push_to_hub (`bool`, defaults to `False`): Then push, by `kwargs` of [`DiffLMPipeline.push_to_hub`].
            repo_id (`str`, *optional*): Where to; the name of the folder if not given.
            max_shard_size (`int` or `str`, *optional*): Bytes of a file of weights.
            kwargs (*optional*): Those of `DiffusionPipeline.save_pretrained`.
        """
        sizes = {"include_base_weights": include_base_weights, "max_shard_size": max_shard_size}
        if push_to_hub:
            self.save_pretrained(save_directory, **sizes)
            self.push_to_hub(repo_id or Path(save_directory).absolute().name, **sizes, **kwargs)
            return
        name = self.name_or_path
        self.register_to_config(_name_or_path="")  # a path of this machine says nothing elsewhere
        try:
            with self.vae.with_base_weights() if include_base_weights else nullcontext():
                super().save_pretrained(save_directory, max_shard_size=max_shard_size, **kwargs)
        finally:
            self.register_to_config(_name_or_path=name)
        DiffLMPipelineConfig(architectures=[type(self).__name__]).save_pretrained(save_directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | os.PathLike | ModelCard | None = None,
        evaluation: str | os.PathLike | None = None,
        license: str | None = None,
        datasets: Sequence[str] = (),
        language: str | Sequence[str] | None = None,
        tags: Sequence[str] = (),
        include_data_plots: bool = False,
        include_code: bool = False,
        include_base_weights: bool = False,
        allow_rare_categories: bool = False,
        max_shard_size: int | str | None = None,
        **kwargs,
    ) -> CommitInfo:
        """
        Makes the pipeline and its card one commit of a repository of the Hub, in place of what is there.

        Args:
            repo_id (`str`): The repository, `"name"` or `"namespace/name"`; created where it does not exist.
            card (`ModelCard`, `str` or `Path`, *optional*): A card, or its file, in place of a generated one.
            evaluation (`str` or `Path`, *optional*): A folder of `difflm evaluate`, for the figures in the card.
            license (`str`, *optional*): The Hub's identifier of the licence of the weights.
            datasets, language, tags, include_data_plots (*optional*): As [`~difflm_hf.hub.cards.model_card`] has them.
            include_code (`bool`, defaults to `False`):
                Push the code too: where `difflm_hf` is not installed, the model then loads with
                `trust_remote_code=True`.
            include_base_weights (`bool`, defaults to `False`):
                Push the weights of a frozen base LM too, rather than its name and commit.
            allow_rare_categories (`bool`, defaults to `False`):
                Publish the names of categories of fewer than 10 records, and all of the vocabulary of texts.
            max_shard_size (`int` or `str`, *optional*): Bytes of a file of weights.
            kwargs (*optional*):
                `private`, `token`, `revision`, `create_pr`, `commit_message` and `commit_description` of
                [`~difflm_hf.hub.upload.commit_files`].

        Returns:
            `CommitInfo`.

        Raises:
            `ValueError`: for what may not be published, before anything is sent.
            `HfHubHTTPError`, `ConnectionError`: when the Hub refuses, or is out of reach. The message says what to do.
        """
        return push_pipeline(
            self,
            repo_id,
            card=card,
            evaluation=evaluation,
            license=license,
            datasets=datasets,
            language=language,
            tags=tags,
            include_data_plots=include_data_plots,
            include_code=include_code,
            include_base_weights=include_base_weights,
            allow_rare_categories=allow_rare_categories,
            max_shard_size=max_shard_size,
            **kwargs,
        )

    @torch.no_grad()
    def __call__(
        self,
        num_records: int = 1,
        num_inference_steps: int = 12,
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
            num_inference_steps (`int`, defaults to 12): Steps of the scheduler.
            temperature (`float`, defaults to 1.0): Of the causal LM; 0 is greedy.
            top_p (`float`, defaults to 1.0): Share of the probability, likeliest tokens first, to sample from.
            batch_size (`int`, *optional*):
                Records that the causal LM writes at once; 2,048, or fewer if they are long, when not given. Records do
                not depend on it.
            generator (`torch.Generator`, *optional*): For reproducible records.
            output_type (`str`, defaults to `"dict"`):
                `"dict"` (a list of dicts), `"pandas"`, `"dataset"` (`datasets.Dataset`) or `"text"` (a JSON object
                for each record, or the text that it is).
            return_dict (`bool`, defaults to `True`): Whether to return a [`DiffLMPipelineOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, {"latents": latents})` after each step of the scheduler in
                each block; latents that it returns under `"latents"` take the place of the block's.

        Returns:
            [`DiffLMPipelineOutput`], or a tuple of the records.

        Raises:
            `ValueError`: for arguments out of range.
            `RuntimeError`: when a decoder of documents writes too few valid records.

        Example:

        ```python
        >>> pipe = DiffLMPipeline.from_pretrained("my-model")
        >>> table = pipe(1000, generator=torch.Generator().manual_seed(0), output_type="pandas").records
        ```
        """
        self.check_inputs(num_records, num_inference_steps, temperature, top_p, batch_size, output_type)
        sampling = (num_inference_steps, temperature, top_p, batch_size, callback_on_step_end)
        with self.progress_bar(total=num_records) as progress_bar:
            tables = list(self._generate_blocks(_draw_seed(generator), 0, num_records, sampling, progress_bar))
        records = self.format_records(pd.concat(tables, ignore_index=True), output_type)
        return DiffLMPipelineOutput(records) if return_dict else (records,)

    @torch.no_grad()
    def stream(
        self,
        num_records: int,
        num_inference_steps: int = 12,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        first_block: int = 0,
    ) -> Iterator[pa.RecordBatch]:
        """
        Generates records block by block, in memory that does not depend on their number.

        The records are those of a call with the same arguments.

        Args:
            num_records (`int`): Records to generate.
            num_inference_steps, temperature, top_p, batch_size, generator: As in the call.
            first_block (`int`, defaults to 0):
                The block to begin with: `first_block * pipe.config.block_size` records are passed over, and not
                computed.

        Yields:
            `pyarrow.RecordBatch`: A block of `pipe.config.block_size` records, the last one perhaps of fewer, all with
            the schema `pipe.processor.schema.to_arrow()`.

        Raises:
            `ValueError`, `RuntimeError`: As in the call.

        Example:

        ```python
        >>> for batch in pipe.stream(10_000_000, generator=torch.Generator().manual_seed(0)):
        ...     writer.write_batch(batch)
        ```
        """
        self.check_inputs(num_records, num_inference_steps, temperature, top_p, batch_size, "pandas")
        sampling = (num_inference_steps, temperature, top_p, batch_size, None)
        schema = self.processor.schema
        with self.progress_bar(total=num_records) as progress_bar:
            for table in self._generate_blocks(
                _draw_seed(generator), first_block, num_records, sampling, progress_bar
            ):
                yield schema.to_record_batch(table)

    def _generate_blocks(
        self, seed: int, first_block: int, num_records: int, sampling: tuple, progress_bar: tqdm
    ) -> Iterator[pd.DataFrame]:
        """The blocks of a seed from `first_block` on, up to `num_records` records from there."""

        def generate(start: int) -> pd.DataFrame:
            size = min(num_records - start, self.config.block_size)
            block = first_block + start // self.config.block_size
            return self.generate_block(seed, block, *sampling, num_records=size)

        starts = range(0, num_records, self.config.block_size)
        # The products of a small model on a CPU are too small to share among threads; whole blocks are not.
        *_, callback = sampling
        has_own_threads = self.device.type == "cpu" and self.processor.is_compact and callback is None
        for table in map_in_threads(generate, starts) if has_own_threads else map(generate, starts):
            yield table
            progress_bar.update(len(table))

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
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}={value!r} is not a positive integer")
        if temperature < 0:
            raise ValueError(f"temperature={temperature} is negative; 0 is greedy, 1 the model's own distribution")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p} is not in (0, 1]")
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type={output_type!r} is not one of {', '.join(map(repr, get_args(OutputType)))}")

    @torch.no_grad()
    def generate_block(
        self,
        seed: int,
        block: int,
        num_inference_steps: int = 12,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        callback_on_step_end: Callable | None = None,
        num_records: int | None = None,
    ) -> pd.DataFrame:
        """
        Generates block number `block` of a seed: `block_size` records, or the first `num_records` of them. Batches of
        `batch_size` that are not needed for these are not decoded.

        Returns:
            `pandas.DataFrame` of the records.
        """
        size = self.config.block_size
        num_records = size if num_records is None else num_records
        batch_size = batch_size or max(1, min(BATCH_SIZE, BATCH_TOKENS // self.vae.config.max_record_length))
        tables: list[pd.DataFrame] = []
        for attempt in range(MAX_ATTEMPTS):
            generator = torch.Generator().manual_seed(_mix(seed, block, attempt))
            with record_function("difflm::latents"):
                latents = self.generate_latents(size, num_inference_steps, generator, callback_on_step_end)
            length = self.vae.config.max_record_length - 1
            uniforms = torch.rand(size, length, generator=generator)
            within_bin_offsets = torch.rand(size, self.processor.num_offsets, generator=generator, dtype=torch.float64)
            for batch in zip(*(t.split(batch_size) for t in (latents, uniforms, within_bin_offsets))):
                tables.append(self.decode_latents(*batch, temperature, top_p)[0])
                if (num_valid := sum(map(len, tables))) >= num_records:
                    return pd.concat(tables, ignore_index=True).iloc[:num_records]
        raise RuntimeError(
            f"only {num_valid} of {MAX_ATTEMPTS * size} texts were valid records, and the others not, or without end; "
            "train longer, or lower the temperature"
        )

    def generate_latents(
        self,
        num_latents: int,
        num_inference_steps: int = 12,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> torch.Tensor:
        """
        Samples latents z from the denoiser.

        Returns:
            `torch.Tensor` of shape `(num_latents, latent_size)`.
        """
        # A schedule of its own for each block, as blocks run side by side; callbacks, for which they do not, see it.
        scheduler = self.scheduler if callback_on_step_end is not None else copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(num_inference_steps, device=self.device)
        shape = (num_latents, self.denoiser.config.latent_size)
        latents = randn_tensor(shape, generator=generator, device=self.device) * scheduler.init_noise_sigma
        for step, timestep in enumerate(scheduler.timesteps):
            output = self.denoiser(scheduler.scale_model_input(latents, timestep), timestep)
            latents = scheduler.step(output, timestep, latents, generator=generator).prev_sample
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, step, timestep, {"latents": latents}).get("latents", latents)
        return self.denoiser.denormalize_latents(latents).to(self.vae.dtype)

    def decode_latents(
        self,
        latents: torch.Tensor,
        uniforms: torch.Tensor,
        within_bin_offsets: torch.Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Lets the causal LM write a record for each latent.

        Args:
            latents (`torch.Tensor` of shape `(num_latents, latent_size)`): Latents z.
            uniforms (`torch.Tensor` of shape `(num_latents, max_record_length - 1)`): Random numbers that choose ids.
            within_bin_offsets (`torch.Tensor` of shape `(num_latents, num_offsets)`): And those inside the steps.
            temperature, top_p, batch_size: As in the call.

        Returns:
            The valid records, and a mask of shape `(num_latents,)` that says which they are.
        """
        batches = [
            self.vae.decoder.sample_records(z, u, temperature, top_p, self.processor.grammar)
            for z, u in zip(latents.split(batch_size or len(latents)), uniforms.split(batch_size or len(latents)))
        ]
        length = max(batch.shape[1] for batch in batches)
        pad_id = self.processor.special_ids[2]
        ids = torch.cat([F.pad(batch, (0, length - batch.shape[1]), value=pad_id) for batch in batches])
        with record_function("difflm::records"):
            return self.processor.decode_records(ids.cpu().numpy(), within_bin_offsets.numpy())

    def format_records(self, table: pd.DataFrame, output_type: OutputType) -> Any:
        """A table of records as `output_type` says."""
        if output_type == "pandas":
            return table
        if output_type == "dataset":
            schema = self.processor.schema
            data = pa.Table.from_batches([schema.to_record_batch(table)])
            return Dataset(data, DatasetInfo(features=schema.to_features()))
        if output_type == "text" and isinstance(self.processor.codec, TextCodec):
            return self.processor.codec.encode(table)
        texts = JSONCodec(self.processor.schema).encode(table)
        return texts if output_type == "text" else [json.loads(text) for text in texts]


def _draw_seed(generator: torch.Generator | None) -> int:
    """One number that stands for all records of a call: each block then has a generator of its own."""
    return int(torch.randint(2**62, (), generator=generator, device=None if generator is None else generator.device))


def _mix(*numbers: int) -> int:
    """One 64-bit seed from several numbers, none of which can be guessed from another's."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


LIBRARIES = {  # in which `DiffusionPipeline.from_pretrained` looks for the classes that model_index.json names
    DiffLMPipeline: "diffusers",
    DiffLMModel: "transformers",
    DiffLMDenoiser: "diffusers",
    LatentEDMScheduler: "diffusers",
    DiffLMProcessor: "transformers",
}


def register_components() -> None:
    """Makes the classes of this module, and not of another copy of it, those that model_index.json names."""
    for cls, library in LIBRARIES.items():
        # Imported here: transformers puts another module object in its place while it is being imported.
        setattr(import_module(library), cls.__name__, cls)


register_components()
AutoConfig.register(DiffLMPipelineConfig.model_type, DiffLMPipelineConfig, exist_ok=True)
