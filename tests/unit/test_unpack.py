from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from gateway.errors import DigestMismatch, KitError, SizeMismatch, UnsafeArchive
from gateway.kits.manifest import Archive, Compression, Layer, Role
from gateway.kits.unpack import Tree, unpack_layer
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest
from tests.artifacts import tar

PLAIN = tar(("d", None), ("d/a.bin", b"a" * 1000), ("b.bin", b""))


def _layer(
    data: bytes,
    archive: Archive = Archive.TAR,
    compression: Compression = Compression.NONE,
    path: str | None = None,
    root: str = "",
    diff_id: Digest | None = None,
) -> Layer:
    descriptor = Descriptor("x/y", Digest.of(data), len(data))
    return Layer(descriptor, Role.MODEL, archive, compression, path, root, diff_id)


def _unpack(tmp_path: Path, data: bytes, layer: Layer | None = None) -> dict[str, bytes]:
    tmp_path.mkdir(exist_ok=True)
    tree = Tree(tmp_path / "tree", "r.io/x:v1")
    unpack_layer(io.BytesIO(data), layer or _layer(data), tree)
    return {
        str(file.relative_to(tree.root)): file.read_bytes() for file in tree.root.rglob("*") if file.is_file()
    }


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_format(tmp_path: Path, form: int) -> None:
    long = "/".join(["part" * 10] * 5) if form == tarfile.USTAR_FORMAT else "/".join(["x" * 120] * 4)
    members = {"a/b.bin": b"1" * 513, f"{long}/ü.bin": b"2", "./c": b""}
    found = _unpack(tmp_path, tar(("./", None), *members.items(), form=form))
    assert found == {name.removeprefix("./"): content for name, content in members.items()}


def test_files_cannot_be_written_and_directories_appear(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree", "r")
    unpack_layer(io.BytesIO(PLAIN), _layer(PLAIN), tree)
    tree.seal()
    assert (tree.root / "d/a.bin").stat().st_mode & 0o7777 == 0o444
    assert (tree.root / "d").stat().st_mode & 0o7777 == 0o555
    assert [(file.path, file.size) for file in tree.files] == [("d/a.bin", 1000), ("b.bin", 0)]
    assert tree.files[1].sha256 == Digest.of(b"").hex


def test_gzip(tmp_path: Path) -> None:
    data = gzip.compress(PLAIN)
    layer = _layer(data, compression=Compression.GZIP, diff_id=Digest.of(PLAIN))
    assert _unpack(tmp_path, data, layer) == {"d/a.bin": b"a" * 1000, "b.bin": b""}


def test_raw(tmp_path: Path) -> None:
    assert _unpack(tmp_path, b"x" * 5, _layer(b"x" * 5, Archive.RAW, path="m/w.bin")) == {"m/w.bin": b"x" * 5}


def test_old_tars_go_beside_their_path(tmp_path: Path) -> None:
    assert set(_unpack(tmp_path, PLAIN, _layer(PLAIN, root="models/x"))) == {
        "models/x/d/a.bin",
        "models/x/b.bin",
    }


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a/./b",
        "a\\b",
        "a\nb",
        "a\x1b[31mb",
        "a\u202eb",
        "x" * 256,
        "/".join(["x"] * 33),
        "/".join(["x" * 200] * 6),
        "..",
    ],
)
@pytest.mark.parametrize("archive", list(Archive))
def test_names_that_are_not_safe(tmp_path: Path, name: str, archive: Archive) -> None:
    data = tar((name, b"x")) if archive is Archive.TAR else b"x"
    with pytest.raises(UnsafeArchive, match=r"r\.io/x:v1: layer sha256:"):
        _unpack(tmp_path, data, _layer(data, archive, path=name))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "A"), ("a/b", "A/c"), ("e\u0301", "\u00e9"), ("a", "a/b"), ("a/b", "a"), ("ﬀ", "ff")],
)
def test_names_that_collide(tmp_path: Path, names: tuple[str, str]) -> None:
    tree = Tree(tmp_path / "tree", "r")
    first, second = (tar((name, b"x")) for name in names)
    unpack_layer(io.BytesIO(first), _layer(first), tree)
    with pytest.raises(UnsafeArchive, match="takes its place"):
        unpack_layer(io.BytesIO(second), _layer(second), tree)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE],
)
def test_only_files_and_directories(tmp_path: Path, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("entry")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UnsafeArchive, match="only files and directories"):
        _unpack(tmp_path, buffer.getvalue())


