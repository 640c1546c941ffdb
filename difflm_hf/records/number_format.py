"""How numbers are written in texts: `$1,234.50`, `1.234,50 €`, `12.5%`, `00042`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Self


PATTERN = re.compile(r"(?:#([^0#])##)?(0+)(?:([.,])(0*)(#*))?")
NUMBER = re.compile(r"\d(?:[\d.,'’_\u00a0\u202f ]*\d)?")
CODE = re.compile(r"[A-Z]{3}")  # of a currency
UNIT = re.compile(r"\s?[^\W\d_a-z]?[^\W\d_]{0,5}[²³]?(/[^\W\d_]{1,3})?|\s?[%‰°][CF]?")
MAX_INTEGER_DIGITS = 20
MAX_DIGITS = 15  # of a float64 that decimal notation can rely on


class NumberFormat:
    """
    How all numbers of a column are written, as patterns of the Unicode LDML say it, which spreadsheets have too.

    Args:
        pattern (`str`):
            `0` for a digit that is always there, `#` for one that is not, `#,##0` for groups of three, and what stands
            before and after: `"0"`, `"00000"`, `"#,##0.00"`, `"#.##0,00 €"`, `"0.0##"`, `"$0.00"`, `"0.0%"` (whose
            12.5% is the number 12.5). The decimal point is `.` or `,`, whichever stands between digits and no groups.
            Negative numbers have `-` before all of it, or follow a pattern of their own: `"$0.00;($0.00)"`.

    Attributes:
        decimals (`int`): Digits after the decimal point, at most.
        is_plain (`bool`): Whether pandas reads such texts as numbers, given their decimal point.
        point (`str`): The decimal point; `""` of integers.

    Raises:
        `ValueError`: for what is no such pattern.
    """

    def __init__(self, pattern: str):
        self.pattern = pattern
        positive, has_own, own = pattern.partition(";")
        match = PATTERN.search(positive)
        around = match and (positive[: match.start()], positive[match.end() :])
        if match is None or any(sign in part for part in around for sign in "0#"):
            raise ValueError(f"{pattern!r} is no pattern of numbers; write one like '#,##0.00'")
        self._group, zeros, self.point, least, more = (part or "" for part in match.groups())
        self._width, self._least, self.decimals = len(zeros), len(least), len(least + more)
        self._positive, self._negative = around, ("-" + around[0], around[1])
        if has_own:
            before, is_same, after = own.partition(match[0])
            if not is_same:
                raise ValueError(f"{pattern!r} writes negative numbers with other digits than positive ones")
            self._negative = (before, after)
        self.is_plain = around == ("", "") and self._negative == ("-", "") and not self._group and self._width == 1
        self._compiled = re.compile(self.to_regex())

    def to_regex(self, num_digits: int = MAX_INTEGER_DIGITS) -> str:
        """A regular expression of numbers in this format with at most so many digits before the decimal point."""
        most = max(num_digits, self._width)
        digits = rf"\d{{{self._width},{most}}}"
        if self._group:
            digits = rf"\d{{1,3}}(?:{re.escape(self._group)}\d{{3}}){{0,{(most - 1) // 3}}}"
        if self.point:
            rest = rf"{re.escape(self.point)}\d{{{max(self._least, 1)},{self.decimals}}}"
            digits += rest if self._least else f"(?:{rest})?"
        ways = (self._positive, self._negative)
        return "|".join(re.escape(before) + f"({digits})" + re.escape(after) for before, after in ways)

    def read(self, text: str) -> int | float | None:
        """The number that a text is, or `None` where this format writes none like that."""
        match = self._compiled.fullmatch(text)
        if match is None:
            return None
        digits = match[match.lastindex]
        digits = digits.replace(self._group, "") if self._group else digits
        number = float(digits.replace(self.point, ".")) if self.point else int(digits)
        number = -number if match.lastindex == 2 else number
        return number if self.write(number) == text else None

    def write(self, number: int | float) -> str:
        """The text of a number."""
        digits = f"{abs(number):,.{self.decimals}f}" if self.point else f"{abs(int(number)):,}"
        whole, _, rest = digits.partition(".")
        whole = whole.replace(",", self._group).zfill(self._width)
        rest = rest[: self._least] + rest[self._least :].rstrip("0")
        before, after = self._negative if number < 0 else self._positive
        return before + whole + (self.point + rest if rest else "") + after

    @classmethod
    def infer(cls, texts: Sequence[str]) -> Self | None:
        """
        The format that writes most of distinct texts just as they are, and at least half; or `None`.

        Args:
            texts (`Sequence[str]`): Distinct texts.
        """
        counts: dict[tuple[str, ...], list[str]] = {}
        for text in texts:
            if found := _split(text):
                counts.setdefault(found[:3], []).append(text)
        if not counts:
            return None
        ((prefix, suffix, _), _) = max(counts.items(), key=lambda item: len(item[1]))
        own = [text for key, of in counts.items() if key[:2] == (prefix, suffix) for text in of]
        if 2 * len(own) < len(texts):
            return None
        numbers = [_split(text)[3] for text in own]
        point, group = _separators(numbers)
        negatives = {key[2] for key in counts if key[:2] == (prefix, suffix)} - {""}
        wholes = [number.split(point)[0] if point else number for number in numbers]
        rests = [number.split(point)[1] if point and point in number else "" for number in numbers]
        is_padded = any(len(whole) > 1 and whole[0] == "0" for whole in wholes)
        width = min(map(len, wholes)) if is_padded else 1
        least, most = min(map(len, rests)), max(map(len, rests))
        # With as many digits in all, zeros at the end belong to them.
        digits = point + "0" * least + "#" * (most - least) if most else ""
        number = (f"#{group}##0" if group else "0" * width) + digits
        pattern = prefix + number + suffix
        if negatives == {"()"}:
            pattern += f";({prefix}{number}{suffix})"
        elif negatives == {"inside"}:
            pattern += f";{prefix}-{number}{suffix}"
        if most > MAX_DIGITS or any(sign in prefix + suffix for sign in "0#;"):
            return None
        return cls(pattern)


@lru_cache(maxsize=1024)
def number_format(pattern: str) -> NumberFormat:
    """The [`NumberFormat`] of a pattern."""
    return NumberFormat(pattern)


def _split(text: str) -> tuple[str, str, str, str] | None:
    """What stands before and after the number in a text, how it says that it is negative, and its digits."""
    match = NUMBER.search(text)
    if match is None:
        return None
    before, after, sign = text[: match.start()], text[match.end() :], ""
    if before[:1] == "(" and after[-1:] == ")":
        before, after, sign = before[1:], after[:-1], "()"
    elif before[:1] == "-":
        before, sign = before[1:], "before"
    elif before[-1:] == "-":
        before, sign = before[:-1], "inside"
    if not _is_currency(before) or not (UNIT.fullmatch(after) or _is_currency(after)):
        return None
    return before, after, "" if sign == "before" or (sign == "inside" and not before) else sign, match[0]


def _is_currency(text: str) -> bool:
    symbol = text.strip(" \u00a0\u202f")
    return (
        not symbol or all(unicodedata.category(c) == "Sc" for c in symbol) or bool(CODE.fullmatch(text.strip() + " "))
    )


def _separators(numbers: Sequence[str]) -> tuple[str, str]:
    """The decimal point and what groups digits, each `""` where there is none."""
    signs = [re.sub(r"\d", "", number) for number in numbers]
    used = set("".join(signs))
    groups = [sign for sign in used if sign not in ".,"]
    if len(groups) > 1:
        return "", ""
    points = sorted(used & set(".,"))
    if groups:
        return (points[0] if len(points) == 1 else ""), groups[0]
    if len(points) == 2:
        both = next((s for s in signs if len(set(s)) == 2), None)
        point = both[-1] if both else ""
        return point, "".join(set(points) - {point}) if point else ""
    if not points:
        return "", ""
    # One sign alone: it groups where each number that has it has three digits after, and some have two groups or none
    # could be a fraction.
    (sign,) = points
    is_group = all(re.fullmatch(rf"[1-9]\d{{0,2}}(\{sign}\d{{3}})+", n) for n in numbers if sign in n)
    several = any(s.count(sign) > 1 for s in signs)
    without = [n for n in numbers if sign not in n]
    if several or (is_group and sign == "," and all(len(n) <= 3 for n in without)):
        return "", sign
    return sign, ""
