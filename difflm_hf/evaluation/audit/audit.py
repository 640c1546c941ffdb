"""All that a model gives away, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ...checks import check_integer
from ...processing_difflm import DiffLMProcessor
from ...seeds import seeded_generator
from ..tables.encoding import encode_tables
from ..tables.fidelity import classifier_two_sample_test
from ..tables.preparation import prepare_tables
from ..tables.privacy import ClosestRecords
from ..tables.table import MAX_SEED, MIN_ROWS
from .attributes import attribute_inference, sensitive_columns
from .membership import attack_scores, marginal_log_prob
from .named_values import named_values
from .verdict import ADVANTAGE_LIMITS, ATTACKS, AUC_LIMITS, CANNOT_SEE, TPR_LIMITS, reasons, verdict


if TYPE_CHECKING:
    from ...pipeline_difflm import DiffLMPipeline

NUM_LATENTS = 32  # of a record, for its likelihood
MAX_SYNTHETIC = 20_000


def audit_model(
    pipe: DiffLMPipeline,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    sensitive: Sequence[str] = (),
    max_rows: int = 2000,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[str, Any]:
    """
    Attacks a model of rows of tables as somebody would who has it, and says what it gives away.

    Args:
        pipe ([`DiffLMPipeline`]): The model.
        train (`pandas.DataFrame`): The records that it was trained on.
        holdout (`pandas.DataFrame`): Records of the same kind that it has not seen.
        sensitive (`Sequence[str]`, defaults to all of them): The columns of categories or booleans to predict.
        max_rows (`int`, defaults to 2000; 30 or more): Records of each table that are attacked at most.
        seed (`int`, defaults to 0): Seed of the subsamples, the latents and the bootstrap.
        show_progress (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `dict[str, Any]`, ready for JSON and for [`write_report`], with one key, `audit`:
            - `verdict`: `"nothing found"`, `"look at these"` or `"gives records away"`; `reasons`: a list of dicts
              with the `verdict` that each calls for and the `reason`, a sentence; `cannot_see`: sentences;
            - `membership`: [`attack_scores`] by the model's `likelihood`, by that `calibrated` by how common a record
              is, by the `distance` to generated records, and by whether its `files` allow a record at all;
            - `attributes`: [`attribute_inference`]; `files`: [`named_values`]; `num_rare` and `num_extremes`, the sums
              of those;
            - `rows`: how many records there were, and how many the model could have written; `notes`; `settings`.

    Raises:
        `ValueError`: for a model of documents or of records with lists, for columns that do not match, for a
            `sensitive` column that is none of categories, and when a table has fewer than 30 records to attack.

    Example:

    ```python
    >>> scores = audit_model(pipe, train, holdout)
    >>> scores["audit"]["verdict"]
    'look at these'
    ```
    """
    check_integer("max_rows", max_rows, MIN_ROWS)
    check_integer("seed", seed, 0, MAX_SEED)
    codec, schema = pipe.processor.codec, pipe.processor.schema
    if not codec.has_fixed_layout or codec.levels:
        raise ValueError("an audit is of models of rows of tables that are trained from scratch, and this is none")
    columns = sensitive_columns(pipe, sensitive)
    tables = {"train": train, "holdout": holdout}
    for name, table in tables.items():
        if missing := [column for column in schema.names if column not in table]:
            raise ValueError(f"`{name}` lacks column {missing[0]!r} of the model; it has {list(table.columns)}")
    tables = {name: table[schema.names].reset_index(drop=True) for name, table in tables.items()}
    rows = {name: {"given": len(table)} for name, table in tables.items()}
    drawn = {name: table.sample(min(len(table), max_rows), random_state=seed) for name, table in tables.items()}
    can_write = {name: is_encodable(pipe.processor, table) for name, table in drawn.items()}
    learnt, unseen = (drawn[name][known].reset_index(drop=True) for name, known in can_write.items())
    for name, known in can_write.items():
        rows[name] |= {"drawn": len(known), "writable": int(known.sum())}
    if min(len(learnt), len(drawn["holdout"])) < MIN_ROWS:
        raise ValueError(
            f"of {len(drawn['train'])} rows of `train` the model can write {len(learnt)}, and `holdout` has "
            f"{len(drawn['holdout'])}; {MIN_ROWS} of each are needed for figures to mean much; is it a model of this "
            "table?"
        )
    with tqdm(total=4, disable=not show_progress, bar_format="{l_bar}{bar}| {elapsed}") as progress:

        def step(name: str) -> None:
            progress.set_description(name)
            progress.update()

        step("likelihoods")
        membership, attributes = {"files": _files_attack(learnt, can_write["holdout"], seed)}, {"columns": {}}
        if len(unseen) >= MIN_ROWS:
            membership |= _likelihood_attacks(pipe, learnt, unseen, seed)
        step("distances")
        membership["distance"], c2st = _distance_attack(pipe, learnt, drawn["holdout"], len(train), seed)
        step("attributes")
        if len(unseen) >= MIN_ROWS:
            attributes = attribute_inference(pipe, learnt, unseen, columns, seed)
        step("files")
        files = named_values(pipe, tables["train"])
    audit = {"membership": membership, "attributes": attributes, "files": files}
    found = reasons(audit)
    audit |= {
        "verdict": verdict(found),
        "reasons": found,
        "cannot_see": list(CANNOT_SEE),
        "num_rare": sum(kinds.get("categories", 0) + kinds.get("numbers", 0) for kinds in files.values()),
        "num_extremes": sum(kinds.get("extremes", 0) for kinds in files.values()),
        "rows": rows,
        "notes": list(_notes(rows, membership, c2st)),
        "settings": {
            "sensitive": columns,
            "max_rows": max_rows,
            "seed": seed,
            "limits of the lower end of an AUC": AUC_LIMITS,
            "limits of that of a true-positive rate": TPR_LIMITS,
            "limits of that of a difference of predictions": ADVANTAGE_LIMITS,
        },
    }
    return {"audit": audit}


def is_encodable(processor: DiffLMProcessor, table: pd.DataFrame) -> np.ndarray:
    """Which rows a model could have written: not those with other values than it was trained on."""
    allowed = np.logical_and.reduce([f.allows(table[f.name]) for f in processor.schema])

    def check(rows: np.ndarray) -> None:
        """Halves rows until those that are refused stand alone."""
        try:
            processor(table.iloc[rows])
        except ValueError:
            if len(rows) == 1:
                allowed[rows] = False
            else:
                half = len(rows) // 2
                check(rows[:half])
                check(rows[half:])

    if allowed.any():
        check(allowed.nonzero()[0])
    return allowed


def _files_attack(train: pd.DataFrame, can_write: np.ndarray, seed: int) -> dict[str, Any]:
    """All training records can be written; whoever finds that a record cannot knows that it is none."""
    return attack_scores(np.ones(len(train)), can_write.astype(float), seed)


def _likelihood_attacks(
    pipe: DiffLMPipeline, train: pd.DataFrame, holdout: pd.DataFrame, seed: int
) -> dict[str, dict[str, Any]]:
    codec = pipe.processor.codec
    ranges = codec.position_ranges[: codec.num_fixed]
    ids = [np.asarray(pipe.processor(table)["input_ids"])[:, 1 : 1 + codec.num_fixed] for table in (train, holdout)]
    own = [pipe.log_prob(table, NUM_LATENTS, generator=seeded_generator(seed)) for table in (train, holdout)]
    common = [marginal_log_prob(ids[0], ids[1], ranges), marginal_log_prob(ids[1], ids[1], ranges, True)]
    return {
        "likelihood": attack_scores(*own, seed),
        "calibrated": attack_scores(own[0] - common[0], own[1] - common[1], seed),
    }


def _distance_attack(
    pipe: DiffLMPipeline, train: pd.DataFrame, holdout: pd.DataFrame, num_records: int, seed: int
) -> tuple[dict[str, Any], float]:
    """The attack, and how well a classifier tells training records from held-out ones without the model."""
    num_records = min(num_records, MAX_SYNTHETIC)
    synthetic = pipe(num_records, generator=seeded_generator(seed), output_type="pandas").records
    plain, categorical, _ = prepare_tables({"train": train, "holdout": holdout, "synthetic": synthetic})
    (real, unseen, fake), codes = encode_tables(plain, categorical)
    neighbors = ClosestRecords(fake, real, unseen, codes, seed, max(len(real), len(unseen)))
    distances = [-neighbors.to_synthetic(table) for table in (neighbors.train, neighbors.holdout)]
    return attack_scores(*distances, seed), classifier_two_sample_test(unseen, real, codes, seed=seed)


def _notes(rows: dict[str, dict[str, int]], membership: dict[str, dict[str, Any]], c2st: float) -> Iterator[str]:
    drawn, left = rows["train"]["drawn"], rows["train"]["writable"]
    if left < drawn:
        yield (
            f"{drawn - left:,} of {drawn:,} records of the training table have values that the model cannot write: "
            "they were not learnt, and are left out"
        )
    drawn, left = rows["holdout"]["drawn"], rows["holdout"]["writable"]
    if left < drawn:
        yield (
            f"{drawn - left:,} of {drawn:,} records of the hold-out have values that the model cannot write: that "
            "alone tells them from training records, and attacks by likelihood and by prediction leave them out"
            + ("" if left >= MIN_ROWS else f"; {left} are too few for these, which were not made")
        )
    if c2st > 0.55 + 1 / min(rows["train"]["writable"], drawn) ** 0.5:
        yield (
            f"training records and hold-out are told apart without the model, too (C2ST {c2st:.3f}): they are no two "
            "samples of one distribution, and what the attacks find may come from that"
        )
    for name, attack in membership.items():
        auc = attack["auc"]
        if auc["low"] <= AUC_LIMITS[0] and auc["high"] > AUC_LIMITS[1]:
            yield (
                f"too few records to tell whether {ATTACKS[name]} gives records away: its AUC may be as high as "
                f"{auc['high']:.3f}"
            )
