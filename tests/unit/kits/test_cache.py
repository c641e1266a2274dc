"""The kits that a node keeps are listed, bounded and verified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.kits.cache import Freed, Verification
from gateway.kits.directories import KitDirectories
from gateway.kits.library import Kit, Library, UnpackedKit
from gateway.kits.lookup import Lookup
from gateway.oci.reference import Digest, LayoutReference, parse_reference
from tests.support.artifacts import MODELKIT, LayoutBuilder, tar

KIB = 1024


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    """Kits a:v1, b:v1 and c:v1 of about 100 KiB each."""
    builder = LayoutBuilder(tmp_path / "layout")
    for name in "abc":
        builder.kit(f"{name}:v1", tar(("model", os.urandom(100 * KIB))))
    return builder


def _damaged(data: bytes) -> bytes:
    """Return the same bytes but for the first."""
    return bytes([data[0] ^ 1]) + data[1:]


def _open(library: Library, builder: LayoutBuilder, name: str) -> UnpackedKit:
    return library.open(LayoutReference(builder.directory, name, "v1", None))


def _age(library_root: Path, kit: UnpackedKit, seconds: float) -> None:
    """Set the last use of a kit to `seconds` ago."""
    past = time.time() - seconds
    os.utime(library_root / "locks" / f"use-{kit.kit.key}", (past, past))


def _here(root: Path) -> tuple[set[str], int]:
    """Return the unpacked kits, and the number of blobs."""
    kits = {path.name for path in (root / "kits").iterdir() if path.is_dir()}
    return kits, len(list((root / "blobs/sha256").iterdir()))


def test_kits_are_listed_the_last_used_first(tmp_path: Path, builder: LayoutBuilder) -> None:
    library = Library(tmp_path / "library")
    a, b = (_open(library, builder, name) for name in "ab")
    b.lease.release()
    _age(tmp_path / "library", a, 5)
    kits = library.cache.kits()
    assert [(kit.digest, kit.in_use) for kit in kits] == [(b.kit.digest, False), (a.kit.digest, True)]
    assert kits[0].names == ("b:v1",)
    assert kits[0].unpacked == 100 * KIB
    assert kits[0].stored > 100 * KIB


def test_the_least_recently_used_goes_and_what_is_in_use_stays(
    tmp_path: Path, builder: LayoutBuilder
) -> None:
    root = tmp_path / "library"
    library = Library(root, limit=500 * KIB)
    a, b = (_open(library, builder, name) for name in "ab")
    a.lease.release()
    b.lease.release()
    _age(root, a, 10)
    c = _open(library, builder, "c")
    assert _here(root) == ({b.kit.key, c.kit.key}, 6)
    reopened = _open(library, builder, "a")
    assert not reopened.from_cache
    assert _here(root)[0] == {a.kit.key, c.kit.key}
    # Both are in use, so neither is removed: the limit is exceeded instead.
    b = _open(library, builder, "b")
    assert _here(root)[0] == {a.kit.key, b.kit.key, c.kit.key}
    index = json.loads((root / "index.json").read_text())
    assert {entry["digest"] for entry in index["manifests"]} == {str(kit.kit.digest) for kit in (a, b, c)}


def test_blobs_that_another_kit_needs_stay(tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    data = tar(("model", os.urandom(KIB)))
    builder.kit("a:v1", data)
    layer = builder.blob(f"{MODELKIT}.model.v1.tar", data)
    kitfile = {"package": {"name": "other"}, "model": {"path": "model", "digest": layer["digest"]}}
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    builder.artifact("b:v1", {"schemaVersion": 2, "config": config, "layers": [layer]})
    library = Library(tmp_path / "library")
    a, b = (_open(library, builder, name) for name in "ab")
    assert b.pulled_bytes == 0
    a.lease.release()
    freed = library.cache.prune()
    assert [kit.digest for kit in freed.kits] == [a.kit.digest]
    assert _here(tmp_path / "library") == ({b.kit.key}, 3)
    assert _open(library, builder, "b").from_cache


def test_a_kit_that_nobody_holds_is_not_in_use(tmp_path: Path, builder: LayoutBuilder) -> None:
    library = Library(tmp_path / "library")
    before = len(list(Path("/proc/self/fd").iterdir()))
    kit = _open(library, builder, "a")
    assert library.cache.kits()[0].in_use
    del kit
    assert not library.cache.kits()[0].in_use
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_process_that_is_killed_uses_its_kit_no_more(tmp_path: Path, builder: LayoutBuilder) -> None:
    root = tmp_path / "library"
    reference = f"oci-layout:{builder.directory}:a:v1"
    code = (
        "import sys, time; from pathlib import Path; from gateway.kits.library import Library;"
        "from gateway.oci.reference import parse_reference;"
        f"kit = Library(Path({str(root)!r})).open(parse_reference({reference!r}));"
        "print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as user:
        try:
            assert user.stdout is not None
            assert user.stdout.readline() == b"open\n"
            library = Library(root)
            assert library.cache.prune().kits == ()
            assert library.cache.kits()[0].in_use
        finally:
            user.kill()
    assert len(library.cache.prune().kits) == 1
    assert _here(root) == (set(), 0)


def test_what_belongs_to_no_kit_goes_with_prune(tmp_path: Path, builder: LayoutBuilder) -> None:
    root = tmp_path / "library"
    library = Library(root)
    a = _open(library, builder, "a")
    library.describe(LayoutReference(builder.directory, "b", "v1", None))
    (root / "ingest" / ("0" * 64)).write_bytes(b"half")
    (root / "kits" / f".{'1' * 64}.tmp").mkdir()
    (root / "kits" / ("2" * 64)).mkdir()
    freed = library.cache.prune()
    assert (freed.kits, freed.blobs, freed.transfers) == ((), 2, 1)
    assert _here(root) == ({a.kit.key}, 3)
    assert list((root / "ingest").iterdir()) == []


def test_prune_keeps_as_much_as_it_is_told(tmp_path: Path, builder: LayoutBuilder) -> None:
    library = Library(tmp_path / "library")
    kits = [_open(library, builder, name) for name in "abc"]
    for age, kit in enumerate(kits):
        kit.lease.release()
        _age(tmp_path / "library", kit, 10 * age)
    assert [kit.digest for kit in library.cache.prune(keep=300 * KIB).kits] == [
        kits[2].kit.digest,
        kits[1].kit.digest,
    ]
    assert library.cache.prune(keep=300 * KIB).kits == ()


def test_damage_is_found_and_had_again(tmp_path: Path, builder: LayoutBuilder) -> None:
    root = tmp_path / "library"
    library = Library(root)
    a, b = (_open(library, builder, name) for name in "ab")
    assert library.cache.verify() == Verification(blobs=6, kits=2, bad_blobs=(), bad_kits=())
    (layer,) = a.kit.needed_layers()
    blob = root / "blobs/sha256" / layer.descriptor.digest.hex
    blob.chmod(0o644)
    blob.write_bytes(_damaged(blob.read_bytes()))
    before = b.model_path.stat()
    b.model_path.chmod(0o644)
    b.model_path.write_bytes(_damaged(b.model_path.read_bytes()))
    os.utime(b.model_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    damage = library.cache.verify()
    assert damage.bad_blobs == (layer.descriptor.digest,)
    assert damage.bad_kits == (b.kit.key,)
    assert not blob.exists()
    assert _open(library, builder, "a").from_cache
    reopened = _open(library, builder, "b")
    assert not reopened.from_cache
    assert Digest.of(reopened.model_path.read_bytes()) != Digest.of(b"x")
    assert library.cache.verify().bad_kits == ()


def test_files_that_were_touched_are_read_before_they_are_served(
    tmp_path: Path, builder: LayoutBuilder
) -> None:
    library = Library(tmp_path / "library")
    kit = _open(library, builder, "a")
    whole = kit.model_path.read_bytes()
    os.utime(kit.model_path)
    assert _open(library, builder, "a").from_cache
    kit.model_path.chmod(0o644)
    kit.model_path.write_bytes(_damaged(whole))
    reopened = _open(library, builder, "a")
    assert not reopened.from_cache
    assert reopened.model_path.read_bytes() == whole


def test_a_machine_that_was_started_again_is_not_believed(tmp_path: Path, builder: LayoutBuilder) -> None:
    """What was written before the machine went down may never have reached the disk."""
    root = tmp_path / "library"
    library = Library(root)
    kit = _open(library, builder, "a")
    inventory = root / "kits" / f"{kit.kit.key}.seal.json"
    whole, before = kit.model_path.read_bytes(), kit.model_path.stat()
    kit.model_path.chmod(0o644)
    kit.model_path.write_bytes(bytes(len(whole)))
    os.utime(kit.model_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    inventory.write_text(
        inventory.read_text().replace(json.loads(inventory.read_text())["boot"], "an earlier one")
    )
    reopened = _open(library, builder, "a")
    assert not reopened.from_cache
    assert reopened.model_path.read_bytes() == whole
    inventory.write_text(
        inventory.read_text().replace(json.loads(inventory.read_text())["boot"], "an earlier one")
    )
    assert _open(library, builder, "a").from_cache
    assert "an earlier one" not in inventory.read_text()


def test_skopeo_reads_the_cache(tmp_path: Path, layout: Path) -> None:
    skopeo = shutil.which("skopeo")
    assert skopeo, "skopeo is not installed"
    library = Library(tmp_path / "library")
    for tag in ("iris-torchscript:v1", "iris-export:v1"):
        library.open(parse_reference(f"oci-layout:{layout}:samples/{tag}"))
    index = json.loads((tmp_path / "library/index.json").read_text())
    (name,) = (
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in index["manifests"]
        if "torchscript" in entry["annotations"]["org.opencontainers.image.ref.name"]
    )
    subprocess.run(
        [skopeo, "copy", f"oci:{tmp_path / 'library'}:{name}", f"oci:{tmp_path / 'copy'}:samples/copy:v1"],
        check=True,
        capture_output=True,
    )
    copied = Library(tmp_path / "other").open(
        parse_reference(f"oci-layout:{tmp_path / 'copy'}:samples/copy:v1")
    )
    assert copied.model_path.name == "iris.pt"


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(
    tmp_path: Path, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path / "library")
    a = _open(library, builder, "a")
    a.lease.release()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=150 * KIB))
    with pytest.raises(StoreError, match=r"is full: \d+ bytes are needed and 153600 are free.*cache prune"):
        _open(library, builder, "b")
    # Room was sought among what nobody uses before giving up.
    assert _here(tmp_path / "library")[0] == set()
    monkeypatch.undo()
    assert not _open(library, builder, "b").from_cache


def test_a_prune_leaves_a_kit_alone_from_its_first_document_on(
    tmp_path: Path, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path / "library")
    describe = Lookup.kit

    def described(*arguments: Any) -> Kit:
        kit = describe(*arguments)
        assert library.cache.prune() == Freed()
        return kit

    monkeypatch.setattr(Lookup, "kit", described)
    assert _open(library, builder, "a").kit.digest == library.cache.kits()[0].digest
    assert library.cache.verify() == Verification(blobs=3, kits=1, bad_blobs=(), bad_kits=())


def test_a_kit_whose_inventory_is_damaged_is_pruned_once_it_is_not_in_use(
    tmp_path: Path, builder: LayoutBuilder
) -> None:
    root = tmp_path / "library"
    library = Library(root)
    a = _open(library, builder, "a")
    inventory = root / "kits" / f"{a.kit.key}.seal.json"
    inventory.write_text("{")
    library.cache.prune()
    assert _here(root)[0] == {a.kit.key}
    a.lease.release()
    library.cache.prune()
    assert list((root / "kits").iterdir()) == []


def test_what_is_made_again_while_all_is_read_through_stays(
    tmp_path: Path, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path / "library")
    a = _open(library, builder, "a")
    a.model_path.parent.chmod(0o755)
    a.model_path.unlink()
    remove = KitDirectories.remove
    other = threading.Thread(target=_open, args=(library, builder, "a"))

    def open_then_remove(trees: KitDirectories, key: str) -> None:
        monkeypatch.undo()
        other.start()
        other.join(0.5)
        remove(trees, key)

    monkeypatch.setattr(KitDirectories, "remove", open_then_remove)
    assert library.cache.verify().bad_kits == (a.kit.key,)
    other.join(10)
    assert a.model_path.exists()


def test_a_kit_that_can_never_fit_costs_no_other(tmp_path: Path, builder: LayoutBuilder) -> None:
    library = Library(tmp_path / "library")
    a = _open(library, builder, "a")
    a.lease.release()
    with pytest.raises(StoreError, match="is full"):
        library.cache.make_room(1 << 60)
    assert _here(tmp_path / "library")[0] == {a.kit.key}


def test_the_index_names_no_kit_that_a_killed_process_removed(tmp_path: Path, builder: LayoutBuilder) -> None:
    root = tmp_path / "library"
    library = Library(root)
    _open(library, builder, "a").lease.release()
    for path in root.glob("kits/*.seal.json"):
        path.unlink()
    library.cache.prune()
    assert json.loads((root / "index.json").read_text())["manifests"] == []
