"""Bodies of JSON that would take many times their size as objects are refused before any is made."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from gateway.codec.json_request import Decoder
from gateway.codec.json_structure import MAX_OBJECT_BYTES, SMALL_BYTES, Structure, structure_of
from gateway.codec.openai.document import Document
from gateway.codec.openai.errors import RefusedCall
from gateway.codec.openai.text_members import read_members
from runtimes.base import Signature, TensorSpec
from runtimes.errors import InputError

MIB = 1024 * 1024
NUMBERS = Signature((TensorSpec("x", "FP32", None),), ())
TEXTS = Signature((TensorSpec("x", "BYTES", None),), ())


def body(elements: bytes) -> bytes:
    return b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[%s]}]}' % elements.rstrip(b",")


def test_parts_are_counted_across_stretches() -> None:
    text = b'[{"a":[1,2]},' * 100_000
    counted = Structure(lists=200_000, objects=100_000, commas=200_000, quotes=200_000)
    assert structure_of(text) == structure_of(memoryview(text)) == counted


@pytest.mark.parametrize("signature", [NUMBERS, TEXTS])
@pytest.mark.parametrize("element", [b"[],", b"{},", b'"ab",', b"[[1]],", b'{"a":1},', b'"",'])
def test_small_parts_without_number_are_refused_before_they_are_objects(
    element: bytes, signature: Signature
) -> None:
    text = body(element * (60 * MIB // len(element)))
    decode = Decoder(signature)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"too many values: about \d+ MiB as objects, and 512 MiB"):
        decode([text])
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    tracemalloc.stop()


def test_a_text_that_is_not_looked_at_cannot_take_more() -> None:
    for element in (b"[],", b"{},", b'"",', b"1,"):
        assert structure_of(element * (SMALL_BYTES // len(element))).object_bytes <= MAX_OBJECT_BYTES


def test_large_bodies_of_numbers_are_read() -> None:
    rows = np.tile(np.array([1234567, 7654321, 1111111], "f4"), (200_000, 1))
    data = b",".join([b"[1234567,7654321,1111111]"] * len(rows))
    text = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[200000,3],"data":[%s]}]}' % data
    assert len(text) > SMALL_BYTES
    assert np.array_equal(Decoder(NUMBERS)([text]).inputs["x"], rows)
    assert np.array_equal(Decoder(TEXTS)([text]).inputs["x"], rows)


@pytest.mark.parametrize("element", [b"[],", b"{},", b'"ab",'])
def test_calls_of_the_openai_api_are_counted_too(element: bytes) -> None:
    text = b'{"input":[%s1]}' % (element * (10 * MIB // len(element)))
    with pytest.raises(RefusedCall, match="too many values"):
        read_members([text], ("input",))
    with pytest.raises(RefusedCall, match="too many values"):
        Document([text])


def test_a_long_text_is_no_matter() -> None:
    text = b'{"input":"%s"}' % (b"A text, with a comma in it. " * 400_000)
    assert len(read_members([text], ("input",))["input"]) > 10_000_000
