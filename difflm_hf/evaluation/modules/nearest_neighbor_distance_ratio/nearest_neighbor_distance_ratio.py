from difflm_hf.evaluation import ClosestRecords, nearest_neighbor_distance_ratio
from difflm_hf.evaluation.record_metric import TableMetric


class NearestNeighborDistanceRatio(TableMetric):
    """
    Nearest-neighbour distance ratio (NNDR): the distance of a synthetic row to its closest training row, divided by
    that to the second closest, from 0 to 1. Near 0 it singles out one training row. The quantiles should not be
    smaller than those of a hold-out.
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
            `dict[str, float]`: The quantiles `nndr_q01`, `nndr_q05` and `nndr_q50` of the ratios of synthetic rows,
            and `nndr_holdout_q01`, ..., those of the hold-out.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("nearest_neighbor_distance_ratio"))
        >>> real, holdout = [{"x": i} for i in range(0, 100, 2)], [{"x": i} for i in range(1, 101, 2)]
        >>> scores = metric.compute(predictions=real, references=real, holdout=holdout)
        >>> scores["nndr_q50"], scores["nndr_holdout_q50"]
        (0.0, 1.0)
        ```
        """
        neighbors = ClosestRecords(predictions, references, holdout, categorical, seed, max_rows)
        scores = nearest_neighbor_distance_ratio(neighbors)
        tables = {"nndr": scores["synthetic"], "nndr_holdout": scores["holdout"]}
        return {f"{name}_{q}": table[q] for name, table in tables.items() for q in ("q01", "q05", "q50")}
