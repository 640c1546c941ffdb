from difflm_hf.evaluation import classifier_two_sample_test
from difflm_hf.evaluation.record_metric import TableMetric


class C2st(TableMetric):
    """
    Classifier two-sample test (C2ST): the AUC with which a classifier tells real rows from synthetic ones, averaged
    over three folds of cross-validation. 0.5 is best, 1 worst.

    The configurations, for `evaluate.load(path, "logistic_regression")`, are `xgboost`, the default, and
    `logistic_regression`, which sees no more than shifted means and frequencies. The more rows, the more the
    classifier can learn: compare only scores of equally many.
    """

    CITATION = """
    @inproceedings{lopez-paz2017revisiting,
        title = {Revisiting Classifier Two-Sample Tests},
        author = {Lopez-Paz, David and Oquab, Maxime},
        booktitle = {International Conference on Learning Representations},
        year = {2017},
        url = {https://arxiv.org/abs/1610.06545}
    }
    """

    def _score(self, predictions, references, holdout=None, categorical=None, classifier=None, seed=0, n_jobs=None):
        """
        Args:
            predictions (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`): Synthetic rows.
            references (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                The real rows that the generator was trained on.
            holdout (of the same types, *optional*):
                Real rows that the generator has not seen, to be told from the synthetic ones in place of `references`:
                rows that it copied from those lower the score, to below 0.5.
            categorical (`list[str]`, *optional*): Columns that are categorical whatever their dtype.
            classifier (`str`, *optional*): `"xgboost"` or `"logistic_regression"`; by default the configuration.
            seed (`int`, defaults to 0): Seed of the subsample of the larger table, the folds and XGBoost.
            n_jobs (`int`, *optional*): Threads of XGBoost.

        Returns:
            `dict[str, float]`: `c2st` by XGBoost, or `c2st_logistic` by logistic regression.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("c2st"))
        >>> real, synthetic = [{"x": i} for i in range(50)], [{"x": i} for i in range(50, 100)]
        >>> metric.compute(predictions=synthetic, references=real)
        {'c2st': 1.0}
        ```
        """
        configuration = "xgboost" if self.config_name == "default" else self.config_name
        classifier = classifier or configuration
        real = references if holdout is None else holdout
        score = classifier_two_sample_test(real, predictions, categorical, classifier, seed, n_jobs)
        return {"c2st" if classifier == "xgboost" else "c2st_logistic": score}
