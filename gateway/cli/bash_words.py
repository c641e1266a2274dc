"""The words of a line that bash asks to complete: references, which it takes apart, are put together."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator, MutableMapping

_BASH = "complete_bash"
# At these, bash ends a word, and completes what is behind the last of them (COMP_WORDBREAKS, bash(1)).
_BREAKS = re.compile(r"[:=@]+")
COMPLETE_VARIABLE = "_KITSERVE_COMPLETE"
"""The environment variable by which a shell asks for what it offers."""


@contextlib.contextmanager
def words_of_bash(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Put together what bash took apart at `:`, `=` and `@`, and answer with what follows the last of them.

    So a reference is one word within the block. Elsewhere, and for other shells, nothing is done.
    """
    prefix = _join_words(environment) if environment.get(COMPLETE_VARIABLE) == _BASH else ""
    if not prefix:
        yield
        return
    answer = io.StringIO()
    try:
        with contextlib.redirect_stdout(answer):
            yield
    finally:
        for line in answer.getvalue().splitlines():
            sys.stdout.write(f"{line.removeprefix(prefix)}\n")


def _join_words(environment: MutableMapping[str, str]) -> str:
    """Put the words of bash together; returns what of the last one bash does not replace."""
    last = int(environment.get("COMP_CWORD", "0"))
    words = [*environment.get("COMP_WORDS", "").split("\n"), ""][: last + 1]
    joined: list[str] = []
    is_open = False
    for word in words:
        is_break = _BREAKS.fullmatch(word) is not None
        if joined and (is_open or is_break):
            joined[-1] += word
        else:
            joined.append(word)
        is_open = is_break
    environment["COMP_WORDS"] = "\n".join(joined)
    environment["COMP_CWORD"] = str(len(joined) - 1)
    breaks = list(_BREAKS.finditer(joined[-1]))
    return joined[-1][: breaks[-1].end()] if breaks else ""
