"""Metrics that compare generated JSON records with real ones."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from typing import Any

from ...checks import check_integer
from ...records.validators import is_valid, make_validator
from .measures import check_documents, compare_diversity, distinct, novelty, share, unique


def evaluate_json(
    synthetic: Sequence[str | dict],
    train: Sequence[str | dict],
    schema: dict | None = None,
    key: str | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """
    Compares generated JSON records with those that the generator was trained on.

    A document counts as parsed when it is a JSON object that can be written back as JSON: not with NaN or infinite
    numbers, and not nested deeper than Python reads. Records are equal when their canonical JSON is, which has sorted
    keys; the tokens of `distinct_n` are those of this JSON too.

    Args:
        synthetic (`Sequence[str | dict]`): The generated records, as JSON text or parsed.
        train (`Sequence[str | dict]`): The real records that the generator was trained on.
        schema (`dict`, *optional*): A JSON Schema (draft 2020-12) of one record. References are not downloaded.
        key (`str`, *optional*): The top-level key whose value tells whether a record is new, such as `"name"`.
        seed (`int`, defaults to 0): Seed of the subsamples.

    Returns:
        `dict[str, float]`:
            - `parse_rate`: the share of `synthetic` that parses.
            - `schema_validity`: the share of `synthetic`, parsed or not, that the schema accepts; only with `schema`.
            - `key_coverage`: the share of the key paths of `train`, such as `a.b` and `a[].c`, that appear in a
              synthetic record. This and all that follow are of the records that parse; shares of none are NaN.
            - `unknown_keys`: the share of synthetic records with a key path that no record of `train` has.
            - `novelty`: the share of synthetic records that are not in `train`; with `key`, the share with a value at
              this key that no record of `train` has there.
            - `unique`: the number of distinct synthetic records divided by that of all.
            - `distinct_1`, `distinct_2`: [`distinct_n`] of equally many records of both; with `_real` for `train`.

    Raises:
        `TypeError`: for a document that is neither text nor a `dict` of JSON values.
        `ValueError`: when a list is empty, a document of `train` does not parse, none has `key`, or `schema` is no
            JSON Schema.

    Example:

    ```python
    >>> scores = evaluate_json(['{"name": "b"}', '{"name": '], train=['{"name": "a"}'], key="name")
    >>> scores["parse_rate"], scores["novelty"]
    (0.5, 1.0)
    ```
    """
    check_integer("seed", seed, 0)
    validator = None if schema is None else make_validator(schema)
    documents, real_documents = read_json("synthetic", synthetic), read_json("train", train)
    if None in real_documents:
        row = real_documents.index(None)
        raise ValueError(f"`train[{row}]` does not parse as a JSON object: {reprlib.repr(train[row])}")
    texts = [text for text in documents if text is not None]
    records = [json.loads(text) for text in texts]
    real_records = [json.loads(text) for text in real_documents]

    scores = {"parse_rate": len(records) / len(documents)}
    if validator is not None:
        scores["schema_validity"] = sum(is_valid(validator, record) for record in records) / len(documents)

    paths = _key_paths(real_records + records)
    real_paths, paths = paths[: len(train)], paths[len(train) :]
    known, seen = set().union(*real_paths), set().union(*paths)
    scores["key_coverage"] = share(path in seen for path in known)
    scores["unknown_keys"] = share(not own <= known for own in paths)
    if key is None:
        scores["novelty"] = novelty(texts, real_documents)
    else:
        values = [canonical(record[key]) if key in record else None for record in records]
        real_values = {canonical(record[key]) for record in real_records if key in record}
        if not real_values:
            raise ValueError(f"no record of `train` has the key {key!r}")
        scores["novelty"] = share(value is not None and value not in real_values for value in values)
    scores["unique"] = unique(texts)
    return scores | compare_diversity(texts, real_documents, seed, distinct(1, 2))


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def read_json(name: str, documents: Sequence[str | dict]) -> list[str | None]:
    """The canonical JSON of each document, or `None` where it is not a JSON object."""
    check_documents(name, documents, (str, dict))
    texts = []
    for index, document in enumerate(documents):
        try:
            # A dict goes through text too, which turns its keys into strings and its tuples into lists.
            record = json.loads(document if isinstance(document, str) else json.dumps(document))
            texts.append(canonical(record) if isinstance(record, dict) else None)
        except (ValueError, RecursionError):
            texts.append(None)
        except TypeError as error:
            raise TypeError(f"`{name}[{index}]` holds what JSON cannot: {error}") from error
    return texts


def _key_paths(records: Sequence[dict]) -> list[set[int]]:
    """
    The key paths of each record, as numbers that all records share.

    A path is numbered by that of its parent and its key, so that deep records take linear space, and a key `"a.b"` is
    not taken for `b` in `a`. The items of a list have the key `None`.
    """
    numbers: dict[tuple[int, str | None], int] = {}
    paths = []
    for record in records:
        own, stack = set(), [(0, record)]
        while stack:
            parent, value = stack.pop()
            if isinstance(value, dict):
                children = value.items()
            elif isinstance(value, list):
                children = ((None, item) for item in value)
            else:
                continue
            for key, child in children:
                number = numbers.setdefault((parent, key), len(numbers) + 1)
                if key is not None:
                    own.add(number)
                stack.append((number, child))
        paths.append(own)
    return paths
