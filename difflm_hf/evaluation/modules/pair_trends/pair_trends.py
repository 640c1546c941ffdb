from difflm_hf.evaluation import quality_scores
from difflm_hf.evaluation.record_metric import TableMetric


class PairTrends(TableMetric):
    """
    Column Pair Trends of the quality report of SDMetrics: how alike the pairs of columns of synthetic and real rows
    are. It is the mean similarity of correlations (numbers, datetimes) or contingency tables (categories) over the
    pairs of columns that are associated in the real rows, from 0 to 1, which is best; NaN where none are.
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
            `dict[str, float]`: `pair_trends`.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("pair_trends"))
        >>> real, synthetic = ([{"x": i, "y": sign * i} for i in range(9)] for sign in (1, -1))
        >>> round(metric.compute(predictions=synthetic, references=real)["pair_trends"], 3)
        0.0
        ```
        """
        return {"pair_trends": quality_scores(references, predictions, categorical)["pair_trends"]}
