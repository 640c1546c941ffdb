from difflm_hf.evaluation import row_validity
from difflm_hf.evaluation.record_metric import TableMetric


class RowValidity(TableMetric):
    """
    Whether synthetic values have the form of the training rows' values: the shares of rows of which all values do,
    from 0 to 1, which is best.
    """

    CITATION = """
    @manual{sdmetrics,
        title = {Synthetic Data Metrics},
        organization = {DataCebo, Inc.},
        url = {https://docs.sdv.dev/sdmetrics/}
    }
    """
    ENCODED = False  # the form of values is what it measures

    def _score(self, predictions, references, categorical=None):
        """
        Args:
            predictions (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`): Synthetic rows.
            references (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                The real rows that the generator was trained on.
            categorical (`list[str]`, *optional*): Columns that are categorical whatever their dtype.

        Returns:
            `dict[str, float]`: Shares of rows, each included in the one before: `row_validity_parses`, whose values
            can be read as what the column holds; `row_validity_schema`, whose values also have the type of the
            training rows' values, and are missing only where some of these are; `row_validity_domain`, whose values
            are also known categories, or within the range of the training rows' numbers and datetimes.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("row_validity"))
        >>> metric.compute(predictions=[{"x": 1}, {"x": 5}], references=[{"x": 1}, {"x": 3}])["row_validity_domain"]
        0.5
        ```
        """
        scores = row_validity(predictions, references, categorical)
        return {f"row_validity_{name}": scores[name] for name in ("parses", "schema", "domain")}
