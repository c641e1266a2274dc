from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from backports import zstd

from gateway.errors import DigestMismatch, SizeMismatch, StoreError, UnsafeArchive
from gateway.kits.layer import Archive, Compression, Layer
from gateway.kits.tree import Tree
from gateway.kits.unpack import unpack_layer
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest
from tests.support.archives import END, HONEST, HOSTILE, NAMES, entry, fault, header, layer_of, unpacked
from tests.support.artifacts import tar

PLAIN = tar(("d", None), ("d/a.bin", b"a" * 1000), ("b.bin", b""))
FILES = {"d/a.bin": b"a" * 1000, "b.bin": b""}
PACKED: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: zstd.compress,
}
MIB = 1024**2


def _unpack(tree: Tree, data: bytes, layer: Layer | None = None) -> None:
    unpack_layer(io.BytesIO(data), layer or layer_of(data), tree)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(name: str) -> None:
    data, why = HOSTILE[name]
    assert fault(data, why) is None


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_hostile_archives_in_compressed_layers(compression: Compression) -> None:
    for data, why in HOSTILE.values():
        packed = PACKED[compression](data)
        assert fault(packed, why, layer_of(packed, compression=compression)) is None


@pytest.mark.parametrize("name", HONEST)
def test_honest_archives(tmp_path: Path, name: str) -> None:
    data, files = HONEST[name]
    assert unpacked(tmp_path, data) == files


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_format(tmp_path: Path, form: int) -> None:
    long = "/".join(["part" * 10] * 5) if form == tarfile.USTAR_FORMAT else "/".join(["x" * 120] * 4)
    members = {"a/b.bin": b"1" * 513, f"{long}/ü.bin": b"2", "./c": b""}
    files = unpacked(tmp_path, tar(("./", None), *members.items(), form=form))
    assert files == {name.removeprefix("./"): content for name, content in members.items()}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("directory's name", "none")])
@pytest.mark.parametrize("compression", list(Compression))
def test_names_of_raw_layers(name: str, compression: Compression) -> None:
    path, why = NAMES[name]
    packed = PACKED[compression](b"x")
    assert fault(packed, why, layer_of(packed, Archive.RAW, compression, path=path)) is None


@pytest.mark.parametrize("path", [None, "", "."])
def test_a_raw_layer_without_a_name(path: str | None) -> None:
    assert fault(b"x", "states no path for it|no name", layer_of(b"x", Archive.RAW, path=path)) is None


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("archive", list(Archive))
def test_every_packing(tmp_path: Path, archive: Archive, compression: Compression) -> None:
    content = PLAIN if archive is Archive.TAR else b"weights"
    data = PACKED[compression](content)
    layer = layer_of(data, archive, compression, path="m/w.bin", diff_id=Digest.of(content))
    files = FILES if archive is Archive.TAR else {"m/w.bin": content}
    assert unpacked(tmp_path / "one", data, layer) == files
    blob = tmp_path / "blob"
    blob.write_bytes(data)
    tree = Tree(tmp_path / "verified", "r")
    with blob.open("rb") as stream:
        unpack_layer(stream, layer, tree, is_verified=True)
    tree.make_read_only()
    assert {file.path: (file.size, file.sha256) for file in tree.files} == {
        path: (len(content), Digest.of(content).hex) for path, content in files.items()
    }
    assert {file.path: (tree.root / file.path).read_bytes() for file in tree.files} == files


def test_old_tars_go_beside_their_path(tmp_path: Path) -> None:
    files = unpacked(tmp_path, PLAIN, layer_of(PLAIN, root="models/x"))
    assert set(files) == {"models/x/d/a.bin", "models/x/b.bin"}


def test_a_sealed_tree_is_all_alike(tmp_path: Path) -> None:
    modes = (0o4755, 0o2755, 0o1777, 0o000, 0o777)
    data = (
        b"".join(entry(f"d{mode:o}", kind=b"5", mode=mode) for mode in modes)
        + b"".join(entry(f"f{mode:o}", b"x", mode=mode) for mode in modes[2:])
        + END
    )
    tree = Tree(tmp_path / "tree", "r")
    umask = os.umask(0o077)
    try:
        _unpack(tree, data)
        tree.make_read_only()
    finally:
        os.umask(umask)
    for path in (tree.root, *tree.root.rglob("*")):
        status = path.lstat()
        assert stat.S_IMODE(status.st_mode) == (0o555 if path.is_dir() else 0o444)
        assert (status.st_uid, status.st_mtime, status.st_nlink == 1 or path.is_dir()) == (
            os.getuid(),
            0,
            True,
        )
        assert os.listxattr(path) == []


