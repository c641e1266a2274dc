from __future__ import annotations

import errno
import gzip
import json
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from gateway.errors import (
    DigestMismatch,
    InvalidKitfile,
    KitError,
    NotAKit,
    NotFound,
    StoreError,
    UnsafeArchive,
)
from gateway.kits.directories import KitDirectories
from gateway.kits.library import Library, Role
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import LayoutReference, parse_reference
from tests.support.artifacts import MODELKIT, MODELPACK, LayoutBuilder, tar


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "layout")


def _named(builder: LayoutBuilder, name: str) -> LayoutReference:
    repository, _, tag = name.partition(":")
    return LayoutReference(builder.directory, repository, tag, None)


class _RecordedProgress:
    def __init__(self) -> None:
        self.pulls: list[tuple[int, int]] = []
        self.unpacked = 0

    def pulling(self, done: int, total: int) -> None:
        self.pulls.append((done, total))

    def unpacking(self) -> None:
        self.unpacked += 1


def test_a_kit_of_kit_is_described_and_opened(library: Library, layout: Path) -> None:
    reference = parse_reference(f"oci-layout:{layout}:samples/iris:v1")
    kit = library.describe(reference)
    assert kit.reference == reference.pinned(kit.digest)
    assert kit.reference.label == "v1"
    assert [layer.role for layer in kit.layers] == [Role.MODEL, Role.DATASET, Role.DOCS]
    assert kit.size == 2560

    progress = _RecordedProgress()
    opened = library.open(reference, progress)
    assert not opened.from_cache
    assert opened.pulled_bytes == 2560
    assert opened.model_path == opened.path / "model" / "iris.onnx"
    assert opened.model_path.stat().st_size == 326
    assert sorted(path.name for path in opened.path.rglob("*")) == ["iris.onnx", "model"]
    assert progress.pulls[0] == (0, 2560)
    assert progress.pulls[-1] == (2560, 2560)
    assert progress.unpacked == 1


def test_gzip_and_plain_kits_hold_the_same(library: Library, layout: Path) -> None:
    plain, packed = (
        library.open(parse_reference(f"oci-layout:{layout}:samples/iris:{tag}")) for tag in ("v1", "v1-gzip")
    )
    assert plain.path != packed.path
    assert plain.model_path.read_bytes() == packed.model_path.read_bytes()


