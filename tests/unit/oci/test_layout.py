from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import DigestMismatch, NotFound, RegistryError, SizeMismatch
from gateway.oci.content import CHUNK, MAX_REFERRERS, OCI_INDEX, OCI_MANIFEST, Descriptor
from gateway.oci.layout import LayoutSource
from gateway.oci.reference import Digest, LayoutReference, parse_reference
from tests.support.artifacts import LayoutBuilder, tar

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
    unnamed = _source(own.directory, "v1", old.digest).resolve()
    assert (unnamed.digest, unnamed.size) == (old.digest, old.size)


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


def _rename(builder: LayoutBuilder, *names: str | None) -> None:
    """Rename the entries of the index, in their order."""
    path = builder.directory / "index.json"
    index = json.loads(path.read_bytes())
    for entry, name in zip(index["manifests"], names, strict=True):
        entry["annotations"] = {} if name is None else {"org.opencontainers.image.ref.name": name}
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("names", "reference", "position"),
    [
        (("iris:v1", "wine:v1", "v1"), "iris:v1", 0),
        (("v1", "iris:v1", "r.io/iris:v1"), "iris:v1", 1),
        (("v1", "v2", "v3"), "iris:v2", 1),
        (("v1", "v2", "v3"), "anything/at-all:v3", 2),
        (("r.io:80/iris:v1", "iris:v2", None), "r.io:80/iris:v1", 0),
        (("iris", "wine", "latest"), "iris", 0),
        (("iris", "iris:latest", "latest"), "iris", 1),
        (("wine", "wine:v1", "latest"), "iris", 2),
        (("r.io:80/iris:v1", "wine:v1", "v2"), "iris:v1", None),
        (("r.io:80/iris:v1", "wine:v1", "v2"), "r.io/iris:v1", None),
        (("iris", "wine", None), "iris:v1", None),
    ],
)
def test_names_are_matched_whole_and_then_by_their_tag(
    own: LayoutBuilder, names: tuple[str | None, ...], reference: str, position: int | None
) -> None:
    own.kit("b", tar(("model", b"b")))
    own.kit("c", tar(("model", b"c")))
    _rename(own, *names)
    entries = json.loads((own.directory / "index.json").read_bytes())["manifests"]
    source = LayoutSource(parse_layout(own.directory, reference))
    if position is not None:
        assert str(source.resolve().digest) == entries[position]["digest"]
        return
    with pytest.raises(NotFound) as caught:
        source.resolve()
    for entry, name in zip(entries, names, strict=True):
        assert (name or f"@{entry['digest']}") in str(caught.value)


def test_an_error_shows_no_tag_that_nobody_wrote(own: LayoutBuilder, tmp_path: Path) -> None:
    nowhere = tmp_path / "nosuch"
    with pytest.raises(NotFound) as caught:
        LayoutSource(parse_layout(nowhere, "v1")).resolve()
    assert str(caught.value) == f"oci-layout:{nowhere}:v1: {nowhere} does not exist"
    with pytest.raises(NotFound, match=f"^oci-layout:{own.directory}:v9: {own.directory} has no v9; it has"):
        LayoutSource(parse_layout(own.directory, "v9")).resolve()
    with pytest.raises(NotFound, match=f"^oci-layout:{own.directory}:x:v9: {own.directory} has no x:v9;"):
        LayoutSource(parse_layout(own.directory, "x:v9")).resolve()


def parse_layout(directory: Path, name: str) -> LayoutReference:
    reference = parse_reference(f"oci-layout:{directory}:{name}")
    assert isinstance(reference, LayoutReference)
    return reference


def test_a_digest_without_a_name(own: LayoutBuilder) -> None:
    digest = _source(own.directory).resolve().digest
    _rename(own, None)
    assert LayoutSource(parse_layout(own.directory, str(digest))).resolve().digest == digest


def test_another_tag_of_the_same_name(own: LayoutBuilder) -> None:
    signed = Digest.parse(own.kit("samples/iris:v2", tar(("model", b"y"))))
    signature = Digest.parse(own.artifact(f"samples/iris:sha256-{signed.hex}.sig", {"a": 1}))
    own.artifact(f"samples/wine:sha256-{V1.hex}.sig", {"a": 2})
    bare = Digest.parse(own.artifact("sha256-bare.sig", {"a": 3}))
    for source in (_source(own.directory), _source(own.directory, None, signed)):
        descriptor = source.resolve_tag(f"sha256-{signed.hex}.sig")
        assert descriptor is not None
        assert descriptor.digest == signature
        assert Digest.of(source.manifest(descriptor)) == signature
        assert source.resolve_tag(f"sha256-{V1.hex}.sig") is None
        assert (bare_descriptor := source.resolve_tag("sha256-bare.sig")) is not None
        assert bare_descriptor.digest == bare


def _refer(builder: LayoutBuilder, kit: Digest, name: str, **more: Any) -> Digest:
    subject = {"mediaType": OCI_MANIFEST, "digest": str(kit), "size": 1}
    return Digest.parse(builder.artifact(name, {"schemaVersion": 2, "subject": subject, **more}))


