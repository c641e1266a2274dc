"""What to install where a library is missing: each comes with an extra of Kitserve."""

from __future__ import annotations

from runtimes.errors import LoadError


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
