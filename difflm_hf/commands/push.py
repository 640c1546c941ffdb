"""`difflm push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .common import RARE_HELP, command, say


@command(
    "difflm push my-model user/my-model --private",
    "difflm push my-model my-model --evaluation report --license mit",
    "difflm push my-model user/my-model --create-pr --message 'Trained anew'",
)
def push(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    repo_id: Annotated[str, typer.Argument(help="Where to: NAME, or NAMESPACE/NAME.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="A folder of `difflm evaluate`, for the figures in the card.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="A model card, in place of a generated one.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, as the Hub names it.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Hub id of the training data; repeatable.")] = None,
    revision: Annotated[str | None, typer.Option(help="The branch; a new one is made.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    private: Annotated[bool | None, typer.Option(help="Whether a new repository is private.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    include_code: Annotated[
        bool, typer.Option("--include-code", help="Push the code too, for those who have not installed difflm_hf.")
    ] = False,
    base_model: Annotated[
        str | None, typer.Option(help="A copy of the frozen base LM, in place of the one that the model names.")
    ] = None,
    include_base_weights: Annotated[
        bool,
        typer.Option(
            "--include-base-weights", help="Push the weights of a frozen base LM too, and not only its name."
        ),
    ] = False,
    allow_rare_categories: Annotated[bool, typer.Option("--allow-rare-categories", help=RARE_HELP)] = False,
) -> dict[str, Any]:
    """Push a trained model to the Hub, with a card."""
    from ..pipeline_difflm import DiffLMPipeline
    from ..utils import no_progress_bars

    with no_progress_bars():
        pipe = DiffLMPipeline.from_pretrained(model, base_model=base_model)
    commit = pipe.push_to_hub(
        repo_id,
        card=card,
        evaluation=evaluation,
        license=license,
        datasets=dataset or (),
        include_code=include_code,
        include_base_weights=include_base_weights,
        allow_rare_categories=allow_rare_categories,
        revision=revision,
        create_pr=create_pr,
        private=private,
        **({} if message is None else {"commit_message": message}),
    )
    url = commit.pr_url or commit.commit_url
    say(f"pushed to {url}")
    return {"url": url, "commit": commit.oid}
