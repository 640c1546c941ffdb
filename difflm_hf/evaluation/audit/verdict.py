"""What an audit comes to, in a word and in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...processing_difflm import MIN_CATEGORY_COUNT


NOTHING, LOOK, AWAY = VERDICTS = ("nothing found", "look at these", "gives records away")
# Of the lower ends of intervals: beyond the first is worth a look, beyond the second gives records away.
AUC_LIMITS = 0.5, 0.55
TPR_LIMITS = 0.02, 0.05
ADVANTAGE_LIMITS = 0.0, 0.05
ATTACKS = {
    "likelihood": "the model's likelihood",
    "calibrated": "the model's likelihood less that of independent columns",
    "distance": "nearness to generated records",
    "files": "whether the model's files allow a record",
}
CANNOT_SEE = (
    "An audit is no proof: a stronger attack may find more. Only training with differential privacy gives a bound.",
    "Figures are over all records. A few records, or a small group, that are learnt by heart may not move them; "
    "planted canaries tell of single records.",
    "What somebody knows from elsewhere, of a person or of other data, is not in it.",
    "It takes the training table and the hold-out for two samples of one distribution. Records of the training table "
    "that were not learnt from, such as those that training holds out to validate, make a model look safer.",
)


def reasons(audit: dict[str, Any]) -> list[dict[str, str]]:
    """
    What in the figures of an audit speaks of records that are given away.

    Args:
        audit (`dict[str, Any]`): With `membership`, `attributes` and `files`.

    Returns:
        `list[dict[str, str]]`: Each with a `verdict`, `"look at these"` or `"gives records away"`, and the `reason`, a
        sentence. The gravest come first.
    """
    found = [*_of_membership(audit["membership"]), *_of_attributes(audit["attributes"]), *_of_files(audit["files"])]
    return sorted(found, key=lambda reason: -VERDICTS.index(reason["verdict"]))


def verdict(reasons: list[dict[str, str]]) -> str:
    """The gravest of reasons."""
    return max((reason["verdict"] for reason in reasons), key=VERDICTS.index, default=NOTHING)


def _of_membership(membership: dict[str, Any]) -> Iterator[dict[str, str]]:
    for name, attack in membership.items():
        auc, tpr = attack["auc"], attack["tpr"]
        yield from _reason(
            auc["low"],
            AUC_LIMITS,
            f"{ATTACKS[name]} tells training records from held-out ones with an AUC of {auc['mean']:.3f} "
            f"(95 % interval {auc['low']:.3f} to {auc['high']:.3f}; chance is 0.5)",
        )
        yield from _reason(
            tpr["low"],
            TPR_LIMITS,
            f"{ATTACKS[name]} finds {tpr['mean']:.1%} of training records ({tpr['low']:.1%} to {tpr['high']:.1%}) "
            "while it takes 1 % of held-out ones for such",
        )


def _of_attributes(attributes: dict[str, Any]) -> Iterator[dict[str, str]]:
    for name, column in attributes["columns"].items():
        advantage = column["advantage"]
        yield from _reason(
            advantage["low"],
            ADVANTAGE_LIMITS,
            f"the model predicts {name!r} from the other columns right in {column['train']:.1%} of training records, "
            f"and in {column['holdout']:.1%} of held-out ones (difference {advantage['low']:.1%} to "
            f"{advantage['high']:.1%})",
        )


def _of_files(files: dict[str, dict[str, int]]) -> Iterator[dict[str, str]]:
    few = f"of fewer than {MIN_CATEGORY_COUNT} records"
    way_out = f"train with min_category_count={MIN_CATEGORY_COUNT}"
    for kinds, what in (
        (("categories", "numbers"), "name values"),
        (("extremes",), "have smallest or largest numbers"),
    ):
        counts = {name: sum(column.get(kind, 0) for kind in kinds) for name, column in files.items()}
        if named := [f"{name!r} ({count})" for name, count in counts.items() if count]:
            yield {"verdict": LOOK, "reason": f"the model's files {what} {few}, of {', '.join(named)}: {way_out}"}


def _reason(low: float, limits: tuple[float, float], sentence: str) -> Iterator[dict[str, str]]:
    if low > limits[0]:
        yield {"verdict": AWAY if low > limits[1] else LOOK, "reason": sentence}
