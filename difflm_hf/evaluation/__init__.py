"""How good generated records are."""

from .tables import (
    classifier_two_sample_test,
    distance_to_closest_record,
    evaluate_table,
    machine_learning_efficiency,
    quality_scores,
    row_novelty,
)


__all__ = [
    "classifier_two_sample_test",
    "distance_to_closest_record",
    "evaluate_table",
    "machine_learning_efficiency",
    "quality_scores",
    "row_novelty",
]
