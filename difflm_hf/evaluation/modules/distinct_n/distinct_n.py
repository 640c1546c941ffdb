from difflm_hf.evaluation import distinct_n
from difflm_hf.evaluation.record_metric import RecordMetric


class DistinctN(RecordMetric):
    """
    Distinct-n: the number of distinct n-grams of tokens divided by that of all, over the whole set of generated
    documents. It is from 0 to 1, the higher the more diverse, and falls with the number of documents: compare only
    scores of equally many.
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

    def _score(self, predictions, references, n=2):
        """
        Args:
            predictions (`list[str]`): The documents.
            references (`list[str]`, *optional*): Not used.
            n (`int`, defaults to 2): The length of the n-grams.

        Returns:
            `dict[str, float]`: `distinct_{n}`, such as `distinct_2`.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("distinct_n"), n=1)
        >>> metric.compute(predictions=["a cat", "a dog"])
        {'distinct_1': 0.75}
        ```
        """
        return {f"distinct_{n}": distinct_n(predictions, n)}
