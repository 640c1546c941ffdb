"""Metrics that compare generated documents, such as JSON records, code and text, with real ones."""

from __future__ import annotations

import ast
import json
import math
import re
import reprlib
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...records.nested import is_valid, make_validator


TOKEN = re.compile(r"\w+|[^\w\s]")


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
    validator = None if schema is None else make_validator(schema)
    documents, real_documents = _read_json("synthetic", synthetic), _read_json("train", train)
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
    scores["key_coverage"] = _share(path in seen for path in known)
    scores["unknown_keys"] = _share(not own <= known for own in paths)
    if key is None:
        scores["novelty"] = _novelty(texts, real_documents)
    else:
        values = [_canonical(record[key]) if key in record else None for record in records]
        real_values = {_canonical(record[key]) for record in real_records if key in record}
        if not real_values:
            raise ValueError(f"no record of `train` has the key {key!r}")
        scores["novelty"] = _share(value is not None and value not in real_values for value in values)
    scores["unique"] = _unique(texts)
    return scores | _diversity(texts, real_documents, seed, _distinct(1, 2))


def evaluate_code(synthetic: Sequence[str], train: Sequence[str], seed: int = 0) -> dict[str, float]:
    """
    Compares generated Python code with that which the generator was trained on. Nothing is executed.

    What parses and compiles depends on the version of Python that runs this.

    Args:
        synthetic (`Sequence[str]`): The generated documents.
        train (`Sequence[str]`): The real documents that the generator was trained on.
        seed (`int`, defaults to 0): Seed of the subsamples.

    Returns:
        `dict[str, float]`:
            - `parse_rate`: the share of `synthetic` that `ast.parse` reads.
            - `compile_rate`: the share of `synthetic` that compiles, which a `return` outside a function does not.
            - `novelty`: the share of `synthetic` that is not in `train`. Documents that parse are compared without
              their comments and spacing, others as text.
            - `unique`: the number of distinct synthetic documents, compared so, divided by that of all.
            - `length_similarity`: 1 minus the Kolmogorov-Smirnov statistic of the numbers of lines; 1 is best.
            - `node_types_similarity`: 1 minus the total variation distance of the frequencies of `ast` node types in
              the documents that parse; 1 is best, NaN where none parses.
            - `distinct_1`, `distinct_2`: [`distinct_n`] of equally many documents of both; with `_real` for `train`.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`: when a list is empty.
    """
    _check_texts("synthetic", synthetic)
    _check_texts("train", train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the code; where warnings are errors, it would not even parse
        trees, real_trees = ([_attempt(ast.parse, document) for document in part] for part in (synthetic, train))
        compile_rate = _share(_attempt(_compile, document) is not None for document in synthetic)
    normalised, real_normalised = _normalise(synthetic, trees), _normalise(train, real_trees)
    return {
        "parse_rate": _share(tree is not None for tree in trees),
        "compile_rate": compile_rate,
        "novelty": _novelty(normalised, real_normalised),
        "unique": _unique(normalised),
        "length_similarity": _length_similarity(synthetic, train, lambda document: len(document.splitlines())),
        "node_types_similarity": _node_types_similarity(trees, real_trees),
    } | _diversity(synthetic, train, seed, _distinct(1, 2))


def evaluate_text(synthetic: Sequence[str], train: Sequence[str], seed: int = 0) -> dict[str, float]:
    """
    Compares generated texts with those that the generator was trained on.

    Args:
        synthetic (`Sequence[str]`): The generated documents, at least two.
        train (`Sequence[str]`): The real documents that the generator was trained on, at least two.
        seed (`int`, defaults to 0): Seed of the subsamples.

    Returns:
        `dict[str, float]`:
            - `novelty`: the share of `synthetic` that is not in `train`.
            - `unique`: the number of distinct synthetic documents divided by that of all.
            - `length_similarity`: 1 minus the Kolmogorov-Smirnov statistic of the numbers of words; 1 is best.
            - `distinct_1`, `distinct_2`, `distinct_3`: [`distinct_n`] of equally many documents of both; with `_real`
              for `train`, which they should come close to.
            - `self_bleu`: [`self_bleu`] of the same documents; with `_real` for `train`.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`: when a list has fewer than two documents.
    """
    _check_texts("synthetic", synthetic, at_least=2)
    _check_texts("train", train, at_least=2)
    scores = {
        "novelty": _novelty(synthetic, train),
        "unique": _unique(synthetic),
        "length_similarity": _length_similarity(synthetic, train, lambda document: len(document.split())),
    }
    return scores | _diversity(synthetic, train, seed, _distinct(1, 2, 3) | {"self_bleu": self_bleu})


def distinct_n(documents: Sequence[str], n: int) -> float:
    """
    Distinct-n (Li et al. 2016, [arXiv 1510.03055](https://arxiv.org/abs/1510.03055)): the number of distinct n-grams
    of tokens divided by that of all, over the whole set.

    It falls with the number of documents: compare only scores of equally many.

    Args:
        documents (`Sequence[str]`): The documents.
        n (`int`): The length of the n-grams.

    Returns:
        `float`: The share, the higher the more diverse; 0 where no document has `n` tokens.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`: when there are no documents, or `n` is less than 1.
    """
    _check_texts("documents", documents)
    if n < 1:
        raise ValueError(f"`n` is {n}; n-grams have at least one token")
    counts = Counter(ngram for document in documents for ngram in _ngrams(tokenize(document), n))
    return len(counts) / counts.total() if counts else 0.0


def self_bleu(documents: Sequence[str], max_order: int = 4) -> float:
    """
    Self-BLEU (Zhu et al. 2018, [arXiv 1802.01886](https://arxiv.org/abs/1802.01886)): the mean over documents of the
    sentence BLEU of each with all the others as its references.

    BLEU is that of [sacreBLEU](https://github.com/mjpost/sacrebleu)'s `sentence_bleu` on the tokens of [`tokenize`]:
    exponential smoothing, the effective order, and the reference of the closest length for the brevity penalty. The
    time is linear in the number of n-grams. The score rises with the number of documents: compare only scores of
    equally many.

    Args:
        documents (`Sequence[str]`): The documents, at least two.
        max_order (`int`, defaults to 4): The length of the longest n-grams.

    Returns:
        `float`: The mean, from 0 to 1, the lower the more diverse.

    Raises:
        `TypeError`: for a document that is not a `str`.
        `ValueError`: when there are fewer than two documents, or `max_order` is less than 1.
    """
    _check_texts("documents", documents, at_least=2)
    if max_order < 1:
        raise ValueError(f"`max_order` is {max_order}; n-grams have at least one token")
    tokens = [tokenize(document) for document in documents]
    counts = [Counter(g for n in range(1, max_order + 1) for g in _ngrams(words, n)) for words in tokens]

    # The most that the others have of an n-gram is the largest count, or the second largest for the one that has it.
    largest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for owner, ngrams in enumerate(counts):
        for ngram, count in ngrams.items():
            first, first_owner, second = largest.get(ngram, (0, owner, 0))
            if count > first:
                largest[ngram] = count, owner, first
            elif count > second:
                largest[ngram] = first, first_owner, count

    lengths = sorted(map(len, tokens))
    scores = []
    for index, (words, ngrams) in enumerate(zip(tokens, counts)):
        matches = [0] * max_order
        for ngram, count in ngrams.items():
            first, owner, second = largest[ngram]
            matches[len(ngram) - 1] += min(count, second if owner == index else first)
        scores.append(_bleu(matches, len(words), _closest_other(lengths, len(words))))
    return math.fsum(scores) / len(scores)


def tokenize(text: str) -> list[str]:
    """The words of a text, and all other characters but spaces one by one. Case is kept."""
    return TOKEN.findall(text)


def _check_documents(name: str, documents: Sequence[Any], types: tuple[type, ...], at_least: int = 1) -> None:
    if isinstance(documents, str) or not isinstance(documents, Sequence):
        raise TypeError(f"`{name}` is of type {type(documents).__name__}; pass a list of documents")
    if len(documents) < at_least:
        raise ValueError(f"`{name}` {'has one document' if documents else 'is empty'}; pass at least {at_least}")
    for index, document in enumerate(documents):
        if not isinstance(document, types):
            expected = " or ".join(t.__name__ for t in types)
            raise TypeError(f"`{name}[{index}]` is of type {type(document).__name__}; documents are {expected}")


def _check_texts(name: str, documents: Sequence[str], at_least: int = 1) -> None:
    _check_documents(name, documents, (str,), at_least)


def _share(flags: Iterable[bool]) -> float:
    flags = list(flags)
    return sum(flags) / len(flags) if flags else math.nan


def _novelty(synthetic: Sequence[str], train: Sequence[str]) -> float:
    known = set(train)
    return _share(document not in known for document in synthetic)


def _unique(documents: Sequence[str]) -> float:
    return len(set(documents)) / len(documents) if documents else math.nan


def _length_similarity(synthetic: Sequence[str], train: Sequence[str], length: Callable[[str], int]) -> float:
    """1 minus the two-sample Kolmogorov-Smirnov statistic: the largest gap between the cumulative distributions."""
    lengths, real_lengths = (np.sort([length(document) for document in part]) for part in (synthetic, train))
    values = np.concatenate([lengths, real_lengths])
    cumulative, real_cumulative = (np.searchsorted(x, values, "right") / len(x) for x in (lengths, real_lengths))
    return 1 - float(np.abs(cumulative - real_cumulative).max())


def _distinct(*orders: int) -> dict[str, Callable[[Sequence[str]], float]]:
    return {f"distinct_{n}": partial(distinct_n, n=n) for n in orders}


def _diversity(
    synthetic: Sequence[str], train: Sequence[str], seed: int, metrics: dict[str, Callable[[Sequence[str]], float]]
) -> dict[str, float]:
    """Metrics that depend on the number of documents, of equally many of both."""
    generator = np.random.default_rng(seed)
    size = min(len(synthetic), len(train))
    scores = {}
    for suffix, documents in {"": synthetic, "_real": train}.items():
        drawn = [documents[index] for index in generator.permutation(len(documents))[:size]]
        scores |= {f"{name}{suffix}": metric(drawn) if drawn else math.nan for name, metric in metrics.items()}
    return scores


def _ngrams(tokens: list[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(n)))


def _closest_other(lengths: list[int], length: int) -> int:
    """Of sorted lengths, the one closest to one of them, itself left out; the shorter of two as close."""
    own = bisect_left(lengths, length)
    neighbours = lengths[max(own - 1, 0) : own] + lengths[own + 1 : own + 2]
    return min(neighbours, key=lambda other: (abs(other - length), other))


def _bleu(matches: list[int], length: int, reference_length: int) -> float:
    """BLEU of a document of `length` tokens, by the number of its n-grams of each order that references have."""
    if not any(matches):
        return 0.0
    smoothing = 1.0
    logarithms = []
    for order, count in enumerate(matches[:length]):
        if count == 0:
            smoothing /= 2
        logarithms.append(math.log((count or smoothing) / (length - order)))
    brevity = min(0.0, 1 - reference_length / length)
    return math.exp(brevity + math.fsum(logarithms) / len(logarithms))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _read_json(name: str, documents: Sequence[str | dict]) -> list[str | None]:
    """The canonical JSON of each document, or `None` where it is not a JSON object."""
    _check_documents(name, documents, (str, dict))
    texts = []
    for index, document in enumerate(documents):
        try:
            # A dict goes through text too, which turns its keys into strings and its tuples into lists.
            record = json.loads(document if isinstance(document, str) else json.dumps(document))
            texts.append(_canonical(record) if isinstance(record, dict) else None)
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


def _attempt(function: Callable[[Any], Any], source: str | ast.Module) -> Any:
    """The function's result, or `None` where the source is too much for Python."""
    try:
        return function(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two from deep nesting
        return None


def _compile(document: str) -> Any:
    return compile(document, "<document>", "exec", dont_inherit=True)


def _normalise(documents: Sequence[str], trees: Sequence[ast.Module | None]) -> list[str]:
    """Code without comments and spacing, or as it is where it does not parse."""
    codes = [None if tree is None else _attempt(ast.unparse, tree) for tree in trees]
    return [document if code is None else code for document, code in zip(documents, codes)]


def _node_types_similarity(trees: Sequence[ast.Module | None], real_trees: Sequence[ast.Module | None]) -> float:
    counts, real_counts = (
        Counter(type(node) for tree in part if tree is not None for node in ast.walk(tree))
        for part in (trees, real_trees)
    )
    if not counts or not real_counts:
        return math.nan
    # What two distributions share is 1 minus their total variation distance; in integers, it is exact.
    total, real_total = counts.total(), real_counts.total()
    shared = sum(min(count * real_total, real_counts[kind] * total) for kind, count in counts.items())
    return shared / (total * real_total)
