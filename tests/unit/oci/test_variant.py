"""Which entry of an index a reference means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import InvalidReference
from gateway.oci.reference import Digest, is_kit_reference, parse_reference
from gateway.oci.variant import AUTO, Variant

Q4 = Variant.of({"quantization": "q4_0"})


@pytest.mark.parametrize(
    "text",
    [
        "r.io/a/b:v1",
        "kit:a:v1",
        "a/b:v1",
        "oci-layout:/tmp/x[1]:a:v1",
        f"r.io/a@{Digest.of(b'')}",
        "[::1]:80/a:v1",
    ],
)
def test_a_reference_may_have_a_variant_behind_it(text: str) -> None:
    plain = parse_reference(text)
    assert plain.variant is None
    for variant in (AUTO, Q4, Variant.of({"vram": "6GB", "quantization": "q4_0"})):
        reference = parse_reference(f"{text}[{variant}]")
        assert reference == replace(plain, variant=variant)
        assert str(reference) == f"{plain}[{variant}]"
        # What it is pinned to is one kit.
        digest = Digest.of(b"kit")
        assert reference.pinned(digest) == plain.pinned(digest)


def test_labels_have_any_characters_and_one_order() -> None:
    odd = Variant.of({"a]b": "x,y=z[1]", "%": "é \n"})
    assert Variant.parse(str(odd)) == odd
    assert str(odd).isascii()
    assert Variant.of({"b": "1", "a": "2"}) == Variant.of({"a": "2", "b": "1"})


def test_words_are_read_as_kit_takes_them() -> None:
    assert Variant.of_arguments(["quantization=q4_0", "vram=6GB"]).labels == (
        ("quantization", "q4_0"),
        ("vram", "6GB"),
    )
    assert Variant.of_arguments(["a=b=c", "d="]).labels == (("a", "b=c"), ("d", ""))
    assert Variant.of_arguments(["auto"]) == AUTO


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "a label at least"),
        (["q4_0"], "'q4_0' is no label; write NAME=VALUE"),
        (["=q4_0"], "is no label"),
        (["auto", "a=b"], "'auto' is no label"),
        (["a=b", "a=c"], "'a' has two values, 'b' and 'c'"),
        ([f"{number}=x" for number in range(33)], "at most 32 labels"),
        (["a=" + "x" * 2049], "more than 2048 characters"),
    ],
)
def test_words_that_are_no_variant(words: list[str], why: str) -> None:
    with pytest.raises(InvalidReference, match=why):
        Variant.of_arguments(words)


@pytest.mark.parametrize(
    "text", ["a:v1[]", "a:v1[q4_0]", "a:v1[a=1,a=2]", "a:v1[auto][auto]", "a" + "[auto]" * 1000]
)
def test_text_that_has_no_variant(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


def test_kit_knows_no_variants_in_references() -> None:
    assert is_kit_reference("r.io/a:v1")
    assert not is_kit_reference("r.io/a:v1[auto]")
