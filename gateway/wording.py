"""How messages write numbers of things, bytes and many names: "1 call", "3.0 GiB", "a, b and 7 more"."""

from __future__ import annotations

from collections.abc import Sequence

_EIB, _GIB, _MIB = 1024**6, 1024**3, 1024**2


def counted(count: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun, which is in the plural unless the number is 1.

    Thousands are set apart by commas; of a number that is not whole, ten digits are written.

    Args:
        count: how many; not negative.
        noun: what is counted, in the singular.
        plural: the plural, where it is not the singular with an s.
    """
    number = f"{count:,}" if isinstance(count, int) else f"{count:,.10g}"
    return f"{number} {noun if count == 1 else plural or f'{noun}s'}"


def listed(texts: Sequence[str], most: int, nothing: str = "nothing") -> str:
    """Return the first of some texts, `most` at most, and how many more there are.

    Args:
        texts: what is listed, as it is to be read.
        most: how many of them are written.
        nothing: what is written where there are none.
    """
    shown = ", ".join(texts[:most]) or nothing
    return f"{shown} and {len(texts) - most:,} more" if len(texts) > most else shown


def size(number: int | None) -> str:
    """Return a number of bytes: "3.0 GiB", "512 MiB"; None is one that nobody knows."""
    if number is None:
        return "an unknown part"
    if number >= _EIB:
        # Axes that a file states may be of any length, and their product more than a float holds.
        return "more than an EiB"
    return f"{number / _GIB:.1f} GiB" if number >= _GIB else f"{number / _MIB:.0f} MiB"
