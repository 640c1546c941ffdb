"""Noise → latents → records."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin
from huggingface_hub import CommitInfo, ModelCard
from torch.profiler import record_function
from transformers import AutoConfig

from .blocks import BlockwisePipeline, DiffLMPipelineOutput, OutputType
from .checks import check_positive
from .configuration_difflm import DiffLMPipelineConfig
from .control.balance import Shares
from .control.conditions import Conditions
from .control.given_records import GivenRecordsMixin
from .control.guidance import Guidance, Guide
from .control.imputation import ImputationMixin
from .control.score import Score
from .denoiser import DiffLMDenoiser
from .denoising import DenoisingMixin
from .hub.components import ComponentsMixin, register_components
from .hub.damage import check_weights, explain_damage
from .hub.loading import check_fit, load_vae_with_base, pipeline_folder, try_components
from .hub.publishing import push_pipeline
from .modeling_difflm import DiffLMModel
from .processing_difflm import DiffLMProcessor
from .records.grammar import Grammar
from .scheduling_latent_edm import LatentEDMScheduler
from .utils import default_dtype, onload


# What the causal LM writes at once, unless the caller says otherwise: activations of more records leave the caches of
# processors, and more tokens of texts take much memory.
BATCH_SIZE, BATCH_TOKENS = 2048, 2**19


MODELS = {"vae": DiffLMModel, "denoiser": DiffLMDenoiser}


class DiffLMPipeline(ComponentsMixin, DenoisingMixin, GivenRecordsMixin, ImputationMixin, BlockwisePipeline):
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

    model_cpu_offload_seq = "denoiser->vae"

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
        check_positive(block_size=block_size)
        check_fit(vae, denoiser, processor)
        self.register_modules(vae=vae, denoiser=denoiser, scheduler=scheduler, processor=processor)
        self.register_to_config(block_size=block_size, training=training)
        self.revision: str | None = None  # the commit, of a pipeline that comes from the Hub

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        base_model: str | os.PathLike | None = None,
        attn_implementation: str | None = None,
        **kwargs,
    ) -> DiffLMPipeline:
        """
        Loads a pipeline from a folder or the Hub, after a look at its files.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): A folder, or a Hub id.
            base_model (`str` or `Path`, *optional*):
                A copy of the frozen base LM, in place of the one that the checkpoint names.
            attn_implementation (`str`, *optional*):
                How the base LM computes attention: `"eager"`, `"sdpa"` or `"flash_attention_2"`.
            kwargs (*optional*):
                Those of `DiffusionPipeline.from_pretrained`: `revision`, `token`, `cache_dir`, `local_files_only`,
                `device_map`, `trust_remote_code` (for the base LM, too), components to put in the place of saved ones,
                and so on. `dtype` defaults to the fastest that this machine generates in: bfloat16 where it computes
                in that, else float32.

        Raises:
            `OSError`: when there is no such pipeline, or a file of it is missing or damaged. The message names it.
            `ValueError`: when `base_model` is another than the one that the checkpoint was trained with, or
                `attn_implementation` is given and there is no base LM.
        """
        register_components(cls.libraries)
        name = os.fspath(pretrained_model_name_or_path)
        kwargs.setdefault("use_safetensors", True)
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = default_dtype()
        folder = pipeline_folder(name, cls.download, MODELS, **kwargs)
        for argument, value in (("base_model", base_model), ("attn_implementation", attn_implementation)):
            if "vae" in kwargs and value is not None:
                raise ValueError(f"{argument} and vae exclude each other: load the vae with that {argument}")
        given = set(kwargs)
        with explain_damage(folder):
            if "vae" not in kwargs:
                kwargs |= load_vae_with_base(folder, base_model, attn_implementation, kwargs)
            pipe = super().from_pretrained(folder, **kwargs)
        for component in MODELS.keys() - given:
            check_weights(folder / component, getattr(pipe, component))
        if "device_map" not in kwargs:
            with explain_damage(folder):
                try_components(pipe)
        pipe.register_to_config(_name_or_path=name)
        # A snapshot of the Hub has its commit for a name.
        pipe.revision = None if os.path.isdir(name) else folder.name
        return pipe

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
        nameless = copy.copy(self)  # others may read the name of this one meanwhile
        nameless.register_to_config(_name_or_path="")  # a path of this machine says nothing elsewhere
        with self.vae.with_base_weights() if include_base_weights else nullcontext():
            super(DiffLMPipeline, nameless).save_pretrained(save_directory, max_shard_size=max_shard_size, **kwargs)
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
                Publish the categories, and the numbers that are listed one by one, of fewer than 10 records, and all
                of the vocabulary of texts.
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
        num_records: int | None = None,
        num_inference_steps: int = 12,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        conditions: Conditions | None = None,
        where: str | None = None,
        balance: Shares | None = None,
        score: Score | None = None,
        guidance_scale: float = 1.0,
        guides: Sequence[Guide] = (),
        output_type: OutputType = "dict",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffLMPipeline, int, torch.Tensor, dict[str, Any]], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> DiffLMPipelineOutput | tuple:
        """
        Args:
            num_records (`int`, *optional*):
                Records to generate; there are never fewer. Defaults to 1, or to one for each of conditions that are a
                list or a table, or of a list of generators.
            num_inference_steps (`int`, defaults to 12): Steps of the scheduler.
            temperature (`float`, defaults to 1.0): Of the causal LM; 0 is greedy.
            top_p (`float`, defaults to 1.0): Share of the probability, likeliest tokens first, to sample from.
            batch_size (`int`, *optional*):
                Records that the causal LM writes at once; 2,048 when not given, of records with lists 4,096, or fewer
                if they are long. Records do not depend on it.
            generator (`torch.Generator` or a list of them, *optional*):
                For reproducible records. Of a list each gives one record, the one that a call with it alone gives.
            conditions (`dict`, list of `dict`, or `pandas.DataFrame`, *optional*):
                What all records satisfy, by field: a value, a list of values, `None` for null, or a predicate of
                [`difflm_hf.control`]: `{"income": ">50K", "age": Between(30, 40)}`. A list has such a dict for each
                record, and a table a row for each, whose gaps are filled. Of documents, `"address.city"` and nested
                dicts name what is inside fields.
            where (`str`, *optional*):
                The same as an expression in pandas' syntax: `"income == '>50K' and 30 <= age <= 40"`, which may also
                relate fields to each other.
            balance (`str` or `dict`, *optional*):
                A category whose values are to be equally frequent, or shares of the values of fields:
                `{"sex": {"Female": 0.5, "Male": 0.5}}`.
            score (`Callable`, *optional*):
                A function of records, of rows a `pandas.DataFrame`, of documents a list of dicts. It gives an array
                of shape `(num_records,)`: a bool for each, and only those come out that have `True`; or the logarithm
                of a weight, in proportion to which records are chosen, and none of weight −∞. Of documents, one of
                each 16 is chosen. It is to look at each record for itself.
            guidance_scale (`float`, defaults to 1.0):
                How far latents follow what is known exactly, by classifier-free guidance (arXiv 2207.12598): 1 is the
                model's distribution, more exaggerates.
            guides (`Sequence` of [`~difflm_hf.control.Guide`], defaults to none):
                Scores of latents whose gradients steer them, of rows of tables.
            output_type (`str`, defaults to `"dict"`):
                `"dict"` (a list of dicts), `"pandas"`, `"dataset"` (`datasets.Dataset`) or `"text"` (a JSON object
                for each record, or the text that it is).
            return_dict (`bool`, defaults to `True`): Whether to return a [`DiffLMPipelineOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, {"latents": latents})` after each step of the scheduler in
                each block; latents that it returns under `"latents"` take the place of the block's. One that sets
                `pipe._interrupt = True` leaves out the steps that are left of the block.
            callback_on_step_end_tensor_inputs (`Sequence[str]`, defaults to `("latents",)`):
                Which tensors it gets: `"latents"`, and `"clean"`, the step's prediction of latents without noise; both
                of shape `(num_latents, latent_size)`, and scaled as the denoiser has them.

        Returns:
            [`DiffLMPipelineOutput`], or a tuple of the records.

        Raises:
            `ValueError`: for arguments out of range, and for conditions that no record can satisfy.
            `RuntimeError`: when conditions turn out too rare, or a decoder of documents writes too few valid records.

        Example:

        ```python
        >>> pipe = DiffLMPipeline.from_pretrained("my-model")
        >>> table = pipe(1000, generator=torch.Generator().manual_seed(0), output_type="pandas").records
        ```
        """
        guides = Guidance(scale=guidance_scale, guides=guides).guides  # which says what is wrong with them
        condition = self.make_condition(conditions, where, balance, num_records, guides, score)
        num_records = self._num_records(num_records, condition, generator)
        self.check_inputs(num_records, num_inference_steps, temperature, top_p, batch_size, output_type)
        sampling = {
            "num_inference_steps": num_inference_steps,
            "temperature": temperature,
            "top_p": top_p,
            "batch_size": batch_size,
            "callback_on_step_end": callback_on_step_end,
            "callback_on_step_end_tensor_inputs": callback_on_step_end_tensor_inputs,
            "condition": condition,
            "guidance_scale": guidance_scale,
            "guides": guides,
        }
        table = pd.concat(self._generate_blocks(num_records, sampling, generator), ignore_index=True)
        records = self.format_records(table, output_type)
        return DiffLMPipelineOutput(records) if return_dict else (records,)

    @property
    def default_batch_size(self) -> int:
        config = self.vae.config
        if self.processor.codec.levels:  # a step of lists that few records have takes as long for twice as many
            return 2 * BATCH_SIZE
        if config.position_ranges is not None and config.num_texts == 0:
            return BATCH_SIZE
        return max(1, min(BATCH_SIZE, BATCH_TOKENS // config.max_record_length))

    def generate_batches(
        self,
        num_needed: int,
        generator: torch.Generator,
        num_inference_steps: int,
        temperature: float,
        top_p: float,
        batch_size: int,
        callback_on_step_end: Callable | None,
        grammar: Grammar | None = None,
    ) -> Iterator[pd.DataFrame]:
        size, length = self.config.block_size, self.vae.config.num_uniforms
        is_always_valid = self.processor.codec.has_fixed_layout and not self.processor.schema.rules
        num = num_needed if is_always_valid else size
        with record_function("difflm::latents"):
            places = slice(num)
            latents = self.generate_latents(size, num_inference_steps, generator, callback_on_step_end, places)
        uniforms = torch.rand(size, length, generator=generator)[:num]
        offsets = torch.rand(size, self.processor.num_offsets, generator=generator, dtype=torch.float64)[:num]
        for batch in zip(*(t.split(batch_size) for t in (latents, uniforms, offsets))):
            yield self.decode_latents(*batch, temperature, top_p, grammar=grammar)[0]

    def decode_latents(
        self,
        latents: torch.Tensor,
        uniforms: torch.Tensor,
        within_bin_offsets: torch.Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int | None = None,
        grammar: Grammar | None = None,
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """
        Lets the causal LM write a record for each latent.

        Args:
            latents (`torch.Tensor` of shape `(num_latents, latent_size)`): Latents z, on any device.
            uniforms (`torch.Tensor` of shape `(num_latents, num_uniforms)`): Random numbers that choose ids.
            within_bin_offsets (`torch.Tensor` of shape `(num_latents, num_offsets)`): And those inside the steps.
            temperature, top_p, batch_size: As in the call.
            grammar ([`~difflm_hf.records.grammar.Grammar`], *optional*):
                What documents are written by, in place of that of the processor.

        Returns:
            The records that are valid and keep the rules of the schema, and a mask of shape `(num_latents,)` that says
            which they are.
        """
        latents = latents.to(onload(self.vae).decoder.device)
        batches = [
            self.vae.decoder.sample_records(z, u, temperature, top_p, grammar or self.processor.grammar)
            for z, u in zip(latents.split(batch_size or len(latents)), uniforms.split(batch_size or len(latents)))
        ]
        if len(batches) > 1:
            length, pad_id = max(batch.shape[1] for batch in batches), self.processor.special_ids[2]
            batches = [torch.cat([F.pad(b, (0, length - b.shape[1]), value=pad_id) for b in batches])]
        [ids] = batches
        with record_function("difflm::records"):
            table, is_valid = self.processor.decode_records(ids.cpu().numpy(), within_bin_offsets.numpy())
            schema = self.processor.schema
            if schema.rules:
                table = schema.derive(table)
                holds = schema.holds(table)
                table, is_valid[is_valid] = table[holds].reset_index(drop=True), holds
            return table, is_valid


DiffLMPipeline.libraries = {
    DiffLMPipeline: "diffusers",
    DiffLMModel: "transformers",
    DiffLMDenoiser: "diffusers",
    LatentEDMScheduler: "diffusers",
    DiffLMProcessor: "transformers",
}
register_components(DiffLMPipeline.libraries)
AutoConfig.register(DiffLMPipelineConfig.model_type, DiffLMPipelineConfig, exist_ok=True)