def _header(**changes: bytes) -> bytes:
    """A header of a file "a" with fields overwritten, its checksum right."""
    offsets = {"name": 0, "size": 124, "kind": 156, "magic": 257}
    block = bytearray(tar(("a", b""), form=tarfile.USTAR_FORMAT)[:512])
    for field, value in changes.items():
        block[offsets[field] : offsets[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _pax(record: bytes, kind: bytes = b"x") -> bytes:
    return _header(kind=kind, size=b"%011o\0" % len(record)) + record.ljust(512, b"\0")


END = bytes(1024)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends early"),
        (bytes(512), "ends early"),
        (PLAIN[:700], "ends early"),
        (_header(), "ends early"),
        (_header() + bytes(512) + b"x" * 512, "one zero block"),
        (_header() + END + b"smuggled", "bytes after its end"),
        (_header(magic=b"nothing!"), "no tar archive"),
        (_header()[:-1] + b"x" + END, "checksum"),
        (_header(size=b"\xff" * 12) + END, "not negative"),
        (_header(size=b"\x80" + b"\xff" * 11) + END, "has the size"),
        (_header(size=b"-0000000001\0") + END, "not negative"),
        (_header(kind=b"5", size=b"%011o\0" % 512) + bytes(512) + END, "has the size"),
        (_header(kind=b"x", size=b"%011o\0" % (1 << 30)), "65536 are allowed"),
        (_header(kind=b"L", size=b"%011o\0" % (1 << 20)), "4096 are allowed"),
        (_pax(b"12 path=abc\n") + END, "after an extended header"),
        (_pax(b"99 path=abc\n") + _header() + END, "broken"),
        (_pax(b"0 path=a\n") + _header() + END, "broken"),
        (_pax(b"x path=a\n") + _header() + END, "number"),
        (_pax(b"12 size=-10\n") + _header() + END, "number"),
        (_pax(b"10 path=a\n" * 2) + _header() + END, "twice"),
        (_pax(b"12 path=\xff\xfe\xfd\n") + _header() + END, "UTF-8"),
        (_pax(b"22 GNU.sparse.major=1\n") + _header() + END, "sparse"),
        (_pax(b"12 path=abc\n", b"g") + _header() + END, "global header sets path"),
        (_pax(b"12 path=abc\n") + _pax(b"b", b"L") + _header() + END, "two extended names"),
        (_header(name=b"a\xff") + END, "UTF-8"),
        (_header(name=b"a/") + END, "directory's name"),
    ],
)
def test_archives_that_are_damaged_or_lie(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(UnsafeArchive, match=why):
        _unpack(tmp_path, data)


def test_harmless_extras_are_taken(tmp_path: Path) -> None:
    data = _pax(b"13 comment=x\n", b"g") + _pax(b"13 mtime=1.5\n") + _header() + END + bytes(10_000)
    assert _unpack(tmp_path, data) == {"a": b""}


def test_a_size_beyond_ustar_comes_from_pax(tmp_path: Path) -> None:
    data = _pax(b"10 size=3\n") + _header(size=b"%011o\0" % 0) + b"abc".ljust(512, b"\0") + END
    assert _unpack(tmp_path, data) == {"a": b"abc"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (gzip.compress(PLAIN)[:-9], "gzip stream ends early"),
        (gzip.compress(PLAIN) + b"x", "bytes after its gzip stream"),
        (gzip.compress(PLAIN) + gzip.compress(b"more"), "bytes after its gzip stream"),
        (b"plain text", "gzip stream is damaged"),
        (gzip.compress(bytes(80 * 1024**2)), "too many for its size"),
    ],
)
def test_gzip_that_is_damaged_or_lies(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(UnsafeArchive, match=why):
        _unpack(tmp_path, data, _layer(data, Archive.RAW, Compression.GZIP, path="w"))


def test_a_damaged_blob_is_never_taken_for_a_bad_archive(tmp_path: Path) -> None:
    for position in (0, 150, 600, len(PLAIN) - 1):
        damaged = bytearray(PLAIN)
        damaged[position] ^= 1
        with pytest.raises(DigestMismatch, match=r"r\.io/x:v1"):
            _unpack(tmp_path / str(position), bytes(damaged), _layer(PLAIN))
    for cut in (100, 512, len(PLAIN) - 1):
        with pytest.raises(SizeMismatch, match=r"r\.io/x:v1"):
            _unpack(tmp_path / f"cut{cut}", PLAIN[:cut], _layer(PLAIN))


def test_content_that_is_not_what_the_kitfile_says(tmp_path: Path) -> None:
    data = gzip.compress(PLAIN)
    layer = _layer(data, compression=Compression.GZIP, diff_id=Digest.of(b"other"))
    with pytest.raises(DigestMismatch, match="Kitfile says"):
        _unpack(tmp_path, data, layer)


def test_zstd_is_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="compression zstd is not supported yet"):
        _unpack(tmp_path, PLAIN, _layer(PLAIN, compression=Compression.ZSTD))


def test_nothing_on_disk_is_followed(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree", "r")
    outside = tmp_path / "outside"
    (tree.root / "a").symlink_to(outside)
    data = tar(("a", b"x"))
    with pytest.raises(FileExistsError):
        unpack_layer(io.BytesIO(data), _layer(data), tree)
    assert not outside.exists()
