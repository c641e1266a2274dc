"""The extras of Kitserve that have the libraries of its runtimes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from runtimes.errors import LoadError

EXTRA_OF = {
    "sklearn": "sklearn",
    "joblib": "sklearn",
    "pandas": "sklearn",
    "scipy": "sklearn",
    "skops": "skops",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "openvino": "openvino",
    "transformers": "transformers",
}
"""By the package that is imported. A runtime that needs an extra is called as its package is."""


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'kitserve[{extra}]'"


def missing_library(subject: object, library: str, extra: str, error: ImportError | None = None) -> LoadError:
    """Return the error for a library that is not installed.

    Args:
        subject: the file that needs it, and what for.
        library: its name.
        extra: the extra of Kitserve that has it.
        error: what the import said.
    """
    details = "" if error is None else f" ({error})"
    return LoadError(f"{subject} needs {library}: {install_command(extra)}{details}")


def missing_extras(runtime: str, imports: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the extras that are not installed here and that a model needs.

    `imports` are the dotted names of its pickle. Nothing is imported.
    """
    packages = [runtime, *(name.partition(".")[0] for name in imports)]
    extras = [EXTRA_OF[package] for package in packages if package in EXTRA_OF and not _is_here(package)]
    return tuple(dict.fromkeys(extras))


def _is_here(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # what stands in for a package that was removed
        return False
