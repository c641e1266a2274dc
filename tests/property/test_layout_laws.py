from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import KitserveError
from gateway.oci.content import Descriptor
from gateway.oci.layout import LayoutSource
from gateway.oci.reference import Digest, LayoutReference
from tests.support.artifacts import LayoutBuilder, tar

_names = ["oci-layout", "index.json"]


def _archive() -> tuple[bytes, Descriptor]:
    """Return a small layout as a tar archive, and the descriptor of its manifest."""
    with tempfile.TemporaryDirectory() as directory:
        builder = LayoutBuilder(Path(directory) / "layout")
        builder.kit("iris:v1", tar(("model", b"x" * 700)))
        source = LayoutSource(LayoutReference(builder.directory, "iris", "v1", None))
        blobs = [f"blobs/sha256/{path.name}" for path in (builder.directory / "blobs/sha256").iterdir()]
        members = [(name, (builder.directory / name).read_bytes()) for name in [*_names, *blobs]]
        return tar(*members), source.resolve()


_ARCHIVE, _DESCRIPTOR = _archive()


def _read(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "layout.tar"
        path.write_bytes(data)
        source = LayoutSource(LayoutReference(path, "iris", "v1", None))
        descriptor = source.resolve()
        assert Digest.of(source.manifest(descriptor)) == descriptor.digest
        source.referrers(descriptor.digest)
        source.resolve_tag("v2")


def test_an_archive_is_read() -> None:
    _read(_ARCHIVE)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_archive_gives_true_content_or_an_error(data: st.DataObject) -> None:
    archive = bytearray(_ARCHIVE)
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    try:
        _read(bytes(archive[: data.draw(st.integers(0, len(archive)) | st.just(len(archive)))]))
    except KitserveError:
        return


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(_names),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["manifests", "mediaType", "digest", "size", "annotations", "imageLayoutVersion"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda document: str(document).replace("'", '"').encode(errors="replace")),
)
def test_no_document_gets_anything_but_an_error(name: str, document: bytes) -> None:
    contents = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b'{"manifests":[]}'}
    try:
        _read(tar(*{**contents, name: document}.items()))
    except KitserveError:
        return
    raise AssertionError(document)