def test_an_opened_kit_needs_its_source_no_more(library: Library, layout: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(layout, tmp_path / "copy")
    opened = library.open(parse_reference(f"oci-layout:{copy}:samples/iris:v1"))
    shutil.rmtree(copy)
    reopened = library.open(opened.kit.reference)
    assert reopened.from_cache
    assert (reopened.path, reopened.pulled_bytes, reopened.unpack_seconds) == (opened.path, 0, 0.0)
    with pytest.raises(NotFound):
        library.open(parse_reference(f"oci-layout:{copy}:samples/iris:v1"))


@pytest.mark.parametrize("damage", ["file", "shortened", "inventory", "half an inventory", "all"])
def test_a_damaged_kit_is_unpacked_again(library: Library, layout: Path, damage: str) -> None:
    opened = library.open(parse_reference(f"oci-layout:{layout}:samples/iris:v1"))
    inventory = opened.path.with_name(f"{opened.path.name}.seal.json")
    opened.model_path.parent.chmod(0o755)
    opened.model_path.chmod(0o644)
    if damage == "file":
        opened.model_path.unlink()
    elif damage == "shortened":
        opened.model_path.write_bytes(b"x")
    elif damage == "inventory":
        inventory.unlink()
    elif damage == "half an inventory":
        inventory.write_text(inventory.read_text()[:30])
    else:
        shutil.rmtree(opened.path)
    reopened = library.open(opened.kit.reference)
    assert not reopened.from_cache
    assert reopened.pulled_bytes == 0
    assert reopened.model_path.stat().st_size == 326
    assert library.open(opened.kit.reference).from_cache


@pytest.mark.parametrize("damage", [b"x", b""])
def test_a_damaged_blob_is_fetched_again(
    library: Library, layout: Path, tmp_path: Path, damage: bytes
) -> None:
    opened = library.open(parse_reference(f"oci-layout:{layout}:samples/iris:v1"))
    (layer,) = opened.kit.needed_layers()
    blob = tmp_path / "library/blobs/sha256" / layer.descriptor.digest.hex
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(damage + data[1:])
    opened.path.with_name(f"{opened.path.name}.seal.json").unlink()
    reopened = library.open(opened.kit.reference)
    assert reopened.pulled_bytes == len(data)
    assert blob.read_bytes() == data


def test_a_damaged_manifest_is_fetched_again(library: Library, layout: Path, tmp_path: Path) -> None:
    opened = library.open(parse_reference(f"oci-layout:{layout}:samples/iris:v1"))
    stored = tmp_path / "library/blobs/sha256" / opened.kit.digest.hex
    stored.chmod(0o644)
    stored.write_bytes(b"{}")
    assert library.describe(opened.kit.reference) == opened.kit


def test_a_moved_tag_is_another_kit(library: Library, builder: LayoutBuilder) -> None:
    builder.kit("a:v1", tar(("model", b"1")))
    first = library.open(_named(builder, "a:v1"))
    (builder.directory / "index.json").unlink()
    moved = LayoutBuilder(builder.directory.with_name("moved"))
    shutil.copytree(builder.directory, moved.directory, dirs_exist_ok=True)
    moved.kit("a:v1", tar(("model", b"2")))
    second = library.open(_named(moved, "a:v1"))
    assert (first.model_path.read_bytes(), second.model_path.read_bytes()) == (b"1", b"2")


def test_a_modelpack_is_opened(library: Library, builder: LayoutBuilder) -> None:
    weights, rest = b"w" * 1000, tar(("tokenizer", None), ("tokenizer/vocab.txt", b"a b"))
    packed = gzip.compress(tar(("tokenizer/merges.txt", b"a")))
    layers = [
        builder.blob(f"{MODELPACK}.weight.v1.raw", weights, org_cncf_model_filepath="weights/a.safetensors"),
        builder.blob(f"{MODELPACK}.weight.v1.raw", weights, org_cncf_model_filepath="weights/b.safetensors"),
        builder.blob(f"{MODELPACK}.weight.config.v1.tar", rest, org_cncf_model_filepath="tokenizer"),
        builder.blob(f"{MODELPACK}.weight.config.v1.tar+gzip", packed),
        builder.blob(f"{MODELPACK}.doc.v1.raw", b"# hi", org_cncf_model_filepath="README.md"),
    ]
    config = builder.blob(
        f"{MODELPACK}.config.v1+json", json.dumps({"descriptor": {"name": "tiny"}}).encode()
    )
    manifest = {
        "schemaVersion": 2,
        "artifactType": f"{MODELPACK}.manifest.v1+json",
        "config": config,
        "layers": layers,
    }
    builder.artifact("tiny:v1", manifest)
    opened = library.open(_named(builder, "tiny:v1"))
    assert opened.kit.kitfile.package.name == "tiny"
    assert opened.model_path == opened.path
    assert {str(path.relative_to(opened.path)) for path in opened.path.rglob("*.*")} == {
        "weights/a.safetensors",
        "weights/b.safetensors",
        "tokenizer/vocab.txt",
        "tokenizer/merges.txt",
    }


def test_an_old_kit_is_unpacked_where_its_kitfile_says(library: Library, builder: LayoutBuilder) -> None:
    layer = builder.blob(f"{MODELKIT}.model.v1.tar+gzip", gzip.compress(tar(("m.onnx", b"x"))))
    config = builder.blob(f"{MODELKIT}.config.v1+json", b'{"model":{"path":"./models/m.onnx"}}')
    builder.artifact("old:v1", {"schemaVersion": 2, "config": config, "layers": [layer]})
    opened = library.open(_named(builder, "old:v1"))
    assert opened.model_path == opened.path / "models" / "m.onnx"
    assert opened.model_path.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("data", "packing", "path", "error", "why"),
    [
        (tar(("../x", b"x")), "tar", "model", UnsafeArchive, r"'\.\.' part"),
        (tar(("other", b"x")), "tar", "model", KitError, "no layer has that"),
        (b"x", "raw", "../x", InvalidKitfile, r"'\.\.' part"),
        (b"x", "tar+zstd", "model", UnsafeArchive, "zstd stream is damaged|zstd stream ends early"),
    ],
)
def test_what_cannot_be_opened_leaves_nothing(
    library: Library,
    builder: LayoutBuilder,
    tmp_path: Path,
    data: bytes,
    packing: str,
    path: str,
    error: type[Exception],
    why: str,
) -> None:
    builder.kit("a:v1", data, packing, path)
    with pytest.raises(error, match=rf"oci-layout:.*:a:v1.*{why}"):
        library.open(_named(builder, "a:v1"))
    assert list((tmp_path / "library/kits").iterdir()) == []
    assert list((tmp_path / "library/ingest").iterdir()) == []


