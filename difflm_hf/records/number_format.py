"""How numbers are written in texts: `$1,234.50`, `1.234,50 €`, `12.5%`, `00042`."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Self


PATTERN = re.compile(r"(?:#([^0#])##(?=0))?(0+|#(?=[.,]))(?:([.,])(0*)(#*))?")
NUMBER = re.compile(r"[.,]?\d(?:[\d.,'’_\u00a0\u202f ]*\d)?")
CODE = re.compile(r"[A-Z]{3}")  # of a currency
UNIT = re.compile(r"\s?[^\W\d_a-z]?[^\W\d_]{0,5}[²³]?(/[^\W\d_]{1,3})?|\s?[%‰°][CF]?")
MAX_LENGTH = 64  # of a text that may be a number
MAX_INTEGER_DIGITS = 20
MAX_DECIMALS = 15  # of a float64 that decimal notation can rely on


class NumberFormat:
    """
    How all numbers of a column are written, as patterns of the Unicode LDML say it, which spreadsheets have too.

    Args:
        pattern (`str`):
            `0` for a digit that is always there, `#` for one that is not, `#,##0` for groups of three, and what stands
            before and after: `"0"`, `"00000"`, `"#,##0.00"`, `"#.##0,00 €"`, `"0.0##"`, `"#.00"`, `"$0.00"`, `"0.0%"`
            (whose 12.5% is the number 12.5). The decimal point is `.` or `,`, whichever does not stand in `#,##0`.
            Negative numbers have `-` before all of it, or follow a pattern of their own: `"$0.00;($0.00)"`.

    Attributes:
        decimals (`int`): Digits after the decimal point, at most.
        is_ambiguous (`bool`): Whether digits are grouped by what may be the decimal point, too: `1,234`.
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
        self._width, self._least, self.decimals = zeros.count("0"), len(least), len(least + more)
        self._positive, self._negative = around, ("-" + around[0], around[1])
        if has_own:
            before, is_same, after = own.partition(match[0])
            if not is_same:
                raise ValueError(f"{pattern!r} writes negative numbers with other digits than positive ones")
            self._negative = (before, after)
        is_thousands = (self._least, self.decimals) == (3, 3) and not self._group
        self.is_ambiguous = is_thousands or (self._group in (".", ",") and not self.point)
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
        whole = whole.replace(",", self._group).zfill(self._width) if self._width or whole != "0" else ""
        rest = rest[: self._least] + rest[self._least :].rstrip("0")
        before, after = self._negative if math.copysign(1, number) < 0 else self._positive
        return before + whole + (self.point + rest if rest else "") + after

    @classmethod
    def infer(cls, texts: Sequence[str], decimal: str | None = None) -> Self | None:
        """
        The format of most of distinct texts, if that is at least half of them; or `None`.

        Args:
            texts (`Sequence[str]`): Distinct texts.
            decimal (`str`, *optional*): What the decimal point is, where they have one.
        """
        found = [parts for text in texts if (parts := _split(text)) is not None]
        around = Counter((prefix, suffix) for prefix, suffix, _, _ in found)
        if not around or 2 * max(around.values()) < len(texts):
            return None
        (prefix, suffix), _ = around.most_common(1)[0]
        found = [parts for parts in found if parts[:2] == (prefix, suffix)]
        signs, numbers = {sign for _, _, sign, _ in found}, [number for *_, number in found]
        point, group = _separators(numbers, decimal)
        wholes, rests = zip(*((n.rpartition(point)[::2] if point and point in n else (n, "")) for n in numbers))
        least, most = min(map(len, rests)), max(map(len, rests))
        if most > MAX_DECIMALS or any(sign in prefix + suffix for sign in "0#;"):
            return None
        is_padded = any(len(whole) > 1 and whole[0] == "0" for whole in wholes)
        digits = f"#{group}##0" if group else "0" * (min(map(len, wholes)) if is_padded else 1)
        digits = "#" if "" in wholes else digits
        digits += point + "0" * least + "#" * (most - least) if most else ""
        negative = {"()": f";({prefix}{digits}{suffix})", "inside": f";{prefix}-{digits}{suffix}"}
        ways = [negative[sign] for sign in signs if sign in negative]
        format = cls(prefix + digits + suffix + (ways[0] if len(ways) == 1 else ""))
        return format if 2 * sum(format.read(text) is not None for text in texts) >= len(texts) else None


@lru_cache(maxsize=1024)
def number_format(pattern: str) -> NumberFormat:
    """The [`NumberFormat`] of a pattern."""
    return NumberFormat(pattern)


def _split(text: str) -> tuple[str, str, str, str] | None:
    """What stands before and after the number in a text, how it says that it is negative, and its digits."""
    match = NUMBER.search(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        return None
    before, after, sign = text[: match.start()], text[match.end() :], ""
    if before[:1] == "(" and after[-1:] == ")":
        before, after, sign = before[1:], after[:-1], "()"
    elif before[:1] == "-":
        before, sign = before[1:], "before"
    elif before[-1:] == "-":
        before, sign = before[:-1], "inside"
    if sign == "inside" and before[-1:].isalpha():  # of a code, such as CRM-160141
        return None
    if not _is_currency(before) or not (UNIT.fullmatch(after) or _is_currency(after)):
        return None
    return before, after, "" if sign == "before" or (sign == "inside" and not before) else sign, match[0]


def _is_currency(text: str) -> bool:
    symbol = text.strip(" \u00a0\u202f")
    return all(unicodedata.category(sign) == "Sc" for sign in symbol) or CODE.fullmatch(symbol) is not None


def _separators(numbers: Sequence[str], decimal: str | None) -> tuple[str, str]:
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
    (sign,) = points
    if decimal is not None:
        return (sign, "") if sign == decimal else ("", sign)
    # Alone it groups digits where some number has it twice; and a comma, where each number can be read so.
    is_group = all(re.fullmatch(rf"[1-9]\d{{0,2}}({re.escape(sign)}\d{{3}})+|\d{{1,3}}", n) for n in numbers)
    is_twice = any(s.count(sign) > 1 for s in signs)
    return ("", sign) if is_group and (is_twice or sign == ",") else (sign, "")
