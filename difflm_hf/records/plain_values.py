"""Dataclasses of what JSON files hold, checked by their own type hints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

from huggingface_hub.dataclasses import type_validator

from ..checks import short, shown


T = TypeVar("T")


def from_plain(cls: type[T], state: Any) -> T:
    """
    Makes a dataclass of plain values.

    Args:
        cls (`type`): The dataclass.
        state (`dict`): Its fields, by name.

    Raises:
        `ValueError`: for unknown, missing and mistyped fields. The message names them.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"a {cls.__name__} is an object, not {shown(state)}")
    of = f"{cls.__name__} {shown(state['name'])}" if "name" in state else f"a {cls.__name__}"
    hints, required = get_type_hints(cls), [f.name for f in fields(cls) if _is_required(f)]
    if unknown := sorted(map(str, state.keys() - {f.name for f in fields(cls)})):
        raise ValueError(f"{of} has no field {shown(unknown[0])}; remove it")
    if missing := [name for name in required if name not in state]:
        raise ValueError(f"{of} needs the field {missing[0]!r}; add it")
    for name, value in state.items():
        try:
            type_validator(name, value, hints[name])
        except TypeError as error:
            raise ValueError(f"{of}: {short(str(error))}") from error
    return cls(**state)


def _is_required(f: Any) -> bool:
    return f.init and f.default is MISSING and f.default_factory is MISSING
