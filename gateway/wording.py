"""How numbers of things are written in messages, in one place: "1 call", "1,024 calls", "0 calls"."""

from __future__ import annotations


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
