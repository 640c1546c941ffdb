from difflm_hf.evaluation import exact_copies
from difflm_hf.evaluation.record_metric import TableMetric


class ExactCopies(TableMetric):
    """
    The share of synthetic rows that equal a training row in every column, from 0 to 1. It should not be larger than
    that of real rows that were held out, some of which equal a training row by chance.
    """

    CITATION = """
    @manual{sdmetrics,
        title = {Synthetic Data Metrics},
        organization = {DataCebo, Inc.},
        url = {https://docs.sdv.dev/sdmetrics/}
    }
    """

    def _score(self, predictions, references, holdout=None, categorical=None):
        """
        Args:
            predictions (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`): Synthetic rows.
            references (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                The real rows that the generator was trained on.
            holdout (of the same types, *optional*): Real rows that the generator has not seen.
            categorical (`list[str]`, *optional*): Columns that are categorical whatever their dtype.

        Returns:
            `dict[str, float]`: `exact_copies`; with `holdout`, also `exact_copies_holdout`, the share of its rows, and
            `exact_copies_p_value`, the probability that rows of training and hold-out are copied alike.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("exact_copies"))
        >>> metric.compute(predictions=[{"x": 1}, {"x": 2}], references=[{"x": 1}, {"x": 3}])
        {'exact_copies': 0.5}
        ```
        """
        scores = exact_copies(predictions, references, holdout, categorical)
        return {"exact_copies": scores.pop("synthetic")} | {f"exact_copies_{name}": x for name, x in scores.items()}
