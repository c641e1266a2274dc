"""Files with damage of the usual kinds, made from a whole one."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

_NUMBERS = re.compile(rb"-?\d+")
_ODD_NUMBERS = (b"-1", b"0", b"1", b"7", b"99999", b"4294967296", b"9223372036854775807")


def damaged(whole: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged copies: cut, with bytes changed, a piece lost or doubled, another number in text."""
    chance = random.Random(seed)
    for turn in range(count):
        data = bytearray(whole)
        start, end = sorted(chance.sample(range(len(data)), 2))
        match turn % 5:
            case 0:
                del data[start:]
            case 1:
                for _ in range(chance.randint(1, 8)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
            case 2:
                del data[start:end]
            case 3:
                data[end:end] = data[start:end]
            case _:
                numbers = list(_NUMBERS.finditer(whole))
                if numbers:
                    number = chance.choice(numbers)
                    data[number.start() : number.end()] = chance.choice(_ODD_NUMBERS)
        yield bytes(data)
