"""Conditions as an expression, in the syntax of `pandas.DataFrame.query`. It is parsed, and never run as code."""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..checks import shown
from .predicates import AllOf, Between, Not, is_null


RowPredicate = Callable[[pd.DataFrame], np.ndarray]


def _multiply(left: Any, right: Any) -> Any:
    """The product of numbers; that of a text and a number may be as long as memory."""
    for side in (left, right):
        if isinstance(side.iloc[0] if isinstance(side, pd.Series) and len(side) else side, str):
            raise TypeError("a text has no product")
    return left * right


COMPARISONS = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: _multiply, ast.Div: operator.truediv}
# Strings, in which backticks mean nothing, and names in backticks
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]+)`""")
ALLOWED = "comparisons, in, not in, and, or, not, +, -, *, /, columns, numbers, strings, lists, True, False and None"


def parse_where(
    where: str,
    names: list[str],
    leaf: Callable[[str, Any], RowPredicate],
    column: Callable[[str, pd.DataFrame], pd.Series],
) -> tuple[dict[str, Any], list[RowPredicate]]:
    """
    Reads an expression such as `"income == '>50K' and 30 <= age <= 40"`.

    Columns whose names are no Python names stand in backticks: `` `education-num` > 9 ``. There are comparisons, also
    chained and between columns, `in` and `not in` with a list, `and`, `or`, `not` (`&`, `|`, `~`), and arithmetic.
    `column == None` is for nulls.

    Args:
        where (`str`): The expression.
        names (`list[str]`): The columns.
        leaf (`Callable`): Checks a condition on a field, and makes it a function of a table.
        column (`Callable`): Takes a name and a table, and gives the column as others relate to it.

    Returns:
        A condition for each field that there is one on alone, and what relates several fields, as functions of a table
        that say which rows satisfy it.

    Raises:
        `ValueError`: for anything else, such as a function call or an attribute, and for unknown columns.
    """
    clause = _Reader(where, names, leaf, column).read()
    conditions: dict[str, list[Any]] = {}
    predicates = []
    for part in clause.parts or [clause]:
        if part.condition is _NONE:
            predicates.append(part.holds)
        else:
            conditions.setdefault(next(iter(part.names)), []).append(part.condition)
    return {
        name: AllOf(tuple(given)) if len(given) > 1 else given[0] for name, given in conditions.items()
    }, predicates


_NONE = object()  # where there is no condition on one field alone


@dataclass
class _Clause:
    """A part of the expression: what it is about, and the condition that it is, if that is about one field."""

    names: frozenset[str]
    holds: RowPredicate
    condition: Any = _NONE
    parts: list[_Clause] | None = None  # of a conjunction

    @property
    def is_simple(self) -> bool:
        return self.condition is not _NONE


class _Reader:
    def __init__(self, where: str, names: list[str], leaf: Callable, column: Callable):
        if not isinstance(where, str) or not where.strip():
            raise ValueError(f"where={shown(where)} is no expression, such as \"income == '>50K' and age >= 30\"")
        self.where, self.names, self.leaf, self.column = where, names, leaf, column
        self.aliases: dict[str, str] = {}
        self.prefix = "_column"
        while self.prefix in where:
            self.prefix += "_"

    def read(self) -> _Clause:
        def alias(match: re.Match) -> str:
            if match[1] is None:
                return match[0]  # a string
            name = f"{self.prefix}{len(self.aliases)}"
            self.aliases[name] = match[1]
            return name

        try:
            tree = ast.parse(QUOTED.sub(alias, self.where).strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"where={shown(self.where)} cannot be read: {error}. Equal is ==, strings stand in quotes, and "
                "names that are no single word in `backticks`"
            ) from error
        try:
            return self._clause(tree.body)
        except RecursionError as error:
            raise ValueError(f"where={shown(self.where)} is nested too deeply") from error

    def _refuse(self, node: ast.AST, reason: str = "") -> ValueError:
        written = ast.unparse(node)
        for alias, name in self.aliases.items():
            written = written.replace(alias, f"`{name}`")
        return ValueError(
            f"where={shown(self.where)}: {shown(written)} {reason or f'may not stand there; it takes {ALLOWED}'}"
        )

    def _clause(self, node: ast.AST) -> _Clause:
        if isinstance(node, ast.BoolOp):
            return self._joined(isinstance(node.op, ast.And), [self._clause(value) for value in node.values])
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            parts = [self._clause(node.left), self._clause(node.right)]
            return self._joined(isinstance(node.op, ast.BitAnd), parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)):
            part = self._clause(node.operand)
            condition = Not(part.condition) if part.is_simple else _NONE
            return _Clause(part.names, lambda table: ~part.holds(table), condition)
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            parts = [self._comparison(*c) for c in zip(operands, node.ops, operands[1:])]
            return self._joined(True, parts) if len(parts) > 1 else parts[0]
        if isinstance(node, ast.Name):  # a column of booleans
            return self._simple(self._column(node), True)
        raise self._refuse(node)

    def _joined(self, is_and: bool, parts: list[_Clause]) -> _Clause:
        names = frozenset().union(*(part.names for part in parts))
        join = np.logical_and if is_and else np.logical_or

        def holds(table: pd.DataFrame) -> np.ndarray:
            return functools.reduce(join, (part.holds(table) for part in parts))

        if len(names) == 1 and all(part.is_simple for part in parts):
            conditions = [part.condition for part in parts]
            return _Clause(names, holds, AllOf(tuple(conditions)) if is_and else conditions)
        flat = [inner for part in parts for inner in part.parts or [part]]
        return _Clause(names, holds, parts=flat if is_and else None)

    def _comparison(self, left: ast.AST, op: ast.AST, right: ast.AST) -> _Clause:
        if isinstance(op, (ast.In, ast.NotIn)):
            name, values = self._column(left), self._literal(right)
            if not isinstance(values, list):
                raise self._refuse(right, "is no list of values")

            return self._simple(name, values if isinstance(op, ast.In) else Not(values))
        if type(op) not in COMPARISONS:
            raise self._refuse(ast.Compare(left, [op], [right]))
        if self._is_literal(left) and not self._is_literal(right):
            left, right = right, left
            op = MIRRORED.get(type(op), type(op))()
        compare, names = COMPARISONS[type(op)], self._columns(left) | self._columns(right)
        if not names:
            raise self._refuse(ast.Compare(left, [op], [right]), "names no column")
        if isinstance(left, ast.Name) and self._is_literal(right):
            return self._simple(self._column(left), self._condition(op, self._literal(right), right))
        values = self._value(left), self._value(right)

        def holds(table: pd.DataFrame) -> np.ndarray:
            first, second = (value(table) for value in values)
            return np.asarray(compare(first, second).fillna(False), bool)

        return _Clause(frozenset(names), holds)

    def _simple(self, name: str, condition: Any) -> _Clause:
        return _Clause(frozenset([name]), self.leaf(name, condition), condition)

    def _condition(self, op: ast.AST, value: Any, node: ast.AST) -> Any:
        if isinstance(value, list):
            raise self._refuse(node, "is a list; write `in` before it")
        if is_null(value) and not isinstance(op, (ast.Eq, ast.NotEq)):
            raise self._refuse(node, "has no order; compare it by == or !=")
        if isinstance(op, ast.Eq):
            return value
        if isinstance(op, ast.NotEq):
            return Not(value)
        if isinstance(op, (ast.Gt, ast.GtE)):
            return Between(left=value, inclusive="both" if isinstance(op, ast.GtE) else "neither")
        return Between(right=value, inclusive="both" if isinstance(op, ast.LtE) else "neither")

    def _column(self, node: ast.AST) -> str:
        if not isinstance(node, ast.Name):
            raise self._refuse(node, "is no column")
        name = self.aliases.get(node.id, node.id)
        if name not in self.names:
            raise ValueError(
                f"where={shown(self.where)}: no column {shown(name)}; the columns are {self.names}. Strings stand in "
                "quotes, and names that are no single word in `backticks`"
            )
        return name

    def _columns(self, node: ast.AST) -> set[str]:
        return {self._column(part) for part in ast.walk(node) if isinstance(part, ast.Name)}

    def _is_literal(self, node: ast.AST) -> bool:
        return not any(isinstance(part, ast.Name) for part in ast.walk(node))

    def _literal(self, node: ast.AST) -> Any:
        is_computed = isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and self._is_literal(node)
        try:
            value = self._value(node)(None) if is_computed else ast.literal_eval(node)
        except ArithmeticError as error:
            raise self._refuse(node, f"cannot be computed ({error})") from error
        except (TypeError, ValueError) as error:
            raise self._refuse(node) from error
        if isinstance(value, (complex, bytes)) or value is ...:
            raise self._refuse(node)
        return list(value) if isinstance(value, (tuple, set)) else value

    def _value(self, node: ast.AST) -> Callable[[pd.DataFrame], Any]:
        """A side of a comparison, as a function of a table."""
        if isinstance(node, ast.Name):
            name = self._column(node)
            return lambda table: self.column(name, table)
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            sides, apply = (self._value(node.left), self._value(node.right)), ARITHMETIC[type(node.op)]
            return lambda table: apply(*(_wide(side(table)) for side in sides))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            operand = self._value(node.operand)
            return lambda table: -_wide(operand(table))
        if self._is_literal(node):
            value = self._literal(node)
            if is_null(value) or isinstance(value, list):
                raise self._refuse(node)
            return lambda table: value
        raise self._refuse(node)


def _wide(value: Any) -> Any:
    """Numbers that sums of do not overflow."""
    is_small = isinstance(value, pd.Series) and pd.api.types.is_numeric_dtype(value.dtype)
    return value.astype("float64") if is_small else value
