"""Every format that was ever published, from its manifest to its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.kits.kit import Kit
from gateway.kits.kitfile import read_kitfile
from gateway.kits.manifest import parse_manifest
from gateway.kits.tree import Tree
from gateway.kits.unpack import unpack_layer
from gateway.oci.layout import LayoutSource
from gateway.oci.reference import LayoutReference
from tests.artifacts import FORMATS, MODEL_PATH, LayoutBuilder, iris

LABELS = {"model/labels.txt": b"setosa\nversicolor\nvirginica\n"}


def _open(directory: Path, with_code: bool, verified: bool) -> dict[str, bytes]:
    source = LayoutSource(LayoutReference(directory, "kit", "v1", None))
    descriptor = source.resolve()
    manifest = parse_manifest(source.manifest(descriptor), "r", descriptor.media_type)
    config = (directory / "blobs" / "sha256" / manifest.config.digest.hex).read_bytes()
    kit = Kit.of(source.reference, descriptor.digest, manifest, read_kitfile(manifest, config, "r"))
    tree = Tree(directory / f"tree{with_code}{verified}", "r")
    for layer in kit.needed_layers(with_code):
        with (directory / "blobs" / "sha256" / layer.descriptor.digest.hex).open("rb") as blob:
            unpack_layer(blob, layer, tree, verified=verified)
    tree.seal()
    assert kit.model_name in (MODEL_PATH, "")
    return {file.path: (tree.root / file.path).read_bytes() for file in tree.files}


def _files(name: str) -> dict[str, bytes]:
    return {MODEL_PATH: iris()} | ({} if name.startswith("modelkit") and " part " not in name else LABELS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_unpacked(tmp_path: Path, name: str) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    FORMATS[name](builder, "kit:v1")
    assert _open(builder.directory, False, True) == _files(name)
    code = {"src/app.py": b"print('iris')\n"} if " code " in name else {}
    assert _open(builder.directory, True, False) == {**_files(name), **code}


def test_formats_take_any_model(tmp_path: Path) -> None:
    for number, (name, store) in enumerate(FORMATS.items()):
        builder = LayoutBuilder(tmp_path / str(number))
        store(builder, "kit:v1", model=name.encode())
        assert _open(builder.directory, False, True)[MODEL_PATH] == name.encode()


def test_there_is_every_format() -> None:
    assert len(FORMATS) == 6 * 6 + 2 + 3 * 4
