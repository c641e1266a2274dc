"""Names that a file would import, sorted for people: what they can do, and which library has them."""

from __future__ import annotations

import sys
from collections.abc import Iterable

COMPUTED = "a name that is computed while loading"

_SHOWN = 8
_NAME = 80  # characters of one

# Modules of Python whose names make objects and do nothing else.
_PLAIN = frozenset(
    {
        "array",
        "collections",
        "copyreg",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "numbers",
        "random",
        "uuid",
    }
)
# The libraries that models are made of; their modules are enough to name.
_LIBRARIES = frozenset({"joblib", "lightgbm", "numpy", "pandas", "scipy", "sklearn", "torch", "xgboost"})
_VALUES = "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple"
_HARMLESS = frozenset(
    {"_codecs.encode", *(f"{of}.{name}" for of in ("builtins", "__builtin__") for name in _VALUES.split())}
)
_ROADS = frozenset({"builtins", "ctypes", "importlib", "os", "subprocess", "sys"})
# Outside of Python's own modules, what is there to run or to load code.
_RUNNERS = (
    "__builtin__.",
    "cloudpickle.",
    "commands.",
    "dill.",
    "joblib.load",
    "joblib.numpy_pickle.load",
    "numpy.f2py.",
    "numpy.load",
    "numpy.testing.",
    "pandas.eval",
    "pandas.read_pickle",
    "pip.",
    "torch.hub.",
    "torch.load",
    "torch.serialization.",
)


def is_dangerous(name: str) -> bool:
    """Tell whether a dotted name is known for what it lets a file do; others are not known to be safe."""
    if name in _HARMLESS:
        return False
    top, *rest = name.split(".")
    if top in _LIBRARIES | _PLAIN:
        # What a module has imported itself can be reached through it.
        through = any(part.lstrip("_") in _ROADS for part in rest)
        return through or name.startswith(_RUNNERS)
    return name == COMPUTED or top in sys.stdlib_module_names or name.startswith(_RUNNERS)


def describe(names: Iterable[str]) -> str:
    """List names: libraries by their modules, all else in full, what is dangerous last and never left out."""
    libraries, others, dangerous = set(), [], []
    for name in sorted(names):
        if is_dangerous(name):
            dangerous.append(f"{_plain(name)} (dangerous)")
        elif name in _HARMLESS or name.partition(".")[0] in _LIBRARIES | _PLAIN:
            libraries.add(_plain(".".join(name.split(".")[:2][: name.count(".")])))
        else:
            others.append(_plain(name))
    found = [*sorted(libraries), *others, *dangerous]
    left_out = len(found) - _SHOWN
    shown = [f"{left_out} more", *found[-_SHOWN:]] if left_out > 0 else found
    if len(shown) < 2:
        return "".join(shown) or "nothing"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _plain(name: str) -> str:
    """Return a name that others chose, without what cannot be seen, and cut."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_NAME])
