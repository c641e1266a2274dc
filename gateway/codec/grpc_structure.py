"""What a ModelInferRequest is made of, counted before protobuf makes objects of it.

A field of two bytes may become an object of a hundred. Only what repeats is looked into: `inputs` and their
contents, `outputs`, parameters. Specification: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from google.protobuf.message import DecodeError

from gateway.codec.tensors import MAX_STRINGS
from runtimes.errors import InputError

MAX_PARTS = 65_536
"""How many inputs, outputs, parameters and other fields a message may have in all."""
MAX_NUMBERS = 16 * 1024 * 1024
"""How many numbers may be in typed contents; raw contents have no such bound."""
_MAX_SHAPE_BYTES = 1024

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_INPUTS, _OUTPUTS = 5, 6
_SHAPE, _CONTENTS = 3, 5
_FP32, _FP64, _BYTES = 6, 7, 8
_STRING = _BYTES << 3 | _LENGTH
_MAX_VARINT_BYTES = 10


def check_structure(message: bytes) -> None:
    """Check that a message becomes no more objects than any call has.

    Raises:
        InputError: where it does.
        DecodeError: when it is no message.
    """
    parts = strings = numbers = 0
    for number, kind, start, end in _fields(message, 0, len(message)):
        parts += 1
        if kind == _LENGTH and number in (_INPUTS, _OUTPUTS):
            for inner, inner_kind, inner_start, inner_end in _fields(message, start, end):
                parts += 1
                if number == _INPUTS and inner_kind == _LENGTH:
                    if inner == _SHAPE and inner_end - inner_start > _MAX_SHAPE_BYTES:
                        raise InputError("a shape has too many dimensions")
                    if inner == _CONTENTS:
                        left = MAX_STRINGS - strings
                        more_strings, more_numbers = _elements(message, inner_start, inner_end, left)
                        strings, numbers = strings + more_strings, numbers + more_numbers
                if parts > MAX_PARTS:
                    break
        if parts > MAX_PARTS:
            raise InputError(
                f"the message has more than {MAX_PARTS:,} fields; send fewer inputs and parameters"
            )
        if numbers > MAX_NUMBERS:
            raise InputError(f"contents have more than {MAX_NUMBERS:,} numbers; send raw_input_contents")


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of a message: number, kind, and where the value starts and ends."""
    while position < end:
        key, position = _varint(data, position, end)
        kind = key & 7
        start = position
        if kind == _LENGTH:
            size, start = _varint(data, position, end)
            position = start + size
        elif kind == _VARINT:
            _, position = _varint(data, position, end)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise DecodeError(f"field {key >> 3} is of no known kind")
        if position > end:
            raise DecodeError(f"field {key >> 3} goes beyond its end")
        yield key >> 3, kind, start, position


def _elements(data: bytes, position: int, end: int, left: int) -> tuple[int, int]:
    """Return how many strings (or numbers in fields of their own) contents have, and how many numbers.

    At most `left` strings may be there.
    """
    strings = numbers = others = 0
    while position < end:
        # Short strings are what there may be many of, so they are passed over in the fewest steps.
        while position + 2 < end and data[position] == _STRING and strings <= left:
            size = data[position + 1]
            if size < 0x80:
                position += 2 + size
            elif (more := data[position + 2]) < 0x80:
                position += 3 + (size & 0x7F | more << 7)
            else:
                break
            strings += 1
        if position >= end or strings > left:
            break
        number, kind, start, position = next(_fields(data, position, end))
        others += 1
        if others > MAX_PARTS:
            raise InputError(f"contents are in more than {MAX_PARTS:,} parts; send numbers packed, or raw")
        if kind != _LENGTH or number == _BYTES:
            strings += 1
        elif number in (_FP32, _FP64):
            numbers += (position - start) // (4 if number == _FP32 else 8)
        else:
            packed = np.frombuffer(data, np.uint8, position - start, start)
            numbers += int(np.count_nonzero(packed < 0x80))
    if strings > left:
        raise InputError(f"contents have more than {MAX_STRINGS:,} elements; send fewer rows")
    if position > end:
        raise DecodeError("a string goes beyond its end")
    return strings, numbers


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    value = shift = 0
    while position < end and shift < 7 * _MAX_VARINT_BYTES:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise DecodeError("a number goes beyond its end")
