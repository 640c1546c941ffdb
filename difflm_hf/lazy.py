"""Packages whose names are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from threading import RLock
from typing import Any


_importing = RLock()  # transformers does not bear being imported by several threads at once


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """
    Makes a package look for its names, and for its modules, when they are asked for.

    Args:
        package (`str`): The package's `__name__`.
        names (`Mapping[str, Sequence[str]]`): Its public names, by the module of the package that each is in.

    Returns:
        What is to be its `__all__`, `__getattr__` and `__dir__` (PEP 562).
    """
    modules = {name: module for module, inside in names.items() for name in inside}

    def getattr_(name: str) -> Any:
        with _importing:
            if name in modules:
                value = getattr(import_module(f".{modules[name]}", package), name)
                setattr(sys.modules[package], name, value)
                return value
            if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
                return import_module(f".{name}", package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return sorted(modules), getattr_, lambda: sorted({*vars(sys.modules[package]), *modules})
