from difflm_hf.evaluation import quality_scores
from difflm_hf.evaluation.record_metric import TableMetric


class ColumnShapes(TableMetric):
    """
    Column Shapes of the quality report of SDMetrics: how alike the columns of synthetic and real rows are, one by one.
    It is the mean over columns of 1 minus the Kolmogorov-Smirnov statistic (numbers, datetimes) or the total variation
    distance (categories), from 0 to 1, which is best.
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
            `dict[str, float]`: `column_shapes`.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("column_shapes"))
        >>> metric.compute(predictions=[{"x": 1}, {"x": 2}], references=[{"x": 1}, {"x": 3}])
        {'column_shapes': 0.5}
        ```
        """
        return {"column_shapes": quality_scores(references, predictions, categorical)["column_shapes"]}
