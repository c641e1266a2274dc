"""The numbers that JSON does not have: NaN, which stands for a missing value, and the infinities.

NaN is `null`, as in what other servers of the protocol write. The infinities are the strings that Protobuf's
JSON has for them: a reader that makes an array of numbers of an answer (numpy does) gets them back.
Specification: protobuf.dev, "ProtoJSON Format", on `float` and `double`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from runtimes.base import Array, Datatype

TEXTS = frozenset({"NaN", "Infinity", "-Infinity"})
"""The strings that are numbers."""

_FLOATS = "fV"
# So many quotes may be in a text with literals; each is an object while the text is looked through.
_MAX_QUOTES = 1_000_000


def is_float(array: Array) -> bool:
    """Tell whether an array's elements are floats; BF16 is of numpy's kind V."""
    return array.dtype.kind in _FLOATS


def parse_json(text: bytes | memoryview) -> Any:
    """Return what a text in JSON says; NaN and the infinities may be literals. Raises JSONDecodeError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        spelled = spell_literals(text)
        if spelled is None:
            raise
    return orjson.loads(spelled)


def spell_literals(text: bytes | memoryview) -> bytes | None:
    """Return strict JSON for a text that has NaN and the infinities as literals.

    Python and RapidJSON write them so. `NaN` becomes null, `Infinity` and `-Infinity` become strings. None is
    returned where there is no such literal, or the text has too many strings to look through.
    """
    text = bytes(text)
    if (b"NaN" not in text and b"Infinity" not in text) or text.count(b'"') > _MAX_QUOTES:
        return None
    pieces = text.split(b'"')
    is_string = False
    for index, piece in enumerate(pieces):
        if is_string:
            # A quote behind an odd number of backslashes does not end the string.
            is_string = (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
        else:
            spelled = piece.replace(b"NaN", b"null").replace(b"Infinity", b'"Infinity"')
            pieces[index] = spelled.replace(b'-"Infinity"', b'"-Infinity"')
            is_string = True
    return b'"'.join(pieces)


def are_numbers(elements: Iterable[object]) -> bool:
    """Tell whether all strings among the elements are numbers."""
    return all(element in TEXTS for element in elements if type(element) is str)


def to_floats(elements: list[object], dtype: np.dtype[np.generic]) -> Array:
    """Return an array of numbers, null and the strings that are numbers, nested or not.

    Raises:
        ValueError: for other strings.
        TypeError: for other elements.
    """
    # BF16's own conversion knows neither null nor integers beyond INT64.
    if dtype == Datatype.BF16.numpy:
        return np.array(elements, np.float64).astype(dtype)
    return np.array(elements, dtype)


def to_json(flat: Array) -> orjson.Fragment:
    """Return a flat array of floats as a list in JSON, written as orjson writes floats."""
    plain = flat.astype(np.float32) if flat.dtype == Datatype.BF16.numpy else np.ascontiguousarray(flat)
    text = orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY)
    infinite = np.flatnonzero(np.isinf(plain)).tolist()
    if not infinite:
        return orjson.Fragment(text)
    elements = text[1:-1].split(b",")
    for index in infinite:
        elements[index] = b'"Infinity"' if plain[index] > 0 else b'"-Infinity"'
    return orjson.Fragment(b"[%s]" % b",".join(elements))