@pytest.mark.parametrize(
    "names",
    [
        ("a", "a"),
        ("a", "A"),
        ("a/b", "A/c"),
        ("e\u0301", "\u00e9"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("ﬀ", "ff"),
        ("ß", "ss"),
        ("Straße/x", "STRASSE/y"),
    ],
)
@pytest.mark.parametrize("layers", [1, 2])
def test_names_that_collide(tmp_path: Path, names: tuple[str, str], layers: int) -> None:
    tree = Tree(tmp_path / "tree", "r")
    archives = (
        [tar((name, b"x")) for name in names] if layers == 2 else [tar(*((name, b"x") for name in names))]
    )
    for data in archives[:-1]:
        _unpack(tree, data)
    with pytest.raises(UnsafeArchive, match="collides with"):
        _unpack(tree, archives[-1])
    assert [file.path for file in tree.files] == ([names[0]] if layers == 2 else [])


def test_names_that_only_windows_refuses_do_not_collide(tmp_path: Path) -> None:
    names = ("a", "a.", "a ", "aux", "nul.txt")
    assert set(unpacked(tmp_path, tar(*((name, b"x") for name in names)))) == set(names)


@pytest.mark.parametrize(
    ("compression", "data", "why"),
    [
        (Compression.GZIP, b"", "gzip stream ends early"),
        (Compression.GZIP, gzip.compress(PLAIN)[:-9], "gzip stream ends early"),
        (Compression.GZIP, gzip.compress(PLAIN) + b"x", "bytes after its gzip stream"),
        (Compression.GZIP, gzip.compress(PLAIN) + gzip.compress(b"more"), "bytes after its gzip stream"),
        (Compression.GZIP, b"plain text", "gzip stream is damaged"),
        (Compression.GZIP, gzip.compress(bytes(80 * MIB), 1), "more than 67108864 bytes"),
        (Compression.ZSTD, b"", "zstd stream ends early"),
        (Compression.ZSTD, zstd.compress(PLAIN)[:-1], "zstd stream ends early"),
        (Compression.ZSTD, zstd.compress(PLAIN) + b"x", "zstd stream ends early|bytes after it"),
        (Compression.ZSTD, zstd.compress(PLAIN) + b"more bytes", "bytes after it"),
        (Compression.ZSTD, b"plain text", "zstd stream is damaged"),
        (Compression.ZSTD, zstd.compress(bytes(80 * MIB)), "more than 67108864 bytes"),
        # A frame of one empty block that asks for a window of 2 GiB (RFC 8878, section 3.1.1.1.2).
        (
            Compression.ZSTD,
            b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x01\x00\x00",
            "window of more than",
        ),
    ],
)
def test_compressed_layers_that_are_damaged_or_lie(compression: Compression, data: bytes, why: str) -> None:
    assert fault(data, why, layer_of(data, Archive.RAW, compression, path="w")) is None


def test_zstd_of_several_frames(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    data = skipped + zstd.compress(PLAIN[:700]) + zstd.compress(b"") + zstd.compress(PLAIN[700:]) + skipped
    assert unpacked(tmp_path, data, layer_of(data, compression=Compression.ZSTD)) == FILES


def test_a_kit_of_many_small_bombs(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree", "r")
    data = gzip.compress(bytes(40 * MIB), 1)
    _unpack(tree, data, layer_of(data, Archive.RAW, Compression.GZIP, path="one"))
    with pytest.raises(UnsafeArchive, match=r"'two' takes the kit beyond 67108864 bytes"):
        _unpack(tree, data, layer_of(data, Archive.RAW, Compression.GZIP, path="two"))
    assert [file.path for file in tree.files] == ["one"]
    tree = Tree(tmp_path / "expected", "r", expected=5 * MIB)
    for path in ("one", "two"):
        _unpack(tree, data, layer_of(data, Archive.RAW, Compression.GZIP, path=path))
    with pytest.raises(UnsafeArchive, match=r"'three' takes the kit beyond 104857600 bytes"):
        _unpack(tree, data, layer_of(data, Archive.RAW, Compression.GZIP, path="three"))


def test_limits_of_a_tree(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "bytes", "r", max_bytes=1000)
    with pytest.raises(UnsafeArchive, match="'b' takes the kit beyond 1000 bytes"):
        _unpack(tree, tar(("a", b"x" * 600), ("b", b"x" * 600)))
    _unpack(tree, tar(("a", b"x" * 600)))
    tree = Tree(tmp_path / "entries", "r", max_entries=10)
    _unpack(tree, tar(*((f"d/{number}", b"") for number in range(9))))
    with pytest.raises(UnsafeArchive, match="more than 10 files and directories"):
        _unpack(tree, tar(("e", None)))


def test_what_cannot_fit_is_not_begun(tmp_path: Path) -> None:
    size = 1 << 60
    layer = replace(layer_of(b"", Archive.RAW, path="w"), descriptor=Descriptor("x/y", Digest.of(b""), size))
    tree = Tree(tmp_path / "tree", "r", max_bytes=1 << 62)
    with pytest.raises(StoreError, match=rf"r: 'w' needs {size} bytes and \d+ are free"):
        _unpack(tree, b"", layer)
    assert list(tree.root.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("compression", list(Compression))
def test_a_full_disk(small_disk: Path, compression: Compression) -> None:
    tree = Tree(small_disk / "tree", "r")
    content = tar(*((f"d/{number}", bytes(300_000)) for number in range(8)))
    data = PACKED[compression](content)
    with pytest.raises(StoreError, match=r"'d/3' needs 300000 bytes and \d+ are free"):
        _unpack(tree, data, layer_of(data, compression=compression))
    assert list(tree.root.iterdir()) == []


def test_a_verified_file_is_copied_to_another_disk(small_disk: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(data := os.urandom(300_000))
    tree = Tree(small_disk / "tree", "r")
    with blob.open("rb") as stream:
        unpack_layer(stream, layer_of(data, Archive.RAW, path="w"), tree, is_verified=True)
    tree.make_read_only()
    assert (tree.root / "w").read_bytes() == data
    assert [file.sha256 for file in tree.files] == [Digest.of(data).hex]


def test_memory_stays_flat(tmp_path: Path) -> None:
    bombs = [header("p", 200 * MIB, b"L") + bytes(200 * MIB), header("p", 200 * MIB, b"x") + bytes(200 * MIB)]
    packed = [gzip.compress(bomb, 1) for bomb in bombs]
    honest = tar(("big", bytes(48 * MIB)))
    cases = [(data, Compression.GZIP) for data in packed] + [(gzip.compress(honest, 1), Compression.GZIP)]
    cases.append((zstd.compress(honest), Compression.ZSTD))
    cases.append((honest, Compression.NONE))
    del bombs, honest
    for number, (data, compression) in enumerate(cases):
        tree = Tree(tmp_path / str(number), "r")
        layer = layer_of(data, compression=compression)
        tracemalloc.start()
        with suppress(UnsafeArchive):
            _unpack(tree, data, layer)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * MIB


@pytest.mark.parametrize("archive", list(Archive))
def test_a_damaged_blob_is_never_taken_for_a_bad_archive(tmp_path: Path, archive: Archive) -> None:
    layer = layer_of(PLAIN, archive, path="w")
    for position in (0, 150, 600, len(PLAIN) - 1):
        damaged = bytearray(PLAIN)
        damaged[position] ^= 1
        with pytest.raises(DigestMismatch, match=r"r\.io/x:v1"):
            unpacked(tmp_path / str(position), bytes(damaged), layer)
    for data in (PLAIN[:100], PLAIN[:512], PLAIN[:-1], b"", PLAIN + b"\0", PLAIN + bytes(3 * MIB)):
        directory = tmp_path / f"size{len(data)}"
        with pytest.raises(SizeMismatch, match=r"r\.io/x:v1"):
            unpacked(directory, data, layer)
        assert list((directory / "tree").iterdir()) == []


def test_a_layer_is_unpacked_again_where_a_damaged_one_was(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree", "r")
    _unpack(tree, tar(("d/mine", b"x")))
    with pytest.raises(DigestMismatch):
        _unpack(tree, PLAIN[:600] + b"b" + PLAIN[601:], layer_of(PLAIN))
    assert sorted(path.name for path in tree.root.rglob("*")) == ["d", "mine"]
    _unpack(tree, PLAIN)
    tree.make_read_only()
    assert sorted(file.path for file in tree.files) == ["b.bin", "d/a.bin", "d/mine"]


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("archive", list(Archive))
def test_content_that_is_not_what_the_kitfile_says(
    tmp_path: Path, archive: Archive, compression: Compression
) -> None:
    data = PACKED[compression](PLAIN)
    layer = layer_of(data, archive, compression, path="w", diff_id=Digest.of(b"other"))
    with pytest.raises(DigestMismatch, match="Kitfile says"):
        unpacked(tmp_path, data, layer)
    assert list((tmp_path / "tree").iterdir()) == []


def test_a_blob_said_to_be_verified_is_verified_where_it_cannot_be_it(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(PLAIN[:-512])
    for stream in (blob.open("rb"), io.BytesIO(PLAIN[:-512])):
        with stream, pytest.raises(SizeMismatch):
            unpack_layer(
                stream, layer_of(PLAIN), Tree(tmp_path / stream.__class__.__name__, "r"), is_verified=True
            )


def test_layers_are_unpacked_by_several_threads(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree", "r")
    files = {f"d/{number % 3}/{number}": bytes([number]) * 5000 for number in range(120)}
    names = list(files)
    layers = [tar(*((name, files[name]) for name in names[start::8])) for start in range(8)]
    damaged = layers[0][:600] + b"?" + layers[0][601:]
    with ThreadPoolExecutor(8) as threads:
        work = [threads.submit(_unpack, tree, data) for data in layers[1:]]
        broken = [threads.submit(_unpack, tree, damaged, layer_of(layers[0])) for _ in range(1)]
        assert isinstance(broken[0].exception(), DigestMismatch)
        work.append(threads.submit(_unpack, tree, layers[0]))
        assert [done.exception() for done in work] == [None] * 8
    tree.make_read_only()
    assert {file.path: (tree.root / file.path).read_bytes() for file in tree.files} == files


def test_nothing_on_disk_is_followed_or_replaced(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, name in enumerate(("a", "d", "e/f")):
        tree = Tree(tmp_path / f"tree{number}", "r")
        (tree.root / name).parent.mkdir(exist_ok=True)
        (tree.root / name).symlink_to(outside)
        with pytest.raises(StoreError, match=r"r: .* was changed by another process"):
            _unpack(tree, tar(("a", b"x"), ("d/a", b"x"), ("e/f/a", b"x")))
    assert list(outside.iterdir()) == []


def _swap_file(root: Path) -> None:
    (root / "b.bin").unlink()
    (root / "b.bin").symlink_to("d/a.bin")


def _swap_directory(root: Path) -> None:
    (root / "d").rename(root.parent / "moved")
    (root / "d").symlink_to(root.parent / "moved")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "d" / "more").write_bytes(b""),
        lambda root: (root / "more").mkdir(),
        lambda root: (root / "b.bin").unlink(),
        _swap_file,
        _swap_directory,
    ],
)
def test_a_tree_that_others_changed_is_not_sealed(tmp_path: Path, change: Callable[[Path], object]) -> None:
    tree = Tree(tmp_path / "tree", "r")
    _unpack(tree, PLAIN)
    change(tree.root)
    with pytest.raises(StoreError, match="was changed by another process"):
        tree.make_read_only()


def test_a_directory_that_is_swapped_for_a_link_leads_no_write_astray(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "e").mkdir(parents=True)
    data = tar(*((f"d/{where}{number}", b"x") for number in range(15) for where in ("", "e/")))
    swaps, stop = 0, threading.Event()
    root: list[Path] = [tmp_path / "none"]

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            directory = root[0] / "d"
            try:
                directory.rename(aside := root[0] / "aside")
                directory.symlink_to(outside)
                swaps += 1
                directory.unlink()
                aside.rename(directory)
            except OSError:
                continue

    racer = threading.Thread(target=swap)
    racer.start()
    refused = 0
    try:
        for number in range(20_000):
            tree = Tree(tmp_path / f"tree{number}", "r")
            root[0] = tree.root
            try:
                _unpack(tree, data)
            except StoreError:
                refused += 1
            if swaps >= 1000 and refused:
                break
    finally:
        stop.set()
        racer.join(10)
    assert swaps >= 1000
    assert refused
    assert list(outside.rglob("*")) == [outside / "e"]
