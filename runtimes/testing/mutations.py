"""Damage to the bytes of a model file, told by a number: the same number, the same damage."""

from __future__ import annotations

import io
import random
import re
import zipfile
from collections.abc import Callable

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_NUMBERS = (b"-1", b"0", b"1", b"7", b"2147483647", b"2147483648", b"-9223372036854775808", b"1e400", b"nan")
_WORDS = (b"", b"null", b"[]", b"{}", b'"x"', b"true")
_INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF)


def mutated(data: bytes, seed: int) -> bytes:
    """Return `data` damaged in the way of this seed; the ways take turns, so that 200 seeds have all of them.

    A zip is damaged as any file is, and every other time within a member, so that its checksums still fit.
    """
    chance = random.Random(seed)  # noqa: S311
    if not data:
        return chance.randbytes(chance.randrange(1, 64))
    if seed % 2 and data.startswith(b"PK\x03\x04"):
        inner = _in_a_member(data, seed, chance)
        if inner is not None:
            return inner
    return _WAYS[seed % len(_WAYS)](data, chance)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[
        : chance.choice((0, 1, len(data) - 1, chance.randrange(len(data)), chance.randrange(len(data))))
    ]


def _flip_a_bit(data: bytes, chance: random.Random) -> bytes:
    return _flipped(data, chance, 1)


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    return _flipped(data, chance, chance.choice((2, 8, 64)))


def _flipped(data: bytes, chance: random.Random, count: int) -> bytes:
    result = bytearray(data)
    for _ in range(count):
        # Half of them where headers are.
        end = min(len(data), 512) if chance.random() < 0.5 else len(data)
        result[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(result)


def _fill_a_block(data: bytes, chance: random.Random) -> bytes:
    start, end = _block(data, chance)
    return data[:start] + chance.choice((b"\0", b"\0", b"\xff")) * (end - start) + data[end:]


def _insert(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + chance.randbytes(chance.choice((1, 4, 100))) + data[start:]


def _remove_a_block(data: bytes, chance: random.Random) -> bytes:
    start, end = _block(data, chance)
    return data[:start] + data[end:]


def _repeat_a_block(data: bytes, chance: random.Random) -> bytes:
    start, end = _block(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 3, 20)) + data[end:]


def _swap_halves(data: bytes, chance: random.Random) -> bytes:
    middle = chance.choice((len(data) // 2, chance.randrange(len(data))))
    return data[middle:] + data[:middle]


def _change_an_integer(data: bytes, chance: random.Random) -> bytes:
    """Write an integer of 4 or 8 bytes that is a likely surprise, in either order of bytes."""
    size = chance.choice((4, 8))
    start = chance.randrange(max(1, len(data) - size + 1))
    value = chance.choice(_INTEGERS) & ((1 << 8 * size) - 1)
    return data[:start] + value.to_bytes(size, chance.choice(("little", "big"))) + data[start + size :]


def _change_a_number(data: bytes, chance: random.Random) -> bytes:
    """Write another number, or a word, for one of a text; remove a block where there is none."""
    matches = list(_NUMBER.finditer(data, 0, 1_000_000))
    if not matches:
        return _remove_a_block(data, chance)
    result = data
    # From the end, so that what was found before still stands where it was.
    for match in sorted(
        chance.choices(matches, k=chance.choice((1, 1, 3))), key=re.Match.start, reverse=True
    ):
        value = chance.choice(_NUMBERS if chance.random() < 0.8 else _WORDS)
        result = result[: match.start()] + value + result[match.end() :]
    return result


_WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_cut, _flip_a_bit, _fill_a_block, _change_a_number, _insert, _change_an_integer, _flip_bits),
    *(_remove_a_block, _change_a_number, _swap_halves, _repeat_a_block),
)
WAYS = len(_WAYS)
"""How many ways there are; the rest of a seed by it chooses one."""


def _block(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data))
    return start, min(len(data), start + chance.choice((1, 8, 200, 4096)))


def _in_a_member(data: bytes, seed: int, chance: random.Random) -> bytes | None:
    """Return the zip with one member damaged and written anew; None where it has no member with bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(member, archive.read(member)) for member in archive.infolist()]
    except zipfile.BadZipFile:
        return None
    positions = [position for position, (_, content) in enumerate(members) if content]
    if not positions:
        return None
    victim = chance.choice(positions)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for position, (member, content) in enumerate(members):
            is_victim = position == victim
            way = _WAYS[seed // 2 % len(_WAYS)]
            archive.writestr(member, way(content, chance) if is_victim else content)
    return file.getvalue()
