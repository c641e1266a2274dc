"""References with a digest."""

from __future__ import annotations

import pickle

import pytest

from gateway.errors import InvalidReference
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference

DIGEST = Digest.of(b"a manifest")


@pytest.mark.parametrize(
    "name",
    ["r.io/team/iris:v1", "kit:r.io/team/iris:v1", "kit:iris:v1", "oci-layout:shelf:iris:v1"],
)
def test_a_reference_is_pinned_and_keeps_its_tag(name: str) -> None:
    pinned = PinnedReference.of(parse_reference(name), DIGEST)
    assert str(pinned) == f"{name}@{DIGEST}"
    assert pinned.digest == DIGEST
    assert pinned.label == "v1"
    assert pinned.short == DIGEST.hex[:12]
    assert pinned.names == ("v1", str(DIGEST), DIGEST.short)
    assert PinnedReference.parse(str(pinned)) == pinned
    assert pickle.loads(pickle.dumps(pinned)) == pinned


@pytest.mark.parametrize("name", ["r.io/iris", "oci-layout:shelf:iris", "kit:iris"])
def test_without_a_tag_the_digest_is_the_label(name: str) -> None:
    pinned = PinnedReference.parse(f"{name}@{DIGEST}")
    assert pinned.label == pinned.short == DIGEST.short
    assert pinned.names == (DIGEST.short, str(DIGEST))


def test_a_digest_alone_is_pinned() -> None:
    assert PinnedReference.parse(str(DIGEST)).digest == DIGEST


def test_another_digest_replaces_the_first() -> None:
    other = Digest.of(b"another manifest")
    assert PinnedReference.of(parse_reference(f"r.io/iris:v1@{DIGEST}"), other).digest == other


def test_a_tag_alone_is_not_pinned() -> None:
    with pytest.raises(
        InvalidReference, match=r"^r\.io/iris:v1 has no digest; write r\.io/iris:v1@sha256:HEX"
    ):
        PinnedReference.parse("r.io/iris:v1")


@pytest.mark.parametrize("text", ["", "r.io/iris@sha256:12", "r.io/iris@md5:12"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        PinnedReference.parse(text)
