from difflm_hf.evaluation import evaluate_json
from difflm_hf.evaluation.record_metric import RecordMetric


class JsonRecords(RecordMetric):
    """
    How well-formed, valid, new and diverse generated JSON records are, and whether they have the keys of real ones.
    All scores are shares from 0 to 1. 1 is best for the first three, 0 for unknown keys; diversity should come close
    to that of the real records.
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

    def _score(self, predictions, references, schema=None, key=None, seed=0):
        """
        Args:
            predictions (`list` of `str` or `dict`): The generated records, as JSON text or parsed.
            references (`list` of `str` or `dict`): The real records that the generator was trained on.
            schema (`dict`, *optional*): A JSON Schema of one record.
            key (`str`, *optional*): The top-level key whose value tells whether a record is new, such as `"name"`.
            seed (`int`, defaults to 0): Seed of the subsamples.

        Returns:
            `dict[str, float]`: `parse_rate`, `schema_validity` (with `schema`), `key_coverage`, `unknown_keys`,
            `novelty`, `unique`, and `distinct_1` and `distinct_2`, with `_real` for `references`; see
            [`evaluate_json`].

        Example:

        ```python
        >>> metric = evaluate.load(module_path("json_records"))
        >>> synthetic, real = ['{"name": "b"}', '{"name": '], ['{"name": "a"}']
        >>> scores = metric.compute(predictions=synthetic, references=real, key="name")
        >>> scores["parse_rate"], scores["novelty"]
        (0.5, 1.0)
        ```
        """
        return evaluate_json(predictions, references, schema, key, seed)
