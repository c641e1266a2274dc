"""Every format that was ever published, from its manifest to its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.kits.dialects import read_kitfile
from gateway.kits.kit import Kit
from gateway.kits.manifest import parse_manifest
from gateway.kits.tree import Tree
from gateway.kits.unpack import unpack_layer
from gateway.oci.layout import LayoutSource
from gateway.oci.reference import LayoutReference
from tests.support.artifacts import FORMATS, MODEL_PATH, MODELKIT, LayoutBuilder, iris, packed, sha256

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
            unpack_layer(blob, layer, tree, is_verified=verified)
    tree.make_read_only()
    assert (tree.root / kit.model_name).is_file()
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


def test_shards_and_parts_of_every_packing_land_in_one_tree(tmp_path: Path) -> None:
    files = {
        "model-1-of-2.safetensors": (b"one", "raw"),
        "model-2-of-2.safetensors": (b"two", "raw+zstd"),
        "config.json": (b"{}", "tar"),
        "onnx/model.onnx": (b"graph", "raw+gzip"),
        "onnx/model.onnx.data": (b"weights", "raw"),
        "onnx/copy.onnx.data": (b"weights", "raw"),
        "tokenizer/tokenizer.json": (b"[]", "tar+gzip"),
        "tokenizer/vocab.txt": (b"a b", "tar+zstd"),
    }
    builder = LayoutBuilder(tmp_path / "layout")
    entries: list[dict[str, str]] = []
    layers: list[dict[str, Any]] = []
    for path, (data, packing) in files.items():
        blob, content = packed(packing, path, data)
        base = "modelpart" if layers else "model"
        layers.append(builder.blob(f"{MODELKIT}.{base}.v1.{packing}", blob, org_cncf_model_filepath=path))
        entries.append({"path": path, "digest": layers[-1]["digest"], "diffId": sha256(content)})
    config = json.dumps({"model": {**entries[0], "parts": entries[1:]}}).encode()
    manifest = {
        "schemaVersion": 2,
        "config": builder.blob(f"{MODELKIT}.config.v1+json", config),
        "layers": layers,
    }
    builder.artifact("kit:v1", manifest)
    assert _open(builder.directory, False, True) == {path: data for path, (data, _) in files.items()}
