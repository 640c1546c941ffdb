"""What arguments may be, said in one line before any work."""

from __future__ import annotations

from typing import Any


def check_choices(arguments: Any, **choices: tuple) -> None:
    """Raises a `ValueError` for the first field of `arguments` that is none of its choices."""
    for name, allowed in choices.items():
        if (value := getattr(arguments, name)) not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def check_positive(**numbers: Any) -> None:
    """Raises a `ValueError` for the first that is no positive integer."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} is not a positive integer")
