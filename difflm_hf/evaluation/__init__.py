"""How good generated records are."""

from .documents import distinct_n, evaluate_code, evaluate_json, evaluate_text, self_bleu
from .fidelity import classifier_two_sample_test, precision_recall, quality_scores
from .plots import table_figures
from .privacy import (
    ClosestRecords,
    attribute_disclosure,
    distance_to_closest_record,
    exact_copies,
    membership_inference,
    nearest_neighbor_distance_ratio,
    privacy_alarms,
)
from .record_metric import module_path
from .report import summarize, to_markdown, write_report
from .tables import evaluate_table
from .utility import machine_learning_efficiency
from .validity import diversity, row_validity


__all__ = [
    "ClosestRecords",
    "attribute_disclosure",
    "classifier_two_sample_test",
    "distance_to_closest_record",
    "distinct_n",
    "diversity",
    "evaluate_code",
    "evaluate_json",
    "evaluate_table",
    "evaluate_text",
    "exact_copies",
    "machine_learning_efficiency",
    "membership_inference",
    "module_path",
    "nearest_neighbor_distance_ratio",
    "precision_recall",
    "privacy_alarms",
    "quality_scores",
    "row_validity",
    "self_bleu",
    "summarize",
    "to_markdown",
    "table_figures",
    "write_report",
]
