from difflm_hf.evaluation import precision_recall
from difflm_hf.evaluation.record_metric import TableMetric


class AlphaPrecisionBetaRecall(TableMetric):
    """
    Integrated α-precision and β-recall: whether synthetic rows lie where real ones do, and reach wherever real ones
    are. Both are from 0 to 1. Equal distributions have an α-precision of about 1; their β-recall depends on the data,
    and is 0.5 to 1: compare it with that of a hold-out.
    """

    CITATION = """
    @inproceedings{alaa2022faithful,
        title = {How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative
            Models},
        author = {Alaa, Ahmed and van Breugel, Boris and Saveliev, Evgeny S. and van der Schaar, Mihaela},
        booktitle = {Proceedings of the 39th International Conference on Machine Learning},
        pages = {290--306},
        year = {2022},
        url = {https://arxiv.org/abs/2102.08921}
    }
    """

    def _score(self, predictions, references, holdout=None, categorical=None, seed=0, max_rows=10_000):
        """
        Args:
            predictions (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`): Synthetic rows.
            references (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                The real rows that the generator was trained on.
            holdout (of the same types, *optional*): Real rows that the generator has not seen, to compare with.
            categorical (`list[str]`, *optional*): Columns that are categorical whatever their dtype.
            seed (`int`, defaults to 0): Seed of the subsamples.
            max_rows (`int`, defaults to 10000):
                How many rows of each table are drawn at most. The time is quadratic in it.

        Returns:
            `dict[str, float]`: `alpha_precision`, `beta_recall`; with `holdout`, the same of it with `_holdout`.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("alpha_precision_beta_recall"))
        >>> real, synthetic = [{"x": i} for i in range(50)], [{"x": i} for i in range(100, 150)]
        >>> metric.compute(predictions=synthetic, references=real)["beta_recall"] < 0.1
        True
        ```
        """
        scores = precision_recall(references, predictions, categorical, seed, max_rows)
        if holdout is not None:
            baseline = precision_recall(references, holdout, categorical, seed, max_rows)
            scores |= {f"{name}_holdout": score for name, score in baseline.items()}
        return scores
