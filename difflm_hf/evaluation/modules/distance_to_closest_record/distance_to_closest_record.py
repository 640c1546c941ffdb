from difflm_hf.evaluation import ClosestRecords, distance_to_closest_record
from difflm_hf.evaluation.record_metric import TableMetric


class DistanceToClosestRecord(TableMetric):
    """
    Distance to closest record (DCR): how near synthetic rows come to the rows that the generator was trained on, by
    Gower's distance.

    The share of synthetic rows that are nearer to a training row than to any row of an equally large hold-out, ties
    counted half, is 0.5 at best; above it, the generator has memorised training rows. The quantiles of the distances
    should not be smaller than those of the hold-out.
    """

    CITATION = """
    @article{platzer2021holdout,
        title = {Holdout-Based Empirical Assessment of Mixed-Type Synthetic Data},
        author = {Platzer, Michael and Reutterer, Thomas},
        journal = {Frontiers in Big Data},
        volume = {4},
        pages = {679939},
        year = {2021},
        url = {https://arxiv.org/abs/2104.00635}
    }
    """

    def _score(self, predictions, references, holdout, categorical=None, seed=0, max_rows=10_000):
        """
        Args:
            predictions (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`): Synthetic rows.
            references (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                The real rows that the generator was trained on.
            holdout (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                Real rows that the generator has not seen.
            categorical (`list[str]`, *optional*): Columns that are categorical whatever their dtype.
            seed (`int`, defaults to 0): Seed of the subsamples.
            max_rows (`int`, defaults to 10000):
                How many rows of each table are drawn at most. The time is quadratic in it.

        Returns:
            `dict[str, float]`: `dcr_share`; the quantiles `dcr_q01`, `dcr_q05` and `dcr_q50` of the distances of
            synthetic rows to their closest training row, and `dcr_holdout_q01`, ..., those of the hold-out.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("distance_to_closest_record"))
        >>> real, holdout = [{"x": i} for i in range(0, 100, 2)], [{"x": i} for i in range(1, 101, 2)]
        >>> metric.compute(predictions=real, references=real, holdout=holdout)["dcr_share"]
        1.0
        ```
        """
        neighbors = ClosestRecords(predictions, references, holdout, categorical, seed, max_rows)
        scores = distance_to_closest_record(neighbors)
        tables = {"dcr": scores["synthetic"], "dcr_holdout": scores["holdout"]}
        quantiles = {f"{name}_{q}": table[q] for name, table in tables.items() for q in ("q01", "q05", "q50")}
        return {"dcr_share": scores["share"]} | quantiles
