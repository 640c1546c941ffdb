"""What arguments may be, said in one line before any work."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


MAX_SHOWN = 200  # characters of a value in a message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = MAX_SHOWN
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxfrozenset = _SHORT.maxarray = _SHORT.maxdict = 20


def shown(value: Any) -> str:
    """A value as a message has it: in one line, and with gaps where it is long."""
    return " ".join(_SHORT.repr(value).split())


def short(text: str) -> str:
    """A text, with a gap where it is long."""
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}...{text[-MAX_SHOWN // 2 :]}"


def is_number(value: Any) -> bool:
    """Whether a value is a real number that a float holds, and no boolean."""
    is_beyond = isinstance(value, Integral) and abs(value) > sys.float_info.max
    return isinstance(value, Real) and not isinstance(value, bool) and not is_beyond


def check_choice(name: str, value: Any, allowed: Iterable[str | None]) -> None:
    """Raises a `ValueError` for an argument that is none of its choices."""
    if not isinstance(value, str | None) or value not in allowed:
        raise ValueError(f"{name}={shown(value)} is not one of {', '.join(map(repr, allowed))}")


def check_choices(arguments: Any, **choices: tuple) -> None:
    """Raises a `ValueError` for the first field of `arguments` that is none of its choices."""
    for name, allowed in choices.items():
        check_choice(name, getattr(arguments, name), allowed)


def check_integer(name: str, value: Any, least: int = 1, most: float = math.inf) -> None:
    """Raises a `ValueError` for an argument that is no integer, or out of its bounds."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        needed = "a positive integer" if least == 1 else f"an integer of {least} or more"
        raise ValueError(f"{name}={shown(value)} is not {needed}")
    if value > most:
        raise ValueError(f"{name}={shown(value)} is more than {most:,}")


def check_positive(**numbers: Any) -> None:
    """Raises a `ValueError` for the first that is no positive integer, or one that JSON files cannot hold."""
    for name, value in numbers.items():
        check_integer(name, value)
        if not isinstance(value, int):
            raise ValueError(f"{name}={shown(value)} cannot be saved; give int({name})")
