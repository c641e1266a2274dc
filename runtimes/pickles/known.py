"""The allow-list: the exact names that a known pickle may import, and what it may do with each.

The names are in `known_names.txt`, which `python -m runtimes.pickles.listing` writes by rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib.resources import files
from types import MappingProxyType


class Use(Enum):
    """What a pickle may do with a name of the list; whatever it may not do is refused."""

    VALUE = "value"
    """Hold it: a pure function or a type of numbers, which its library may call with a caller's rows."""
    STATE = "state"
    """Make an instance without calling its constructor, and give that its attributes."""
    CLASS = "class"
    """Hand it to one of the functions that rebuild an instance of a class, and nothing else."""
    CALL = "call"
    """Call it with values, and make instances by it."""
    REBUILD = "rebuild"
    """Call it with a class of its own library, of which it makes an instance, and with values."""


def is_known(name: str) -> bool:
    """Tell whether a dotted name, such as `sklearn.linear_model._logistic.LogisticRegression`, is listed.

    Functions that only pickles call are not: what they are given must be checked.
    """
    return use_of(name) not in (None, Use.REBUILD)


def use_of(name: str) -> Use | None:
    """Return what a pickle may do with a dotted name; None for one that is not on the list."""
    return known_names().get(name)


@cache
def known_names() -> Mapping[str, Use]:
    """Return every name of the list with its use."""
    names: dict[str, Use] = {}
    for line in files("runtimes.pickles").joinpath("known_names.txt").read_text("utf-8").splitlines():
        use, _, name = line.partition(" ")
        if name and not line.startswith("#"):
            names[name] = Use(use)
    return MappingProxyType(names)
