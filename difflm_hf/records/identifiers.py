"""What tells records apart."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .field import Field
from .rules import Rule


PATTERN_PART = re.compile(
    r"(?:\[(?P<class>[^\]\\^]+)\]|(?P<literal>\\d|\\[^\w\s]|[^\\\[\]{}()*+?|^$.]))(?:\{(?P<count>\d+)\})?"
)
CLASS_RANGE = re.compile("(.)-(.)")


@dataclass(frozen=True)
class Identifier(Rule):
    r"""
    A column that tells records apart and says nothing else of them. It is not learnt: generated records get values
    that do not repeat, whatever the number of blocks and processes, and that are the same for the same seed.

    Args:
        name (`str`): The column, of texts or integers.
        pattern (`str`, *optional*):
            Of texts: literal characters, `\d`, classes such as `[A-F0-9]`, and `{n}` after one of these, as in
            `CUST-\d{6}`. Integers have none, and lie within the bounds of their field.
    """

    name: str
    pattern: str | None = None

    types = ("text", "integer")
    is_of_each = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name,)

    def check(self, fields: Mapping[str, Field]) -> None:
        super().check(fields)
        f = fields[self.name]
        if f.apart:
            raise ValueError(f"{self}: column {self.name!r} may be {f.apart[0]}, and a record needs its identifier")
        if self.pattern is not None and not isinstance(self.pattern, str):
            raise ValueError(f"{self}: the pattern {self.pattern!r} is no string")
        if (f.type == "text") != (self.pattern is not None):
            raise ValueError(f"{self}: give a pattern for texts, and none for integers; {self.name!r} is of {f.type}")
        self.alphabets()

    def alphabets(self) -> list[str]:
        """The characters that may stand at each place."""
        if self.pattern is None:
            return []
        alphabets, end = [], 0
        for part in PATTERN_PART.finditer(self.pattern):
            if part.start() != end:
                break
            end = part.end()
            literal, characters = part["literal"], part["class"]
            if characters:
                alphabet = CLASS_RANGE.sub(lambda r: "".join(map(chr, range(ord(r[1]), ord(r[2]) + 1))), characters)
            else:
                alphabet = "0123456789" if literal == r"\d" else literal[-1]
            alphabets += ["".join(dict.fromkeys(alphabet))] * int(part["count"] or 1)
        if end != len(self.pattern) or not alphabets or not all(alphabets):
            raise ValueError(
                rf"{self}: {self.pattern[end:]!r} is not understood; a pattern has characters, \d, classes [A-F0-9] "
                "and counts {n}"
            )
        return alphabets

    def capacity(self, fields: Mapping[str, Field]) -> int:
        """How many identifiers there are."""
        if self.pattern is None:
            low, high = fields[self.name].bounds
            return high - low + 1
        return math.prod(map(len, self.alphabets()))

    def values(self, seed: int, start: int, num: int, fields: Mapping[str, Field]) -> pd.Series:
        """The identifiers of `num` records of a seed from record `start` on: an affine permutation of all."""
        f, size, rng = fields[self.name], self.capacity(fields), random.Random(seed)
        first = rng.randrange(size)
        while math.gcd(factor := rng.randrange(1, size + 1), size) != 1:
            pass
        numbers = [(factor * k + first) % size for k in range(start, start + num)]
        if self.pattern is None:
            written = np.array([f.bounds[0] + number for number in numbers], np.int64)
        else:
            alphabets = self.alphabets()
            written = np.array([_spell(number, alphabets) for number in numbers], dtype=object)
        return f.to_series(written, np.zeros(num, bool))

    def holds(self, table: pd.DataFrame, fields: Mapping[str, Field]) -> np.ndarray:
        held = ~table[self.name].duplicated().to_numpy()
        if self.pattern is not None:
            expression = re.compile("".join(f"[{re.escape(alphabet)}]" for alphabet in self.alphabets()))
            held &= np.fromiter(
                (bool(expression.fullmatch(text)) for text in table[self.name].astype(str)), bool, len(table)
            )
        return held

    def to_json_schema(self, fields: Mapping[str, Field]) -> dict[str, Any]:
        if self.pattern is None:
            return {}
        return {"properties": {self.name: {"pattern": f"^{self.pattern}$"}}}


def _spell(number: int, alphabets: list[str]) -> str:
    characters = []
    for alphabet in reversed(alphabets):
        number, place = divmod(number, len(alphabet))
        characters.append(alphabet[place])
    return "".join(reversed(characters))
