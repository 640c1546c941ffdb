"""`transformers.pipeline("record-generation", model=...)`."""

from __future__ import annotations

import os
from typing import Any

from huggingface_hub import CommitInfo
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .hub.components import register_components
from .pipeline_difflm import DiffLMPipeline
from .seeds import seeded_generator


class RecordGenerationPipeline(Pipeline):
    """
    A [`DiffLMPipeline`] among the pipelines of transformers.

    It is called with a number of records, or a list of such numbers. Further arguments are `seed`, in place of a
    generator, and those of [`DiffLMPipeline.__call__`].

    Example:

    ```python
    >>> import difflm_hf
    >>> from transformers import pipeline

    >>> difflm_hf.register()
    >>> generate = pipeline("record-generation", model="my-model")
    >>> table = generate(1000, seed=0, output_type="pandas")
    ```
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # To other pipelines a batch is one of inputs, to this one it is of records.
        self.records_per_batch, self._batch_size = self._batch_size, None

    def __call__(self, num_records: int | list[int], *args, batch_size: int | None = None, **kwargs) -> Any:
        return super().__call__(num_records, *args, records_per_batch=batch_size or self.records_per_batch, **kwargs)

    def _sanitize_parameters(self, seed: int | None = None, **kwargs) -> tuple[dict, dict, dict]:
        if seed is not None:
            kwargs["seed"] = seed
        return {}, kwargs, {}

    def preprocess(self, num_records: int) -> dict[str, int]:
        return {"num_records": num_records}

    def _forward(
        self,
        model_inputs: dict[str, int],
        seed: int | None = None,
        records_per_batch: int | None = None,
        **kwargs,
    ) -> Any:
        if seed is not None:
            kwargs["generator"] = seeded_generator(seed)
        return self.model(**model_inputs, **kwargs, batch_size=records_per_batch, return_dict=False)[0]

    def forward(self, model_inputs: dict[str, int], **kwargs) -> Any:
        # Not that of the base class, which moves tensors, and would look for some in all the records.
        return self._forward(model_inputs, **kwargs)

    def postprocess(self, records: Any) -> Any:
        return records

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As [`DiffLMPipeline.save_pretrained`]."""
        self.model.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs) -> CommitInfo:
        """As [`DiffLMPipeline.push_to_hub`]."""
        return self.model.push_to_hub(repo_id, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self.model}"


class _Loader(DiffLMPipeline):
    """What `transformers.pipeline` loads: a [`DiffLMPipeline`], by the arguments that it has for its own models."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs) -> DiffLMPipeline:
        kwargs.pop("_from_pipeline", None)
        if kwargs.get("dtype") == "auto":
            del kwargs["dtype"]
        return DiffLMPipeline.from_pretrained(pretrained_model_name_or_path, **kwargs)


PIPELINE_REGISTRY.register_pipeline(
    "record-generation", pipeline_class=RecordGenerationPipeline, pt_model=_Loader, type="text"
)


def register() -> None:
    """
    Makes the Auto classes of transformers, `transformers.pipeline` and `DiffusionPipeline` know the classes of this
    package.

    Classes are known as soon as they are imported; this is for code that names none of them.

    Example:

    ```python
    >>> import difflm_hf
    >>> from transformers import pipeline

    >>> difflm_hf.register()
    >>> generate = pipeline("record-generation", model="my-model")
    ```
    """
    register_components(DiffLMPipeline.libraries)  # all else became known when this module was imported
