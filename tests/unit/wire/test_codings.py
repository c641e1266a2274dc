from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from gateway.wire import codings
from gateway.wire.budget import BudgetFull
from gateway.wire.codings import BodyTooLarge, UnknownCoding, chosen_coding, compress, decompress
from runtimes.errors import InputError

TEXT = b"kitserve " * 1000
MIB = 1024 * 1024
CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_content_comes_back_whatever_the_pieces(coding: str, cut: int) -> None:
    packed = CODINGS[coding](TEXT)
    pieces = [packed[start : start + cut] for start in range(0, len(packed), cut)]
    for name in (coding, coding.upper(), f" {coding} "):
        assert b"".join(decompress([*pieces, b""], name, len(TEXT))) == TEXT


def test_what_is_not_compressed_passes() -> None:
    assert decompress([b"a", b"b"], "identity", 1) == [b"a", b"b"]
    assert b"".join(decompress([gzip.compress(TEXT)], "x-gzip", len(TEXT))) == TEXT


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "deflate,gzip", "é"])
def test_other_codings_are_named(coding: str) -> None:
    with pytest.raises(UnknownCoding, match=r"^Content-Encoding .* is none of gzip, deflate and identity$"):
        decompress([TEXT], coding, 10)


@pytest.mark.parametrize("coding", CODINGS)
def test_the_limit_holds_to_the_byte(coding: str) -> None:
    packed = CODINGS[coding](TEXT)
    with pytest.raises(BodyTooLarge, match=f"^the body is larger than {len(TEXT) - 1} bytes once"):
        decompress([packed], coding, len(TEXT) - 1)
    with pytest.raises(BodyTooLarge):
        decompress([packed[:9], packed[9:]], coding, 0)


def test_a_bomb_takes_no_more_than_the_limit() -> None:
    bomb = gzip.compress(bytes(256 * MIB), 1)
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        decompress([bomb], "gzip", MIB)
    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()


def test_zlib_copies_little_of_a_long_piece_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives back what it has not read yet at each step, and keeps the interpreter while it copies that."""
    given, decompressobj = 0, zlib.decompressobj

    class Reader:
        def __init__(self, wbits: int) -> None:
            self._reader = decompressobj(wbits)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            nonlocal given
            given += len(data)
            return self._reader.decompress(data, max_length)

        def __getattr__(self, name: str) -> object:
            return getattr(self._reader, name)

    content = random.Random(1).randbytes(8 * MIB)
    packed = gzip.compress(content, 1)
    monkeypatch.setattr(zlib, "decompressobj", Reader)
    assert b"".join(decompress([packed], "gzip", 8 * MIB)) == content
    assert given < 1.1 * len(packed)


@pytest.mark.parametrize("coding", CODINGS)
def test_what_is_cut_off_goes_on_or_is_something_else_is_refused(coding: str) -> None:
    packed = CODINGS[coding](TEXT)
    for pieces, text in [
        ([packed[:-1]], f"the body ends before its {coding} stream does"),
        ([b""], f"the body ends before its {coding} stream does"),
        ([packed + b"x"], f"the body goes on after the end of its {coding} stream"),
        ([packed, packed], f"the body goes on after the end of its {coding} stream"),
        ([b"no stream"], f"the body is not {coding}, as Content-Encoding says: "),
        ([packed[:-4], bytes(4)], f"the body is not {coding}, as Content-Encoding says: "),
    ]:
        with pytest.raises(InputError, match=f"^{text}"):
            decompress(pieces, coding, MIB)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        (" Deflate ", "deflate"),
        ("gzip;q=0.5", "gzip"),
        ("gzip; q=0", ""),
        ("gzip;q=0.000", ""),
        ("gzip, deflate", ""),
        ("gzip, deflate, br", ""),
        ("br", ""),
        ("*", ""),
        ("identity", ""),
        ("", ""),
    ],
)
def test_a_coding_is_chosen_where_it_is_named_alone(accepted: str, coding: str) -> None:
    assert chosen_coding(accepted) == coding


def test_only_what_is_large_is_compressed() -> None:
    packed = compress(TEXT, "gzip")
    assert packed is not None
    assert gzip.decompress(packed) == TEXT
    packed = compress(TEXT, "deflate")
    assert packed is not None
    assert zlib.decompress(packed) == TEXT
    assert compress(TEXT[:1399], "gzip") is None


def test_a_body_may_not_grow_without_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codings, "_FREE_BYTES", 10_000)
    packed = gzip.compress(b"{}," * MIB)
    with pytest.raises(BodyTooLarge, match="more than 200 times as large once decompressed; send it plain"):
        decompress([packed], "gzip", 64 * MIB)
    # What is not much is taken however well it was compressed, and so is what grows within reason.
    assert len(b"".join(decompress([gzip.compress(bytes(10_000))], "gzip", MIB))) == 10_000
    numbers = b",".join(b"%d" % number for number in range(100_000))
    assert b"".join(decompress([gzip.compress(numbers)], "gzip", MIB)) == numbers


@pytest.mark.parametrize("coding", CODINGS)
def test_room_is_reserved_before_content_is_there(coding: str) -> None:
    content = random.Random(1).randbytes(3 * MIB)
    packed = CODINGS[coding](content)
    reserved: list[int] = []
    assert b"".join(decompress([packed[:MIB], packed[MIB:]], coding, 4 * MIB, reserved.append)) == content
    assert reserved[0] == len(packed) + MIB
    assert reserved == sorted(reserved)
    assert reserved[-1] >= len(packed) + len(content)

    def full(size: int) -> None:
        if size > len(packed) + 2 * MIB:
            raise BudgetFull("full")

    with pytest.raises(BudgetFull):
        decompress([packed], coding, 4 * MIB, full)


@pytest.mark.parametrize("step", [1, 2, 258, 1000])
def test_nothing_is_left_in_the_reader(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codings, "_STEP_BYTES", step)
    content = b"a" * 1000 + TEXT[:100]
    assert b"".join(decompress([gzip.compress(content)], "gzip", MIB)) == content
