"""What holds for every kit directory and every node's store, whatever happened before."""

from __future__ import annotations

import hashlib
from pathlib import Path


def tree(root: Path) -> dict[str, bytes]:
    """Return every file below a directory, by its path from there."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def check_store(root: Path) -> None:
    """Check that every blob is read-only and as its name says, every kit has an inventory, nothing half-made.

    Blobs that have arrived in part may be kept, under the digits of their digests, to be continued.
    """
    for blob in (root / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        assert blob.stat().st_mode & 0o222 == 0
    for partial in (root / "ingest").iterdir():
        assert len(bytes.fromhex(partial.name)) == 32
        assert not (root / "blobs" / "sha256" / partial.name).exists()
    names = {path.name for path in (root / "kits").iterdir()}
    kits = {name for name in names if (root / "kits" / name).is_dir()}
    assert names == kits | {f"{name}.seal.json" for name in kits}
    for directory in (root, root / "blobs", root / "blobs" / "sha256", root / "kits"):
        assert not [path for path in directory.iterdir() if path.name.startswith(".")]


def check_clean(root: Path) -> None:
    """Check all that `check_store` does, and that nothing is kept of a blob that is not whole."""
    check_store(root)
    assert not list((root / "ingest").iterdir())