def test_a_kit_whose_content_is_not_what_it_says(library: Library, builder: LayoutBuilder) -> None:
    layer = builder.blob(f"{MODELKIT}.model.v1.tar+gzip", gzip.compress(tar(("model", b"x"))))
    kitfile = {"model": {"path": "model", "digest": layer["digest"], "diffId": f"sha256:{'0' * 64}"}}
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    builder.artifact("lie:v1", {"schemaVersion": 2, "config": config, "layers": [layer]})
    with pytest.raises(DigestMismatch, match="Kitfile says"):
        library.open(_named(builder, "lie:v1"))


def test_other_artifacts_are_refused(library: Library, builder: LayoutBuilder) -> None:
    config = builder.blob("application/vnd.oci.image.config.v1+json", b"{}")
    builder.artifact("image:v1", {"schemaVersion": 2, "config": config, "layers": []})
    with pytest.raises(NotAKit, match="this is a container image"):
        library.describe(_named(builder, "image:v1"))
    empty = builder.blob(f"{MODELKIT}.config.v1+json", b"{}")
    builder.artifact("empty:v1", {"schemaVersion": 2, "config": empty, "layers": None})
    with pytest.raises(KitError, match="has no model"):
        library.open(_named(builder, "empty:v1"))


def test_a_kit_that_is_here_needs_no_login(library: Library, layout: Path, tmp_path: Path) -> None:
    opened = library.open(parse_reference(f"oci-layout:{layout}:samples/iris:v1"))
    lost = RegistryOptions(username="me", password_file=tmp_path / "gone")
    offline = Library(tmp_path / "library", SourceOptions({"r.io": lost}))
    assert offline.open(parse_reference(f"r.io/samples/iris:v1@{opened.kit.digest}")).from_cache


@pytest.mark.parametrize("shared", [False, True])
def test_a_disk_that_fills_up_while_unpacking_keeps_what_other_kits_need(
    library: Library, builder: LayoutBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    builder.kit("a:v1", gzip.compress(tar(("model", b"1"))), "tar+gzip")
    (layer,) = library.describe(_named(builder, "a:v1")).needed_layers()

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gateway.kits.tree._write", full)
    if shared:
        # Another process has unpacked a kit with the same layer meanwhile.
        monkeypatch.setattr(KitDirectories, "needed_blobs", lambda _: {layer.descriptor.digest})
    with pytest.raises(StoreError, match="is full"):
        library.open(_named(builder, "a:v1"))
    assert (tmp_path / "library/blobs/sha256" / layer.descriptor.digest.hex).exists() == shared
    assert list((tmp_path / "library/kits").iterdir()) == []
