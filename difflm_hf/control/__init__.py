"""Records that satisfy conditions."""

from .allowed import AllowedIds, Condition
from .predicates import Between, Not, StartsWith
from .where import parse_where


__all__ = ["AllowedIds", "Between", "Condition", "Not", "StartsWith", "parse_where"]
