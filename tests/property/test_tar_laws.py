from __future__ import annotations

import io
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import KitserveError, UnsafeArchive
from gateway.kits.layer import Archive, Compression, Layer, Role
from gateway.kits.paths import folded, safe_path
from gateway.kits.tree import Tree
from gateway.kits.unpack import unpack_layer
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest
from tests.support.artifacts import COMPRESS, tar

_part = st.text(
    st.characters(whitelist_categories=["L", "N"], whitelist_characters=". _-"), min_size=1, max_size=20
).filter(lambda part: part not in (".", ".."))
_path = st.lists(_part, min_size=1, max_size=4).map("/".join)
_files = st.dictionaries(_path, st.binary(max_size=1500), max_size=6)
_form = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def _clashes(paths: list[str]) -> bool:
    """Tell whether two paths, or a path and a directory above another, fold into one."""
    every = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 2)}
    inner = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    return len({folded(name) for name in every}) < len(every) or bool(inner & set(paths))


def _unpack(data: bytes, compression: Compression = Compression.NONE) -> dict[str, bytes]:
    layer = Layer(
        Descriptor("x/y", Digest.of(data), len(data)), Role.MODEL, Archive.TAR, compression, path=None
    )
    with tempfile.TemporaryDirectory() as directory:
        tree = Tree(Path(directory) / "tree", "r")
        try:
            unpack_layer(io.BytesIO(data), layer, tree)
        except KitserveError:
            assert list(tree.root.iterdir()) == []
            raise
        finally:
            assert [path.name for path in Path(directory).iterdir()] == ["tree"]
        return {
            str(path.relative_to(tree.root)): path.read_bytes()
            for path in tree.root.rglob("*")
            if path.is_file()
        }


@settings(max_examples=80, deadline=None)
@given(_files, _form, st.sampled_from(Compression))
def test_what_tarfile_packs_is_unpacked(files: dict[str, bytes], form: int, compression: Compression) -> None:
    data = tar(*files.items(), form=form)
    suffix = "" if compression is Compression.NONE else compression.value
    try:
        unpacked = _unpack(COMPRESS[suffix](data), compression)
    except UnsafeArchive:
        assert _clashes(list(files))
    else:
        assert unpacked == files


@settings(max_examples=150, deadline=None)
@given(_files.filter(bool), st.data())
def test_no_change_of_a_byte_gets_anything_but_an_error_or_files_inside(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    archive = bytearray(tar(*files.items(), form=tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 5))):
        archive[data.draw(st.integers(0, min(len(archive), 2048) - 1))] = data.draw(st.integers(0, 255))
    try:
        _unpack(bytes(archive))
    except KitserveError:
        return


@settings(max_examples=60, deadline=None)
@given(_files.filter(bool), st.data())
def test_no_part_of_an_archive_is_an_archive(files: dict[str, bytes], data: st.DataObject) -> None:
    archive = tar(*files.items())
    content = archive.rstrip(b"\0")
    cut = data.draw(st.integers(0, len(content)))
    try:
        _unpack(archive[:cut])
    except UnsafeArchive:
        return
    raise AssertionError(cut)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["..", ".", "", "a", "\\", "~"]), max_size=6).map("/".join)
)
def test_a_safe_path_stays_inside(name: str) -> None:
    try:
        path = safe_path(name)
    except UnsafeArchive:
        return
    inside = (Path("/root/of/kit") / path).resolve()
    assert inside.is_relative_to("/root/of/kit")
    assert safe_path(path) == path


@settings(max_examples=100, deadline=None)
@given(_files.filter(bool), st.sampled_from([Compression.GZIP, Compression.ZSTD]), st.data())
def test_no_change_of_a_compressed_byte_gets_anything_but_an_error_or_files_inside(
    files: dict[str, bytes], compression: Compression, data: st.DataObject
) -> None:
    packed = bytearray(COMPRESS[compression.value](tar(*files.items())))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(KitserveError):
        _unpack(bytes(packed), compression)
