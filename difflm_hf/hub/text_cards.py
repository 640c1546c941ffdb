"""What a Diffusion-LM says of itself on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from .cards import count_parameters, describe_hardware, render


if TYPE_CHECKING:
    from ..diffusion_lm import DiffusionLMPipeline


TAGS = ("diffusion-lm", "text-diffusion", "controllable-generation", "synthetic-data")


def text_model_card(
    pipeline: DiffusionLMPipeline,
    repo_id: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    language: str | Sequence[str] | None = None,
    tags: Sequence[str] = (),
) -> ModelCard:
    """
    Writes the card of a Diffusion-LM, from what its training recorded: likelihood bound, rounding accuracy, diversity
    and memorisation among it. What is not known is said to be not known.

    Args:
        pipeline ([`DiffusionLMPipeline`]): The model.
        repo_id (`str`, *optional*): Its id on the Hub, such as `"user/model"`.
        license (`str`, *optional*): The licence of the weights, as the Hub names it.
        datasets (`Sequence[str]`, defaults to none): Ids on the Hub of what it was trained on.
        language (`str` or `Sequence[str]`, *optional*): Codes of the languages of its texts.
        tags (`Sequence[str]`, defaults to none): Tags besides those that every such model has.

    Returns:
        `huggingface_hub.ModelCard`.

    Raises:
        `ValueError`: for an id that the Hub does not allow.
    """
    for hub_id in filter(None, (repo_id, *datasets)):
        validate_repo_id(hub_id)
    data = ModelCardData(
        license=license,
        language=language,
        library_name="difflm_hf",
        pipeline_tag="text-generation",
        datasets=list(datasets) or None,
        tags=[*TAGS, *tags],
    )
    training = pipeline.config.get("training") or {}
    body = render(
        "text_card.md.jinja",
        name=repo_id.split("/")[-1] if repo_id else "Diffusion-LM model",
        repo_id=repo_id,
        license=license,
        training=training,
        config=pipeline.model.config,
        num_parameters=count_parameters(pipeline.model),
        hardware=describe_hardware(training.get("hardware") or {}),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
