from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import InvalidReference
from gateway.oci.reference import Digest, LayoutReference, RegistryReference, parse_reference

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r.example.com/team/iris:v1", RegistryReference("r.example.com", "team/iris", "v1", None)),
        ("r.example.com/iris", RegistryReference("r.example.com", "iris", "latest", None)),
        ("localhost:5000/iris:v1", RegistryReference("localhost:5000", "iris", "v1", None)),
        ("[::1]:5000/iris:v1", RegistryReference("[::1]:5000", "iris", "v1", None)),
        ("R.Example.com/iris:V1", RegistryReference("r.example.com", "iris", "V1", None)),
        (f"r.io/iris@{DIGEST}", RegistryReference("r.io", "iris", None, DIGEST)),
        (f"r.io/iris:v1@{DIGEST}", RegistryReference("r.io", "iris", "v1", DIGEST)),
        ("oci-layout:a/b:team/iris:v1", LayoutReference(Path("a/b"), "team/iris", "v1", None)),
        ("oci-layout:/a b/c#1:iris", LayoutReference(Path("/a b/c#1"), "iris", "latest", None)),
        (f"oci-layout:.:iris@{DIGEST}", LayoutReference(Path(), "iris", None, DIGEST)),
    ],
)
def test_what_a_reference_names(text: str, expected: RegistryReference | LayoutReference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "iris",
        "team/iris:v1",
        "localhost/iris:v1",
        "user:secret@r.io/iris:v1",
        "r.io/Team/iris",
        "r.io/a//b",
        "r.io/../b",
        "r.io/iris:",
        "r.io/iris:a:b",
        "r.io/iris@",
        "r.io/iris@sha256:abc",
        "r.io/iris:v1 ",
        "r.io/iris:v1\n",
        "r.io/iris?x=1",
        "r.io/iris#x",
        "r.io/ir%69s",
        "r.io\\iris:v1",
        "https://r.io/iris:v1",
        f"r.io/{'a' * 256}",
        f"r.io/iris:{'a' * 129}",
        "oci-layout:",
        "oci-layout:dir",
        "oci-layout::iris:v1",
        "oci-layout:a\0b:iris:v1",
    ],
)
def test_what_names_nothing(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


def test_a_local_name_is_told_that_a_registry_is_missing() -> None:
    with pytest.raises(
        InvalidReference, match=r"'team/iris:v1' names no registry; write HOST/REPOSITORY:TAG"
    ):
        parse_reference("team/iris:v1")


@pytest.mark.parametrize("text", ["sha512:" + "a" * 128, "sha256:" + "A" * 64, "sha256", "a" * 64, ""])
def test_other_digests_are_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Digest.parse(text)


def test_labels() -> None:
    tagged = parse_reference("r.io/iris:v1")
    assert tagged.label == "v1"
    assert tagged.pinned(DIGEST).label == "v1"
    assert str(tagged.pinned(DIGEST)) == f"r.io/iris:v1@{DIGEST}"
    assert parse_reference(f"r.io/iris@{DIGEST}").label == DIGEST.short == "e3b0c44298fc"
