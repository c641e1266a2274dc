"""The names that a file would import, grouped for people by library and danger."""

from __future__ import annotations

import sys
from collections.abc import Iterable

COMPUTED = "a name that is computed while loading"

_MAX_SHOWN = 8
_MAX_NAME = 80  # characters of one

# Modules of Python whose names only make objects.
_VALUE_MODULES = frozenset(
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
# The libraries that models are made with; their modules are listed, not each name.
_LIBRARIES = frozenset({"joblib", "lightgbm", "numpy", "pandas", "scipy", "sklearn", "torch", "xgboost"})
_VALUES = "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple"
_HARMLESS = frozenset(
    {
        "_codecs.encode",
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _VALUES.split()),
    }
)
# Modules through which a name of another module can run anything.
_ESCAPES = frozenset({"builtins", "ctypes", "importlib", "os", "subprocess", "sys"})
# Names of other packages that run or load code.
_CODE_RUNNERS = (
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
    """Tell whether a dotted name is known to let a file run anything; others are not known to be safe."""
    if name in _HARMLESS:
        return False
    top, *rest = name.split(".")
    if top in _LIBRARIES | _VALUE_MODULES:
        # A name of a library may lead to modules that it imports, such as `os`.
        is_escape = any(part.lstrip("_") in _ESCAPES for part in rest)
        return is_escape or name.startswith(_CODE_RUNNERS)
    return name == COMPUTED or top in sys.stdlib_module_names or name.startswith(_CODE_RUNNERS)


def describe(names: Iterable[str]) -> str:
    """List names: those of libraries by module, others in full, dangerous ones last and never left out."""
    libraries, others, dangerous = set(), [], []
    for name in sorted(names):
        if is_dangerous(name):
            dangerous.append(f"{_printable(name)} (dangerous)")
        elif name in _HARMLESS or name.partition(".")[0] in _LIBRARIES | _VALUE_MODULES:
            libraries.add(_printable(".".join(name.split(".")[:2][: name.count(".")])))
        else:
            others.append(_printable(name))
    listed = [*sorted(libraries), *others, *dangerous]
    left_out = len(listed) - _MAX_SHOWN
    shown = [f"{left_out} more", *listed[-_MAX_SHOWN:]] if left_out > 0 else listed
    if len(shown) < 2:
        return "".join(shown) or "nothing"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _printable(name: str) -> str:
    """Return a name that others chose, shortened and with only printable characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_MAX_NAME])
