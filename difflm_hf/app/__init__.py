"""The page of the package in a browser."""

from ..lazy import lazy_names


_NAMES = {"page": ["build_page", "launch"]}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
