from difflm_hf.evaluation import self_bleu
from difflm_hf.evaluation.record_metric import RecordMetric


class SelfBleu(RecordMetric):
    """
    Self-BLEU: the mean over generated documents of the sentence BLEU of each with all the others as its references. It
    is from 0 to 1, the lower the more diverse, and rises with the number of documents: compare only scores of equally
    many.
    """

    CITATION = """
    @inproceedings{zhu2018texygen,
        title = {Texygen: A Benchmarking Platform for Text Generation Models},
        author = {Zhu, Yaoming and Lu, Sidi and Zheng, Lei and Guo, Jiaxian and Zhang, Weinan and Wang, Jun and Yu,
            Yong},
        booktitle = {The 41st International ACM SIGIR Conference on Research and Development in Information Retrieval},
        pages = {1097--1100},
        year = {2018},
        url = {https://arxiv.org/abs/1802.01886}
    }
    """

    def _score(self, predictions, references, max_order=4):
        """
        Args:
            predictions (`list[str]`): The documents, at least two.
            references (`list[str]`, *optional*): Not used.
            max_order (`int`, defaults to 4): The length of the longest n-grams.

        Returns:
            `dict[str, float]`: `self_bleu`.

        Example:

        ```python
        >>> metric = evaluate.load(module_path("self_bleu"))
        >>> metric.compute(predictions=["one and the same", "one and the same"])
        {'self_bleu': 1.0}
        ```
        """
        return {"self_bleu": self_bleu(predictions, max_order)}
