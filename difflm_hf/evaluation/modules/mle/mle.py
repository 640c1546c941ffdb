from difflm_hf.evaluation import machine_learning_efficiency
from difflm_hf.evaluation.record_metric import TableMetric


class Mle(TableMetric):
    """
    Machine-learning efficiency (MLE): how well XGBoost predicts a column of real rows that the generator has not seen,
    after training on synthetic rows and, to compare with, on the generator's training rows. The closer the two, the
    better.
    """

    CITATION = """
    @inproceedings{zhou-etal-2025-difflm,
        title = {{DiffLM}: Controllable Synthetic Data Generation via Diffusion Language Models},
        author = {Zhou, Ying and Wang, Xinyao and Niu, Yulei and Shen, Yaojie and Tang, Lexin and Chen, Fan and He, Ben
            and Sun, Le and Wen, Longyin},
        booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
        pages = {20638--20658},
        year = {2025},
        url = {https://arxiv.org/abs/2411.03250}
    }
    """

    def _score(
        self,
        predictions,
        references,
        holdout,
        target,
        categorical=None,
        log_target=False,
        num_seeds=5,
        seed=0,
        n_jobs=None,
    ):
        """
        Args:
            predictions (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`): Synthetic rows.
            references (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                The real rows that the generator was trained on.
            holdout (`pandas.DataFrame`, `datasets.Dataset`, or `list` of `dict` or JSON `str`):
                The rows to predict: real ones that the generator has not seen.
            target (`str`): The column to predict: classification where it is categorical, else regression.
            categorical (`list[str]`, *optional*): Columns that are categorical whatever their dtype.
            log_target (`bool`, defaults to `False`): Whether to predict log(1 + target); for regression only.
            num_seeds (`int`, defaults to 5): How many times XGBoost is trained, each time with another seed.
            seed (`int`, defaults to 0): The first seed.
            n_jobs (`int`, *optional*): Threads of XGBoost.

        Returns:
            `dict[str, float]`: The means over seeds `mle_auc`, `mle_f1` and `mle_accuracy` of a classification, for
            which 1 is best, or `mle_rmse`, for which 0 is, and `mle_r2` of a regression; the same with `mle_real_`
            after training on `references`; and, with `_low` and `_high`, the bounds of the 95 % confidence interval of
            each.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("mle"), target="even")
        >>> real = [{"x": i % 2, "even": i % 2 == 0} for i in range(60)]
        >>> scores = metric.compute(predictions=real[:30], references=real[30:], holdout=real)
        >>> scores["mle_accuracy"], scores["mle_real_accuracy"]
        (1.0, 1.0)
        ```
        """
        scores = {}
        for name, table in {"mle": predictions, "mle_real": references}.items():
            means = machine_learning_efficiency(
                table, holdout, target, categorical, log_target, num_seeds, seed, n_jobs
            )
            for score, bounds in means.items():
                scores |= {f"{name}_{score}": bounds["mean"]}
                scores |= {f"{name}_{score}_{bound}": bounds[bound] for bound in ("low", "high")}
        return scores
