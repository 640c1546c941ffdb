"""Metrics that compare generated Python code with real code. Nothing is executed."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ...checks import check_integer
from .measures import check_texts, compare_diversity, distinct, length_similarity, novelty, overlap, share, unique


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
    check_integer("seed", seed, 0)
    check_texts("synthetic", synthetic)
    check_texts("train", train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the code; where warnings are errors, it would not even parse
        trees, real_trees = ([_attempt(ast.parse, document) for document in part] for part in (synthetic, train))
        compile_rate = share(_attempt(_compile, document) is not None for document in synthetic)
    normalised, real_normalised = _normalise(synthetic, trees), _normalise(train, real_trees)
    return {
        "parse_rate": share(tree is not None for tree in trees),
        "compile_rate": compile_rate,
        "novelty": novelty(normalised, real_normalised),
        "unique": unique(normalised),
        "length_similarity": length_similarity(synthetic, train, lambda document: len(document.splitlines())),
        "node_types_similarity": overlap(_count_node_types(trees), _count_node_types(real_trees)),
    } | compare_diversity(synthetic, train, seed, distinct(1, 2))


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


def _count_node_types(trees: Sequence[ast.Module | None]) -> Counter[type[ast.AST]]:
    return Counter(type(node) for tree in trees if tree is not None for node in ast.walk(tree))
