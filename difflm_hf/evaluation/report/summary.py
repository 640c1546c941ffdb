"""What each figure of an evaluation means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


SECTIONS = {
    "fidelity": "Fidelity",
    "utility": "Utility",
    "privacy": "Privacy",
    "validity": "Validity",
    "diversity": "Diversity",
    "documents": "Documents",
    "audit": "Audit of the model",
}
# Heading and alternative text of figures.
HEADINGS = {
    "marginals": ("Columns", "Histograms and bar charts of the values of each column, real and synthetic overlaid."),
    "correlations": (
        "Pairs of columns",
        "Three matrices of associations between columns: in real rows, in synthetic rows, and their difference.",
    ),
    "map": ("Rows", "Scatter plot of real and synthetic rows in two dimensions."),
    "distances": (
        "Distances to training rows",
        "Histograms of the distances of synthetic and of held-out rows to their closest training row.",
    ),
    "attacks": (
        "Membership attacks",
        "Curves of the training records that attacks find, by the held-out records that they take for such.",
    ),
}


@dataclass(frozen=True)
class Metric:
    """
    What is known of one figure among the scores.

    Args:
        path (`tuple[str, ...]`):
            The keys that lead to it in the nested scores. There is a number, or a dict of `mean`, `low` and `high`.
        name (`str`): Its name.
        meaning (`str`): What it is, in one sentence.
        good (`str`): Which values are good.
        format (`str`, defaults to `".3f"`): The format of its value.
        reference (`tuple[str, ...]`, *optional*): The keys that lead to a value to compare it with.
        reference_name (`str`, defaults to `""`): What that is the value of.
        error (`tuple[str, ...]`, *optional*): The keys that lead to its standard error.
    """

    path: tuple[str, ...]
    name: str
    meaning: str
    good: str
    format: str = ".3f"
    reference: tuple[str, ...] | None = None
    reference_name: str = ""
    error: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Row:
    """
    One line of a summary.

    Args:
        section (`str`): `"Fidelity"`, `"Utility"`, `"Privacy"`, `"Validity"`, `"Diversity"`, `"Documents"` or
            `"Audit of the model"`.
        name (`str`): The name of the metric.
        value (`str`): Its value.
        reference (`str`): The value to compare it with, and of what that is, or nothing.
        meaning (`str`): What the metric is, in one sentence.
        good (`str`): Which values are good.
    """

    section: str
    name: str
    value: str
    reference: str
    meaning: str
    good: str


def _utility(
    name: str, title: str, meaning: str, good: str = "close to that of real rows", format: str = ".3f"
) -> Metric:
    path, reference = ("utility", "synthetic", name), ("utility", "real", name)
    return Metric(path, title, meaning, good, format, reference, "real rows")


def _quantile(measure: str, quantile: str, title: str, meaning: str) -> Metric:
    path, reference = ("privacy", measure, "synthetic", quantile), ("privacy", measure, "holdout", quantile)
    return Metric(path, title, meaning, "not less than the hold-out's", ".4f", reference, "hold-out")


def _coverage(name: str, title: str, meaning: str) -> Metric:
    path, reference = ("diversity", name), ("diversity", f"{name}_expected")
    return Metric(
        path, title, meaning, "a little less than a bootstrap's", ".1%", reference, "bootstrap of training rows"
    )


def _document(name: str, title: str, meaning: str, good: str = "100% is best") -> Metric:
    return Metric(("documents", name), title, meaning, good, ".1%")


def _document_and_real(name: str, title: str, meaning: str) -> Metric:
    path, reference = ("documents", name), ("documents", f"{name}_real")
    return Metric(path, title, meaning, "close to that of real documents", ".3f", reference, "real documents")


def _attack(name: str, title: str, meaning: str) -> Iterator[Metric]:
    path = ("audit", "membership", name)
    found = f"{meaning} Training records that are found where 1 % of held-out ones are taken for such."
    yield Metric((*path, "auc"), f"Membership by {title}", f"{meaning} AUC.", "0.5 is best, 1 worst")
    yield Metric((*path, "tpr"), f"Found by {title}", found, "1% is best", ".1%")


METRICS = (
    Metric(
        ("fidelity", "column_shapes"),
        "Column Shapes",
        "How alike the distributions of single columns are: 1 minus the Kolmogorov-Smirnov statistic of numbers, or "
        "the total variation distance of categories, averaged over columns.",
        "1 is best, the hold-out's is good",
        reference=("fidelity", "column_shapes_holdout"),
        reference_name="hold-out",
    ),
    Metric(
        ("fidelity", "pair_trends"),
        "Column Pair Trends",
        "How alike correlations and contingency tables are, averaged over those pairs of columns that are associated "
        "in real rows.",
        "1 is best, the hold-out's is good",
        reference=("fidelity", "pair_trends_holdout"),
        reference_name="hold-out",
    ),
    Metric(
        ("fidelity", "c2st"),
        "C2ST",
        "How well XGBoost tells synthetic rows from real ones that were held out (AUC).",
        "0.5 is best, 1 worst",
        reference=("fidelity", "c2st_holdout"),
        reference_name="training rows",
    ),
    Metric(
        ("fidelity", "c2st_train"),
        "C2ST, training rows",
        "The same with training rows in place of held-out ones. More rows tell more, and copies of them lower it.",
        "0.5 is best; less speaks of copies",
    ),
    Metric(
        ("fidelity", "c2st_logistic"),
        "C2ST, logistic regression",
        "The same as C2ST with a simpler classifier, which sees shifted means and frequencies only.",
        "0.5 is best, 1 worst",
    ),
    Metric(
        ("fidelity", "alpha_precision"),
        "α-precision",
        "Whether synthetic rows lie where real ones do.",
        "close to the hold-out's",
        reference=("fidelity", "alpha_precision_holdout"),
        reference_name="hold-out",
    ),
    Metric(
        ("fidelity", "beta_recall"),
        "β-recall",
        "Whether synthetic rows reach wherever real ones are.",
        "close to the hold-out's",
        reference=("fidelity", "beta_recall_holdout"),
        reference_name="hold-out",
    ),
    _utility("auc", "AUC", "How well XGBoost, trained on synthetic rows, ranks the classes of held-out rows."),
    _utility("f1", "F1", "The same: F1 of the predicted classes, averaged over classes."),
    _utility("accuracy", "Accuracy", "The same: the share of right predictions.", format=".1%"),
    _utility(
        "rmse",
        "RMSE",
        "How far XGBoost, trained on synthetic rows, is off on held-out ones, in units of the target, or of its "
        "logarithm if that is what is predicted.",
        "close to that of real rows, less is better",
        ".4g",
    ),
    _utility("r2", "R²", "The same: the share of the target's variance that is explained."),
    Metric(
        ("privacy", "exact_copies", "synthetic"),
        "Exact copies",
        "The share of synthetic rows that equal a training row in every column. Some real rows do so by chance.",
        "not more than the hold-out's",
        ".2%",
        ("privacy", "exact_copies", "holdout"),
        "hold-out",
    ),
    Metric(
        ("privacy", "distance_to_closest_record", "share"),
        "DCR share",
        "The share of synthetic rows that are nearer to a training row than to any held-out one (± standard error).",
        "50% is best, more speaks of memorised rows",
        ".1%",
        ("privacy", "distance_to_closest_record", "share_of_copies"),
        "copies",
        error=("privacy", "distance_to_closest_record", "standard_error"),
    ),
    _quantile(
        "distance_to_closest_record",
        "q05",
        "DCR, 5th percentile",
        "Distance to the closest record: how near the nearest synthetic rows come to a training row.",
    ),
    _quantile("distance_to_closest_record", "q50", "DCR, median", "The same of the typical synthetic row."),
    _quantile(
        "nearest_neighbor_distance_ratio",
        "q05",
        "NNDR, 5th percentile",
        "Distance to the closest training row, divided by that to the second closest. Near 0, a row singles one out.",
    ),
    _quantile("nearest_neighbor_distance_ratio", "q50", "NNDR, median", "The same of the typical synthetic row."),
    Metric(
        ("privacy", "membership_inference", "auc"),
        "Membership inference",
        "How well nearness to synthetic rows tells training rows from held-out ones (AUC ± standard error).",
        "0.5 is best, 1 worst",
        error=("privacy", "membership_inference", "standard_error"),
    ),
    Metric(
        ("privacy", "attribute_disclosure", "train"),
        "Attributes guessed",
        "The share of values of training rows that are guessed right from the other values and the synthetic rows.",
        "not more than the hold-out's",
        ".1%",
        ("privacy", "attribute_disclosure", "holdout"),
        "hold-out",
    ),
    Metric(
        ("privacy", "attribute_disclosure", "risk"),
        "Attribute disclosure risk",
        "How much more is guessed right of training rows than of held-out ones, as a share of what is not guessed "
        "of the latter.",
        "0% is best",
        ".1%",
    ),
    Metric(
        ("validity", "parses"),
        "Readable rows",
        "The share of rows whose values can be read as what their columns hold.",
        "100% is best",
        ".1%",
    ),
    Metric(
        ("validity", "schema"),
        "Rows of the right types",
        "The share of rows that are readable, and whose values have the types of the training rows' values.",
        "100% is best",
        ".1%",
    ),
    Metric(
        ("validity", "domain"),
        "Rows within the domain",
        "The share of rows that have the right types, known categories, and numbers and datetimes within the range of "
        "the training rows.",
        "100% is best",
        ".1%",
        ("validity", "domain_holdout"),
        "hold-out",
    ),
    Metric(
        ("diversity", "unique_rows"),
        "Unique rows",
        "The number of distinct rows divided by that of all.",
        "close to that of training rows",
        ".1%",
        ("diversity", "unique_rows_train"),
        "training rows",
    ),
    _coverage(
        "category_coverage",
        "Categories covered",
        "The share of the categories of a column that synthetic rows have, averaged over columns.",
    ),
    _coverage("pair_coverage", "Pairs of categories covered", "The same of pairs of categories of two columns."),
    Metric(
        ("diversity", "range_coverage"),
        "Ranges covered",
        "The share of the range of a number that synthetic rows span, averaged over columns.",
        "100% is best",
        ".1%",
    ),
    _document("parse_rate", "Parsed", "The share of documents that can be parsed."),
    _document("compile_rate", "Compiled", "The share of documents that compile."),
    _document("schema_validity", "Valid by the schema", "The share of documents that the JSON Schema accepts."),
    _document("key_coverage", "Keys covered", "The share of the keys of real documents that are there."),
    _document("unknown_keys", "Unknown keys", "The share of documents with keys that no real one has.", "0% is best"),
    _document(
        "novelty",
        "New",
        "The share of documents, or of their values of one key, that are not in the training documents.",
    ),
    _document("unique", "Unique", "The number of distinct documents divided by that of all."),
    _document(
        "length_similarity",
        "Similarity of lengths",
        "1 minus the Kolmogorov-Smirnov statistic of the lengths of real and synthetic documents.",
    ),
    _document(
        "node_types_similarity",
        "Similarity of syntax",
        "1 minus the total variation distance of the frequencies of syntax-tree nodes.",
    ),
    *(
        _document_and_real(
            f"distinct_{n}", f"Distinct-{n}", f"The share of {words} that are distinct, over all documents."
        )
        for n, words in ((1, "words"), (2, "pairs of words"), (3, "triples of words"))
    ),
    _document_and_real(
        "self_bleu", "Self-BLEU", "How much documents repeat one another: the BLEU of each against all others."
    ),
    *_attack("likelihood", "likelihood", "A record that the model finds likely is taken for a training record."),
    *_attack(
        "calibrated",
        "calibrated likelihood",
        "The same, less the likelihood in a model of independent columns: how likely beyond being common.",
    ),
    *_attack("distance", "distance", "A record that is near to a generated one is taken for a training record."),
    Metric(
        ("audit", "membership", "files", "auc"),
        "Membership by the files",
        "A record with a value that the model's files do not allow is taken for none of the training records. AUC.",
        "0.5 is best, 1 worst",
    ),
    Metric(
        ("audit", "attributes", "advantage"),
        "Attribute inference",
        "How much more often the model predicts a column right, from all others, in training records than in held-out "
        "ones; of the column with the largest lower end.",
        "0% is best",
        ".1%",
    ),
    Metric(
        ("audit", "num_rare"),
        "Rare values in the files",
        "Categories, words and listed numbers in the model's files that fewer than 10 training records have.",
        "0 is best",
        ",",
    ),
    Metric(
        ("audit", "num_extremes"),
        "Rare extremes in the files",
        "Smallest and largest numbers in the model's files that fewer than 10 training records have.",
        "0 is best",
        ",",
    ),
)


def summarize(scores: Mapping[str, Any]) -> list[Row]:
    """
    The figures among scores, in words.

    Args:
        scores (`Mapping[str, Any]`):
            What [`evaluate_table`] returned, or `{"documents": ...}` with what [`evaluate_json`], [`evaluate_code`] or
            [`evaluate_text`] returned. What it lacks is left out.

    Returns:
        `list[Row]`: A line for each metric, in the order of [`METRICS`].

    Example:

    ```python
    >>> row = summarize(scores)[0]
    >>> row.name, row.value, row.good
    ('Column Shapes', '0.984', "1 is best, the hold-out's is good")
    ```
    """
    rows = []
    for metric in METRICS:
        value = find(scores, metric.path)
        if value is None:
            continue
        text = format_value(value, metric.format)
        if metric.error is not None and (error := find(scores, metric.error)) is not None:
            text += f" ± {format_value(error, metric.format)}"
        reference = None if metric.reference is None else find(scores, metric.reference)
        compared = "" if reference is None else f"{format_value(reference, metric.format)} ({metric.reference_name})"
        rows.append(Row(SECTIONS[metric.path[0]], metric.name, text, compared, metric.meaning, metric.good))
    return rows


def find(scores: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(scores, Mapping) or key not in scores:
            return None
        scores = scores[key]
    return scores


def format_value(value: float | Mapping[str, float], format: str) -> str:
    if isinstance(value, Mapping):
        mean, low, high = (format_value(value[key], format) for key in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"
    return f"{value:{format}}" if math.isfinite(value) else "–"
