"""Target shares of the values of fields, as a condition for each record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..checks import check_integer, shown
from ..records import CompactCodec
from ..records.field import naming_column
from .fields import check_name
from .predicates import domain_of


MAX_BALANCED = 10**9  # records, of each of which there is a value in memory
Shares = str | Mapping[str, Mapping[Any, float]]


def balanced_rows(codec: CompactCodec, balance: Shares, num_records: int) -> pd.DataFrame:
    """
    A value of each field for each record, such that all first records have about the shares that are asked for.

    Record i of field k has the value that ⟨(i + ½) √pₖ⟩ falls to, for the k-th prime pₖ and the fraction ⟨·⟩: a
    sequence that is spread evenly (Weyl, 1916), also over pairs of fields.

    Args:
        codec (`CompactCodec`): The codec of the records.
        balance (`str` or `Mapping`):
            A category or a boolean whose values are to be equally frequent, or by field the share of each value. What
            these leave of 1 is not given to others: they have to sum up to 1.
        num_records (`int`): Records.

    Raises:
        `ValueError`: for fields that have no categories, for values that they do not have, and for shares that are no
            probabilities. The message names the field.
    """
    check_integer("num_records", num_records, most=MAX_BALANCED)
    if isinstance(balance, str):
        _check_field(codec, balance)
        values = codec.tokens[balance].values
        balance = {balance: dict.fromkeys(values, 1 / len(values))}
    if not isinstance(balance, Mapping) or not balance or len(balance) > len(PRIMES):
        raise ValueError(
            f"balance={shown(balance)} is no field, nor a dict of shares for at most {len(PRIMES)} fields"
        )
    columns = {}
    for (name, shares), prime in zip(balance.items(), PRIMES):
        _check_field(codec, name)
        with naming_column(name):
            if not isinstance(shares, Mapping):
                raise ValueError(f"its shares are {shown(shares)}, and no dict; write {{value: share}}")
            for value in shares:
                domain_of(value, codec.schema[name], None)
            numbers = np.array([_to_share(share) for share in shares.values()])
            if abs(numbers.sum() - 1) > 1e-6:
                raise ValueError(f"the shares sum up to {numbers.sum():.6g}, and not to 1")
        fractions = np.mod((np.arange(num_records) + 0.5) * np.sqrt(prime), 1)
        chosen = np.searchsorted(numbers.cumsum(), fractions, side="right").clip(max=len(numbers) - 1)
        columns[name] = pd.Series([list(shares)[k] for k in chosen], dtype=object)
    return pd.DataFrame(columns)


PRIMES = (2, 3, 5, 7, 11, 13)


def _check_field(codec: CompactCodec, name: str) -> None:
    check_name(codec, name)
    if codec.tokens[name].grid is not None:
        kind = "a number" if codec.schema[name].is_numeric else "of too many categories"
        raise ValueError(f"column {name!r} is {kind}, whose values have no shares; balance a category")


def _to_share(share: Any) -> float:
    if isinstance(share, bool) or not isinstance(share, (int, float, np.number)) or not 0 <= share <= 1:
        raise ValueError(f"the share {shown(share)} is not a number between 0 and 1")
    return float(share)
