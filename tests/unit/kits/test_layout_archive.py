from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.errors import NotFound, RegistryError
from gateway.oci.content import CHUNK, Descriptor
from gateway.oci.layout import LayoutSource
from gateway.oci.reference import Digest, LayoutReference
from tests.support.artifacts import LayoutBuilder, tar

V1 = Digest.parse("sha256:702c3f942317fbbe1f30dca2f5fd2019cbfdf3e7ed7b7718d2cda6d6c56aac8d")


def pack(
    directory: Path, target: Path, prefix: str = "", twice: Iterable[str] = (), form: int = tarfile.PAX_FORMAT
) -> Path:
    """Pack a layout as a tar archive, some of its files two times."""
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    with tarfile.open(target, "w", format=form) as archive:
        for name in [*names, *twice]:
            archive.add(directory / name, f"{prefix}{name}", recursive=False)
    return target


def _source(path: Path, tag: str | None = "v1", digest: Digest | None = None) -> LayoutSource:
    return LayoutSource(LayoutReference(path, "samples/iris", tag, digest))


@pytest.fixture
def own(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(tmp_path / "layout")
    builder.kit("samples/iris:v1", tar(("model", b"x")))
    return builder


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive_is_read_like_its_directory(layout: Path, tmp_path: Path, prefix: str, form: int) -> None:
    from_directory = _source(layout)
    from_archive = _source(pack(layout, tmp_path / "layout.tar", prefix, form=form))
    descriptor = from_archive.resolve()
    assert descriptor == from_directory.resolve()
    assert from_archive.manifest(descriptor) == from_directory.manifest(descriptor)
    assert _source(tmp_path / "layout.tar", None, V1).resolve().digest == V1
    for path in (layout / "blobs" / "sha256").iterdir():
        blob = Descriptor("x/y", Digest("sha256", path.name), path.stat().st_size)
        for offset in (0, 1, blob.size - 1, blob.size, blob.size + 1):
            with from_archive.blob(blob, offset) as stream:
                assert (stream.start, b"".join(stream.chunks)) == (offset, path.read_bytes()[offset:])
    with pytest.raises(NotFound, match="has no samples/iris:v9; it has samples/iris-child:v1"):
        _source(tmp_path / "layout.tar", "v9").resolve()


def test_what_tar_itself_packs_is_read(layout: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-cf", tmp_path / "l.tar", "-C", layout, "."], check=True, timeout=30)
    (tmp_path / "link.tar").symlink_to("l.tar")
    for name in ("l.tar", "link.tar"):
        source = _source(tmp_path / name)
        assert Digest.of(source.manifest(source.resolve())) == V1


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize(("written", "requested"), [("samples/iris:v1", "samples/iris:v1"), ("v1", "any:v1")])
@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_what_skopeo_writes_is_read(
    layout: Path, tmp_path: Path, form: str, written: str, requested: str
) -> None:
    command = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", "--quiet"]
    target = f"{form}:{tmp_path / 'there'}:{written}"
    subprocess.run([*command, f"oci:{layout}:samples/iris:v1", target], check=True, timeout=60)
    name, _, tag = requested.partition(":")
    source = LayoutSource(LayoutReference(tmp_path / "there", name, tag, None))
    descriptor = source.resolve()
    assert descriptor.digest == V1
    assert source.manifest(descriptor) == _source(layout).manifest(_source(layout).resolve())


@pytest.mark.parametrize(
    ("program", "magic"),
    [("gzip", b"\x1f\x8b"), ("bzip2", b"BZh"), ("xz", b"\xfd7zXZ\0"), ("zstd", b"(\xb5/\xfd")],
)
def test_a_compressed_archive_is_refused(tmp_path: Path, program: str, magic: bytes) -> None:
    (tmp_path / "l.tar").write_bytes(magic + os.urandom(600))
    with pytest.raises(RegistryError, match=f"is compressed with {program}; uncompress it"):
        _source(tmp_path / "l.tar").resolve()


def test_a_really_compressed_archive_is_refused(own: LayoutBuilder, tmp_path: Path) -> None:
    packed = pack(own.directory, tmp_path / "l.tar")
    packed.write_bytes(gzip.compress(packed.read_bytes()))
    with pytest.raises(RegistryError, match="is compressed with gzip"):
        _source(packed).resolve()


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_file_given_twice_is_refused(own: LayoutBuilder, tmp_path: Path, name: str, prefix: str) -> None:
    packed = pack(own.directory, tmp_path / "l.tar", twice=[name])
    with pytest.raises(RegistryError, match=f"it has {name} twice"):
        _source(packed).resolve()
    with tarfile.open(pack(own.directory, packed), "a") as archive:
        archive.add(own.directory / name, f"{prefix}{name}")
    with pytest.raises(RegistryError, match=f"it has {name} twice"):
        _source(packed).resolve()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_member_that_is_no_file_is_refused(own: LayoutBuilder, tmp_path: Path, kind: bytes) -> None:
    packed = pack(own.directory, tmp_path / "l.tar")
    with tarfile.open(packed, "a") as archive:
        member = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
        member.type, member.linkname = kind, "../../../../etc/passwd"
        archive.addfile(member)
    with pytest.raises(RegistryError, match=r"no usable archive of a layout: .*only files and directories"):
        _source(packed).resolve()


def test_a_truncated_archive_is_refused(own: LayoutBuilder, tmp_path: Path) -> None:
    whole = pack(own.directory, tmp_path / "whole.tar").read_bytes()
    content = len(whole.rstrip(b"\0"))
    for size in (0, 1, 511, 512, 1000, content // 2, content - 1, content):
        (tmp_path / "l.tar").write_bytes(whole[:size])
        with pytest.raises(RegistryError, match=r"no usable archive of a layout: it (ends early|is no tar)"):
            _source(tmp_path / "l.tar").resolve()


@pytest.mark.parametrize(
    "data", [b"", b"{}", os.urandom(5000), bytes(5000)], ids=["nothing", "JSON", "random", "zeros"]
)
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "l.tar").write_bytes(data)
    with pytest.raises(RegistryError):
        _source(tmp_path / "l.tar").resolve()


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "l.tar").write_bytes(tar(("manifest.json", b"[]"), ("a/index.json", b"{}")))
    with pytest.raises(NotFound, match="no OCI image layout: oci-layout: not in the archive"):
        _source(tmp_path / "l.tar").resolve()


def test_a_blob_that_is_missing(own: LayoutBuilder, tmp_path: Path) -> None:
    descriptor = _source(own.directory).resolve()
    (own.directory / "blobs/sha256" / descriptor.digest.hex).unlink()
    source = _source(pack(own.directory, tmp_path / "l.tar"))
    with pytest.raises(NotFound, match=f"lacks blob {descriptor.digest} .not in the archive."):
        source.manifest(source.resolve())


def test_an_archive_that_is_replaced_is_looked_through_again(own: LayoutBuilder, tmp_path: Path) -> None:
    path = pack(own.directory, tmp_path / "l.tar")
    source = _source(path)
    before = source.resolve()
    own.kit("team/first:v1", tar(("model", b"y" * 5000)))
    (own.directory / "AAA").write_bytes(b"z" * 3000)
    pack(own.directory, tmp_path / "new.tar").replace(path)
    assert Digest.of(source.manifest(before)) == before.digest
    assert LayoutSource(LayoutReference(path, "team/first", "v1", None)).resolve().digest != before.digest


def test_large_blobs_are_passed_over(own: LayoutBuilder, tmp_path: Path) -> None:
    """Looking a name up in an archive reads its headers, however large what is between them is."""
    path = pack(own.directory, tmp_path / "l.tar")
    member = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
    member.size = 8 * 1024**3 + 5
    whole = path.read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.seek(member.size + -member.size % 512, os.SEEK_CUR)
        file.write(whole + bytes(1024))
    begun = time.monotonic()
    source = _source(path)
    assert Digest.of(source.manifest(source.resolve())) == source.resolve().digest
    assert time.monotonic() - begun < 1


def test_many_threads_read_one_archive(own: LayoutBuilder, tmp_path: Path) -> None:
    data = os.urandom(2 * CHUNK + 17)
    blob = own.blob("x/y", data)
    descriptor = Descriptor("x/y", Digest.parse(blob["digest"]), blob["size"])
    source = _source(pack(own.directory, tmp_path / "l.tar"))

    def read(number: int) -> bool:
        with source.blob(descriptor, number * 100_000) as stream:
            content = io.BytesIO(b"".join(stream.chunks))
        return content.getvalue() == data[number * 100_000 :] and source.resolve().size > 0

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(16)))