def test_referrers_are_found_by_their_subject(own: LayoutBuilder) -> None:
    kit = _source(own.directory).resolve().digest
    bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
    config = {"mediaType": "application/vnd.old.config", "digest": str(kit), "size": 2}
    first = _refer(own, kit, "a", artifactType=bundle, annotations={"one": "1"}, config=config)
    second = _refer(own, kit, "b", config=config)
    _refer(own, V1, "other", artifactType=bundle)
    own.artifact("odd", {"subject": "none"})
    own.artifact("strange", {"subject": {"mediaType": "x", "digest": "sha512:" + "a" * 128, "size": 1}})
    gone = _refer(own, kit, "gone")
    (own.directory / "blobs/sha256" / gone.hex).unlink()
    _rename(own, "samples/iris:v1", None, None, None, None, None, None)
    one, two = _source(own.directory).referrers(kit)
    assert (one.digest, one.artifact_type, dict(one.annotations)) == (first, bundle, {"one": "1"})
    assert (two.digest, two.artifact_type, two.media_type) == (
        second,
        "application/vnd.old.config",
        OCI_MANIFEST,
    )
    assert Digest.of(_source(own.directory).manifest(one)) == first
    assert _source(own.directory).referrers(Digest.of(b"nobody")) == ()


def test_no_more_referrers_than_sixty_four(own: LayoutBuilder) -> None:
    kit = _source(own.directory).resolve().digest
    digests = [
        _refer(own, kit, f"r{number}", artifactType=f"x/{number}") for number in range(MAX_REFERRERS + 6)
    ]
    referrers = _source(own.directory).referrers(kit)
    assert [referrer.digest for referrer in referrers] == digests[:MAX_REFERRERS]


def test_a_damaged_referrer_is_reported(own: LayoutBuilder) -> None:
    kit = _source(own.directory).resolve().digest
    path = own.directory / "blobs/sha256" / _refer(own, kit, "a").hex
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    with pytest.raises(DigestMismatch):
        _source(own.directory).referrers(kit)


def test_the_search_for_referrers_ends(own: LayoutBuilder) -> None:
    kit = _source(own.directory).resolve().digest
    for number in range(17):
        _refer(own, V1, f"large{number}", filler=f"{number:02}" * (2 * 1024 * 1024 - 256))
    with pytest.raises(RegistryError, match="more than 67108864 bytes of manifests to search"):
        _source(own.directory).referrers(kit)
    _refer(own, kit, "larger", filler="x" * (4 * 1024 * 1024))
    own.directory.joinpath("index.json").write_text(
        json.dumps({"manifests": json.loads((own.directory / "index.json").read_bytes())["manifests"][-1:]})
    )
    assert _source(own.directory).referrers(kit) == ()


def test_an_index_is_searched_too(own: LayoutBuilder) -> None:
    kit = _source(own.directory).resolve().digest
    digest = _refer(own, kit, "a", manifests=[])
    path = own.directory / "index.json"
    path.write_text(path.read_text().replace(OCI_MANIFEST, OCI_INDEX))
    (referrer,) = _source(own.directory).referrers(kit)
    assert (referrer.digest, referrer.media_type) == (digest, OCI_INDEX)


def test_documents_are_bounded(own: LayoutBuilder) -> None:
    entry = {"mediaType": OCI_MANIFEST, "digest": str(V1), "size": 1}
    path = own.directory / "index.json"
    path.write_text(json.dumps({"manifests": [entry] * 10_000}))
    with pytest.raises(NotFound, match=f"it has @{V1}, .* and 9,980 more"):
        _source(own.directory).resolve()
    path.write_text(json.dumps({"manifests": [entry] * 10_001}))
    with pytest.raises(RegistryError, match="no usable OCI image layout"):
        _source(own.directory).resolve()
    path.write_text(" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(RegistryError, match="4194305 bytes; 4 MiB are allowed"):
        _source(own.directory).resolve()


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".there"))
    path.symlink_to(path.with_suffix(".there"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_link, "is a symbolic link"),
        (_pipe, "a pipe, not a regular file"),
        (_folder, "a directory, not a regular file"),
    ],
)
def test_what_is_no_regular_file_is_not_read(
    own: LayoutBuilder, change: Callable[[Path], None], reason: str
) -> None:
    descriptor = _source(own.directory).resolve()
    change(own.directory / "blobs/sha256" / descriptor.digest.hex)
    with pytest.raises(RegistryError, match=f"lacks blob {descriptor.digest} .*{reason}"):
        _source(own.directory).manifest(descriptor)
    with (
        pytest.raises(RegistryError, match=reason),
        _source(own.directory).blob(descriptor),
    ):
        raise AssertionError
    change(own.directory / "index.json")
    with pytest.raises(RegistryError, match=f"index.json: .*{reason}"):
        _source(own.directory).resolve()


def test_a_pipe_is_no_layout(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotFound, match="no OCI image layout"):
        _source(tmp_path / "pipe").resolve()


def test_what_a_reader_does_with_a_blob_is_its_own_fault(own: LayoutBuilder) -> None:
    source = _source(own.directory)
    with pytest.raises(OSError, match="disk full"), source.blob(source.resolve()):
        raise OSError("disk full")


def test_many_threads_read_one_source(own: LayoutBuilder) -> None:
    data = os.urandom(3 * CHUNK + 17)
    blob = own.blob("x/y", data)
    descriptor = Descriptor("x/y", Digest.parse(blob["digest"]), blob["size"])
    source = _source(own.directory)
    barrier = threading.Barrier(8)

    def read(number: int) -> bool:
        barrier.wait(10)
        with source.blob(descriptor, number * 100_000) as stream:
            chunks = list(stream.chunks)
        assert len(chunks[0]) == CHUNK
        return b"".join(chunks) == data[number * 100_000 :]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
