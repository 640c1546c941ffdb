from difflm_hf.evaluation import evaluate_text
from difflm_hf.evaluation.record_metric import RecordMetric


class Text(RecordMetric):
    """
    Whether generated texts are new and diverse, and resemble real ones in length. All scores are from 0 to 1.
    Distinct-n and Self-BLEU should come close to those of the real texts.
    """

    CITATION = """
    @inproceedings{li2016diversity,
        title = {A Diversity-Promoting Objective Function for Neural Conversation Models},
        author = {Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill},
        booktitle = {Proceedings of the 2016 Conference of the North American Chapter of the Association for
            Computational Linguistics: Human Language Technologies},
        pages = {110--119},
        year = {2016},
        url = {https://arxiv.org/abs/1510.03055}
    }
    """

    def _score(self, predictions, references, seed=0):
        """
        Args:
            predictions (`list[str]`): The generated documents, at least two.
            references (`list[str]`): The real documents that the generator was trained on, at least two.
            seed (`int`, defaults to 0): Seed of the subsamples.

        Returns:
            `dict[str, float]`: `novelty`, `unique`, `length_similarity`, and `distinct_1`, `distinct_2`, `distinct_3`
            and `self_bleu`, with `_real` for `references`; see [`evaluate_text`].

        Example:

        ```python
        >>> metric = evaluate.load(module_path("text"))
        >>> scores = metric.compute(predictions=["a cat", "a dog"], references=["a cat", "two mice"])
        >>> scores["novelty"], scores["distinct_1"], scores["distinct_1_real"]
        (0.5, 0.75, 1.0)
        ```
        """
        return evaluate_text(predictions, references, seed)
