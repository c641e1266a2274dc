"""Kits that have a layer in common share its files on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.kits.library import Library, UnpackedKit
from gateway.kits.tree import Tree, UnpackedFile
from gateway.kits.unpack import UnpackedLayer, link_layer
from gateway.oci.reference import LayoutReference
from tests.support.artifacts import MODELKIT, MODELPACK, LayoutBuilder, sha256, tar
from tests.support.checks import check_store, tree

SHARED = os.urandom(50_000)


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    """Kits a:v1 and a:v2, which share one layer, with an empty directory in it, and differ in another."""
    builder = LayoutBuilder(tmp_path / "layout")
    for tag in ("v1", "v2"):
        layers = [
            builder.blob(f"{MODELKIT}.{kind}.v1.tar", data)
            for kind, data in (
                ("model", tar(("model", None), ("model/empty", None), ("model/w.bin", SHARED))),
                ("modelpart", tar((f"{tag}.txt", tag.encode()))),
            )
        ]
        entries = [
            {"path": path, "digest": layer["digest"]}
            for path, layer in zip(("model", f"{tag}.txt"), layers, strict=True)
        ]
        kitfile = {"model": {**entries[0], "parts": entries[1:]}}
        config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        builder.artifact(f"a:{tag}", {"schemaVersion": 2, "config": config, "layers": layers})
    return builder


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


def _open(library: Library, builder: LayoutBuilder, name: str) -> UnpackedKit:
    repository, _, tag = name.partition(":")
    return library.open(LayoutReference(builder.directory, repository, tag, None))


def test_a_layer_is_on_disk_once_for_all_its_kits(
    library: Library, builder: LayoutBuilder, tmp_path: Path
) -> None:
    v1, v2 = (_open(library, builder, f"a:{tag}") for tag in ("v1", "v2"))
    assert tree(v2.path) == {"model/w.bin": SHARED, "v2.txt": b"v2"}
    assert (v2.path / "model/empty").is_dir()
    assert (v1.path / "model/w.bin").samefile(v2.path / "model/w.bin")
    check_store(tmp_path / "library")
    v1.lease.release()
    freed = library.cache.prune()
    assert [kit.digest for kit in freed.kits] == [v1.kit.digest]
    # The shared layer stays, stored and unpacked.
    assert freed.size < len(SHARED)
    assert tree(v2.path) == {"model/w.bin": SHARED, "v2.txt": b"v2"}
    assert _open(library, builder, "a:v2").from_cache
    check_store(tmp_path / "library")


def test_a_damaged_kit_gives_nothing_away(library: Library, builder: LayoutBuilder) -> None:
    v1 = _open(library, builder, "a:v1")
    damaged = v1.path / "model/w.bin"
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * len(SHARED))
    v2 = _open(library, builder, "a:v2")
    assert (v2.path / "model/w.bin").read_bytes() == SHARED


def test_a_raw_layer_is_unpacked_without_a_copy(
    library: Library, builder: LayoutBuilder, tmp_path: Path
) -> None:
    layer = builder.blob(f"{MODELPACK}.weight.v1.raw", SHARED, org_cncf_model_filepath="w.bin")
    config = builder.blob(f"{MODELPACK}.config.v1+json", b"{}")
    builder.artifact("raw:v1", {"schemaVersion": 2, "config": config, "layers": [layer]})
    opened = _open(library, builder, "raw:v1")
    blob = tmp_path / "library/blobs/sha256" / layer["digest"].removeprefix("sha256:")
    assert opened.model_path.samefile(blob)
    assert opened.model_path.stat().st_mode & 0o777 == 0o444
    opened.lease.release()
    assert library.cache.prune().size < 2 * len(SHARED)
    assert not blob.exists()


def test_where_no_second_name_can_be_had_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.bin").write_bytes(SHARED)
    file = UnpackedFile("w.bin", len(SHARED), sha256(SHARED).removeprefix("sha256:"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    target = Tree(tmp_path / "tree", "r.io/a:v1")
    assert link_layer(tmp_path, UnpackedLayer((file,), ("empty",), ""), len(SHARED), target).files == (file,)
    target.make_read_only()
    assert tree(tmp_path / "tree") == {"w.bin": SHARED}
    assert not (tmp_path / "tree/w.bin").samefile(tmp_path / "w.bin")
