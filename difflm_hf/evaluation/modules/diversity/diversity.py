from difflm_hf.evaluation import diversity
from difflm_hf.evaluation.record_metric import TableMetric


class Diversity(TableMetric):
    """
    How much of what the training rows have is there in the synthetic ones: shares from 0 to 1. The coverages should
    come close to those that are expected of equally many real rows, and the share of distinct rows to that of the
    training rows.
    """

    CITATION = """
    @manual{sdmetrics,
        title = {Synthetic Data Metrics},
        organization = {DataCebo, Inc.},
        url = {https://docs.sdv.dev/sdmetrics/}
    }
    """

    def _score(self, predictions, references, categorical=None):
        """
        Args:
            predictions (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`): Synthetic rows.
            references (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                The real rows that the generator was trained on.
            categorical (`list[str]`, *optional*): Columns that are categorical whatever their dtype.

        Returns:
            `dict[str, float]`: `unique_rows`, the share of distinct rows, and `unique_rows_train`; `category_coverage`
            and `pair_coverage`, the shares of the categories of a column, or of two, that there are, averaged over
            columns, with `_expected` for as many real rows; `range_coverage`, the share of the range of numbers that
            there is. NaN where the columns have none.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("diversity"))
        >>> real = [{"job": "cook"}, {"job": "pilot"}, {"job": "cook"}, {"job": "pilot"}]
        >>> metric.compute(predictions=[{"job": "cook"}], references=real)["category_coverage"]
        0.5
        ```
        """
        scores = diversity(predictions, references, categorical)
        del scores["missed"]
        return scores
