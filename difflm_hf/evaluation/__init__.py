"""How good generated records are."""

from .fidelity import classifier_two_sample_test, precision_recall, quality_scores
from .privacy import (
    ClosestRecords,
    attribute_disclosure,
    distance_to_closest_record,
    exact_copies,
    membership_inference,
    nearest_neighbor_distance_ratio,
    privacy_alarms,
)
from .tables import evaluate_table
from .utility import machine_learning_efficiency
from .validity import diversity, row_validity


__all__ = [
    "ClosestRecords",
    "attribute_disclosure",
    "classifier_two_sample_test",
    "distance_to_closest_record",
    "diversity",
    "evaluate_table",
    "exact_copies",
    "machine_learning_efficiency",
    "membership_inference",
    "nearest_neighbor_distance_ratio",
    "precision_recall",
    "privacy_alarms",
    "quality_scores",
    "row_validity",
]
