from difflm_hf.evaluation import ClosestRecords, attribute_disclosure
from difflm_hf.evaluation.record_metric import TableMetric


class AttributeDisclosure(TableMetric):
    """
    Attribute disclosure: who has the synthetic rows, and all of a record but one value, guesses that value as the one
    of the nearest synthetic row. What can be guessed of held-out records too is knowledge about the population; the
    rest is the risk of the training rows, of which 0 is best and 1 worst.
    """

    CITATION = """
    @article{giomi2023unified,
        title = {A Unified Framework for Quantifying Privacy Risk in Synthetic Data},
        author = {Giomi, Matteo and Boenisch, Franziska and Wehmeyer, Christoph and Tasnádi, Borbála},
        journal = {Proceedings on Privacy Enhancing Technologies},
        volume = {2023},
        number = {2},
        pages = {312--328},
        year = {2023},
        url = {https://arxiv.org/abs/2211.10459}
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
            `dict[str, float]`: `attribute_disclosure_risk`, and the rates of right guesses about `references` and
            `holdout` that it comes from, `attribute_disclosure_train` and `attribute_disclosure_holdout`.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("attribute_disclosure"))
        >>> real = [{"x": i, "secret": i % 3 == 0} for i in range(0, 100, 2)]
        >>> holdout = [{"x": i, "secret": i % 3 == 1} for i in range(1, 101, 2)]
        >>> metric.compute(predictions=real, references=real, holdout=holdout)["attribute_disclosure_train"] > 0.5
        True
        ```
        """
        neighbors = ClosestRecords(predictions, references, holdout, categorical, seed, max_rows)
        scores = attribute_disclosure(neighbors)
        return {f"attribute_disclosure_{name}": scores[name] for name in ("risk", "train", "holdout")}
