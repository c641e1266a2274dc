"""What engines say where memory could not be had: each has an error and words of its own."""

from __future__ import annotations

import re

from runtimes.errors import ExecutionError, LoadError

_WORDS = re.compile(
    r"bad[ _]alloc|MemoryError|out of memory|(?:can't|cannot|could not|unable to|failed to) allocate",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an engine failed because it got no memory; its own error may be the cause of `error`."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ExecutionError | LoadError) and _WORDS.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)
