"""Metrics that compare generated function specifications, the tools of language models, with real ones."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from ...records.validators import is_valid
from .json_records import canonical, evaluate_json, read_json
from .measures import length_similarity, overlap, share


NEAR = 0.5  # tools for the same kind of thing, such as `get_recipe` and `fetch_recipe`
DUPLICATE = 0.9  # one tool in other words


def evaluate_tools(
    synthetic: Sequence[str | dict],
    train: Sequence[str | dict],
    real: Sequence[str | dict] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """
    Compares generated tools with those that the generator was trained on, without a judge.

    A tool is a JSON object with a `name`, a `description` and `parameters`, a JSON Schema of its arguments. What is
    called a parameter here is an entry of the `properties` of that schema. Two tools are as similar as the cosine of
    the TF-IDF vectors of the words in their names and descriptions, where `getUser`, `get_user` and `get.user` are
    two words, and frequencies are those in all tools given. They are near from 0.5, and duplicates from 0.9: one tool
    in other words.

    Args:
        synthetic (`Sequence[str | dict]`): The generated tools, as JSON text or parsed.
        train (`Sequence[str | dict]`): The real tools that the generator was trained on.
        real (`Sequence[str | dict]`, *optional*): Real tools that the generator has not seen, such as a test split.
        seed (`int`, defaults to 0): Seed of the subsamples.

    Returns:
        `dict[str, float]`: What [`evaluate_json`] measures, with novelty by `name`, and of the tools that parse, where
        shares of none are NaN:
            - `schema_valid`: the share whose `parameters` are of type object, and a JSON Schema by the meta-schema of
              draft 2020-12.
            - `required_declared`: the share that has every name in `required` among its parameters.
            - `described`: the share of all parameters that have a description.
            - `name_valid`: the share whose name is an identifier, or several with dots between them. These four come
              with `_real` for `train` too, which they should come close to.
            - `type_similarity`: 1 minus the total variation distance of the frequencies of the parameters' types in
              `synthetic` and `train`, where no type is one more; 1 is best.
            - `num_parameters_similarity`: 1 minus the Kolmogorov-Smirnov statistic of the numbers of parameters of a
              tool; 1 is best.
            - `duplicates`: the share that are duplicates of a tool of `train`.

        And with `real`:
            - `novelty_holdout`, `duplicates_holdout`: those of `real` in place of `synthetic`, to compare with.
            - `coverage`: the share of `real` that is near a synthetic tool, and `coverage_real`, the share that is
              near a tool of `train`; of equally many of both.

    Raises:
        `TypeError`: for a tool that is neither text nor a `dict` of JSON values.
        `ValueError`: when a list is empty, a tool of `train` or `real` does not parse, or none of `train` has a name.

    Example:

    ```python
    >>> tool = {"name": "clock.now", "description": "Tells the time.", "parameters": {"type": "object"}}
    >>> scores = evaluate_tools([tool, {"name": "a b"}], train=[tool])
    >>> scores["name_valid"], scores["schema_valid"], scores["duplicates"]
    (0.5, 0.5, 0.5)
    ```
    """
    held_out = [] if real is None else _read_tools("real", real)
    if None in held_out:
        row = held_out.index(None)
        raise ValueError(f"`real[{row}]` does not parse as a JSON object: {reprlib.repr(real[row])}")
    scores = evaluate_json(synthetic, train, key="name", seed=seed)
    tools = [tool for tool in _read_tools("synthetic", synthetic) if tool is not None]
    known = _read_tools("train", train)

    for suffix, part in {"": tools, "_real": known}.items():
        scores |= {f"{name}{suffix}": score for name, score in _specification_scores(part).items()}
    scores["type_similarity"] = overlap(_count_types(tools), _count_types(known))
    similarity = length_similarity(tools, known, lambda tool: len(_parameters(tool))) if tools else math.nan
    scores["num_parameters_similarity"] = similarity

    vectors = TfidfVectorizer(analyzer=_words).fit_transform(map(_text, tools + known + held_out))
    start = len(tools) + len(known)
    tools, known, held_out = vectors[: len(tools)], vectors[len(tools) : start], vectors[start:]
    scores["duplicates"] = _share_similar(tools, known, DUPLICATE)
    if real is not None:
        scores["novelty_holdout"] = evaluate_json(real, train, key="name", seed=seed)["novelty"]
        scores["duplicates_holdout"] = _share_similar(held_out, known, DUPLICATE)
        generator = np.random.default_rng(seed)
        size = min(tools.shape[0], known.shape[0])
        for suffix, part in {"": tools, "_real": known}.items():
            drawn = part[generator.permutation(part.shape[0])[:size]]
            scores[f"coverage{suffix}"] = _share_similar(held_out, drawn, NEAR)
    return scores


def _read_tools(name: str, documents: Sequence[str | dict]) -> list[dict[str, Any] | None]:
    return [None if text is None else json.loads(text) for text in read_json(name, documents)]


def _specification_scores(tools: Sequence[dict[str, Any]]) -> dict[str, float]:
    meta_schema = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    schemas = [_schema(tool) for tool in tools]
    parameters = [parameter for tool in tools for parameter in _parameters(tool).values()]
    return {
        "schema_valid": share(schema.get("type") == "object" and is_valid(meta_schema, schema) for schema in schemas),
        "required_declared": share(map(_declares_required, tools)),
        "described": share(bool(_string(parameter, "description").strip()) for parameter in parameters),
        "name_valid": share(all(map(str.isidentifier, _string(tool, "name").split("."))) for tool in tools),
    }


def _schema(tool: dict[str, Any]) -> dict[str, Any]:
    schema = tool.get("parameters")
    return schema if isinstance(schema, dict) else {}


def _parameters(tool: dict[str, Any]) -> dict[str, Any]:
    properties = _schema(tool).get("properties")
    return properties if isinstance(properties, dict) else {}


def _declares_required(tool: dict[str, Any]) -> bool:
    required = _schema(tool).get("required", [])
    # Names are compared one by one, since what is no name may not be hashable.
    return isinstance(required, list) and all(name in list(_parameters(tool)) for name in required)


def _string(value: Any, key: str) -> str:
    """The string at a key of an object; empty where there is none."""
    text = value.get(key) if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""


def _count_types(tools: Sequence[dict[str, Any]]) -> Counter[str]:
    """The frequencies of the parameters' types, as JSON, since a type may be a list of types."""
    parameters = [parameter for tool in tools for parameter in _parameters(tool).values()]
    return Counter(canonical(p.get("type") if isinstance(p, dict) else None) for p in parameters)


def _text(tool: dict[str, Any]) -> str:
    return f"{_string(tool, 'name')} {_string(tool, 'description')}"


def _words(text: str) -> list[str]:
    words = re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z\d])(?=[A-Z])", " ", text).lower())
    return words or [text]  # else the vocabulary might be empty


def _share_similar(vectors: csr_matrix, others: csr_matrix, threshold: float) -> float:
    """The share of the vectors that have at least this cosine with one of the others; NaN where a side is empty."""
    if 0 in (vectors.shape[0], others.shape[0]):
        return math.nan
    neighbors = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(others)
    distances, _ = neighbors.kneighbors(vectors)
    return share((distances[:, 0] <= 1 - threshold).tolist())
