from difflm_hf.evaluation import evaluate_code
from difflm_hf.evaluation.record_metric import RecordMetric


class Code(RecordMetric):
    """
    Whether generated Python code parses and compiles, is new and diverse, and resembles real code in length and
    syntax. Nothing is executed. All scores are shares from 0 to 1. 1 is best for the rates and similarities; diversity
    should come close to that of the real code.
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

    def _score(self, predictions, references, seed=0):
        """
        Args:
            predictions (`list[str]`): The generated documents.
            references (`list[str]`): The real documents that the generator was trained on.
            seed (`int`, defaults to 0): Seed of the subsamples.

        Returns:
            `dict[str, float]`: `parse_rate`, `compile_rate`, `novelty`, `unique`, `length_similarity`,
            `node_types_similarity`, and `distinct_1` and `distinct_2`, with `_real` for `references`; see
            [`evaluate_code`].

        Example:

        ```python
        >>> metric = evaluate.load(module_path("code"))
        >>> scores = metric.compute(predictions=["x = 1", "return x"], references=["y = 1"])
        >>> scores["parse_rate"], scores["compile_rate"]
        (1.0, 0.5)
        ```
        """
        return evaluate_code(predictions, references, seed)
