"""Text that others wrote: cut, and made printable, in one place.

Kits bring such text (Kitfiles, names of files, tensors and operators), and so do registries (what they say
of an error), engines and libraries (their exceptions, their standard error), and workers that run the code of
a kit. Whoever takes it passes it through `foreign_text` at once, before it is put into a message, stored,
logged or shown. So none is longer than a person reads, none has a line of its own where lines are entries,
and none controls a terminal.

Messages of Kitserve's own pass `message_text` (`errors.KitserveError` does that by itself): whatever is in
them, they are one printable line of bounded length. `printable_lines` is the last look at what goes to a
terminal.
"""

from __future__ import annotations

MAX_CHARACTERS = 300
"""So much of a foreign text is kept."""
MAX_MESSAGE_CHARACTERS = 8000
"""The most that a message has, with all foreign text within it; its end has the advice, and is kept."""
_CUT = "…"
_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


def foreign_text(text: object, characters: int = MAX_CHARACTERS, *, keeps_lines: bool = False) -> str:
    """Return a text from elsewhere, or an exception's, as printable text: its beginning, in one line.

    Each run of white space becomes one space; where `keeps_lines` is set, lines stay.
    """
    # Cut first: it may have megabytes.
    beginning = str(text)[: 4 * characters]
    if keeps_lines:
        shown = "\n".join(" ".join(_printable(line).split()) for line in beginning.splitlines()).strip()
    else:
        shown = " ".join(_printable(word) for word in beginning.split())
    is_whole = len(shown) <= characters and len(beginning) == len(str(text))
    return shown if is_whole else shown[: characters - len(_CUT)].rstrip() + _CUT


def message_text(text: str, characters: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Return a message as one printable line; of a long one, the middle is left out."""
    if len(text) <= characters and text.isprintable():
        return text
    if len(text) > characters:
        half = (characters - len(_CUT) - 2) // 2
        text = f"{text[:half]} {_CUT} {text[-half:]}"
    return _printable(" ".join(line.strip() for line in text.splitlines() if line.strip()))


def printable_lines(text: str) -> str:
    """Return the same lines, with nothing in them that controls a terminal."""
    return text if text.isprintable() else "\n".join(map(_printable, text.split("\n")))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else " " if sign == "\t" else _UNPRINTABLE for sign in text)
