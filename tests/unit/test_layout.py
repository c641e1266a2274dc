from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import DigestMismatch, NotFound, RegistryError, SizeMismatch
from gateway.oci.content import OCI_MANIFEST, Descriptor
from gateway.oci.layout import LayoutSource
from gateway.oci.reference import Digest, LayoutReference
from tests.artifacts import LayoutBuilder, tar

V1 = Digest.parse("sha256:702c3f942317fbbe1f30dca2f5fd2019cbfdf3e7ed7b7718d2cda6d6c56aac8d")


def _source(directory: Path, tag: str | None = "v1", digest: Digest | None = None) -> LayoutSource:
    return LayoutSource(LayoutReference(directory, "samples/iris", tag, digest))


@pytest.fixture
def own(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(tmp_path / "layout")
    builder.kit("samples/iris:v1", tar(("model", b"x")))
    return builder


def test_a_name_is_found(layout: Path) -> None:
    descriptor = _source(layout).resolve()
    assert descriptor == Descriptor(OCI_MANIFEST, V1, 725, descriptor.annotations)
    assert Digest.of(_source(layout).manifest(descriptor)) == V1
    assert _source(layout, None, V1).resolve().digest == V1


def test_a_digest_needs_no_name(own: LayoutBuilder) -> None:
    old = _source(own.directory).resolve()
    (own.directory / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    again = _source(own.directory, "v1", old.digest).resolve()
    assert (again.digest, again.size) == (old.digest, old.size)


def test_a_blob_is_read_from_an_offset(layout: Path) -> None:
    source = _source(layout)
    descriptor = source.resolve()
    whole = source.manifest(descriptor)
    for offset in (0, 1, 724, 725):
        with source.blob(descriptor, offset) as stream:
            assert (stream.start, b"".join(stream.chunks)) == (offset, whole[offset:])


def test_a_missing_name_lists_what_is_there(layout: Path) -> None:
    with pytest.raises(
        NotFound, match=r"has no samples/iris:v9; it has samples/iris-child:v1, .*samples/iris:v2"
    ):
        _source(layout, "v9").resolve()


def test_at_most_twenty_names_are_listed(own: LayoutBuilder) -> None:
    for number in range(30):
        own.kit(f"team/kit:v{number:02}", tar(("model", b"x")))
    with pytest.raises(NotFound, match=r"team/kit:v18 and 11 more$"):
        _source(own.directory, "v9").resolve()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("oci-layout", "{}"),
        ("oci-layout", '{"imageLayoutVersion":"2.0.0"}'),
        ("index.json", "[]"),
        ("index.json", "{"),
        ("index.json", '{"manifests":[{"mediaType":"a","digest":"sha256:../x","size":1}]}'),
    ],
)
def test_what_is_no_layout(own: LayoutBuilder, file: str, text: str) -> None:
    (own.directory / file).write_text(text)
    with pytest.raises(RegistryError, match="no usable OCI image layout"):
        _source(own.directory).resolve()


@pytest.mark.parametrize("file", ["oci-layout", "index.json"])
def test_what_is_missing(own: LayoutBuilder, file: str) -> None:
    (own.directory / file).unlink()
    with pytest.raises(NotFound, match=f"no OCI image layout: {file}"):
        _source(own.directory).resolve()
    with pytest.raises(NotFound):
        _source(own.directory / "nowhere").resolve()


def test_a_name_given_twice_is_refused(own: LayoutBuilder) -> None:
    own.kit("samples/iris:v1", tar(("model", b"y")))
    with pytest.raises(RegistryError, match="twice"):
        _source(own.directory).resolve()


def test_manifests_are_verified(own: LayoutBuilder) -> None:
    descriptor = _source(own.directory).resolve()
    path = own.directory / "blobs/sha256" / descriptor.digest.hex
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b" ")
    with pytest.raises(DigestMismatch):
        _source(own.directory).manifest(descriptor)
    path.write_bytes(data + b" ")
    with pytest.raises(SizeMismatch):
        _source(own.directory).manifest(descriptor)
    path.unlink()
    with pytest.raises(NotFound, match=f"lacks blob {descriptor.digest}"):
        _source(own.directory).manifest(descriptor)
