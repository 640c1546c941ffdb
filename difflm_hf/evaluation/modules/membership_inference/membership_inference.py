from difflm_hf.evaluation import ClosestRecords, membership_inference
from difflm_hf.evaluation.record_metric import TableMetric


class MembershipInference(TableMetric):
    """
    A membership-inference attack: who has the synthetic rows, and a record, takes it for a training row if a synthetic
    row is near. Its AUC of telling training rows from held-out ones is 0.5 at best; 1 is worst.
    """

    CITATION = """
    @inproceedings{chen2020ganleaks,
        title = {{GAN-Leaks}: A Taxonomy of Membership Inference Attacks against Generative Models},
        author = {Chen, Dingfan and Yu, Ning and Zhang, Yang and Fritz, Mario},
        booktitle = {Proceedings of the 2020 ACM SIGSAC Conference on Computer and Communications Security},
        pages = {343--362},
        year = {2020},
        url = {https://arxiv.org/abs/1909.03935}
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
            `dict[str, float]`: `membership_auc` and its `membership_standard_error`.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("membership_inference"))
        >>> real, holdout = [{"x": i} for i in range(0, 100, 2)], [{"x": i} for i in range(1, 101, 2)]
        >>> metric.compute(predictions=real, references=real, holdout=holdout)["membership_auc"]
        1.0
        ```
        """
        neighbors = ClosestRecords(predictions, references, holdout, categorical, seed, max_rows)
        return {f"membership_{name}": score for name, score in membership_inference(neighbors).items()}
