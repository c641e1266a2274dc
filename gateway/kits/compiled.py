"""What engines compile for the GPUs of this node: kept by kit and GPU, and removed with the kit.

It can be made again, so it does not count against the cache's limit; it has a bound of its own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from gateway.gpus.devices import Gpus
from gateway.kits.directories import COMPILED, remove_tree

MAX_BYTES = 8 << 30
"""How much may be kept of all kits together, of those that were not used for a day."""
_UNUSED_SECONDS = 24 * 3600
# What a compiled engine depends on besides the kit and the GPU.
_PACKAGES = ("onnxruntime-gpu", "tensorrt")


def compiled_directory(cache: Path, key: str) -> Path:
    """Return the directory for what is compiled of the kit `key`, which is made where it is absent.

    What was not used for long is removed where all of it is too large.
    """
    root = cache / COMPILED
    directory = root / key
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.utime(directory)
    # Other workers compile, and remove, at the same time.
    with suppress(FileNotFoundError):
        _prune(root)
    return directory


def directory_for(directory: Path, kind: str) -> Path:
    """Return the directory of a GPU, by `gpu_kind`, in that of a kit."""
    own = directory / kind
    own.mkdir(mode=0o700, exist_ok=True)
    return own


def gpu_kind(gpus: Gpus, visible: str) -> str:
    """Return a name for what an engine is compiled for: the GPU, its driver, the engines' releases.

    `visible` is CUDA_VISIBLE_DEVICES of the worker: the first GPU of it is meant.
    """
    device = gpus.device(visible.partition(",")[0] or "0")
    releases = [f"{name} {release}" for name in _PACKAGES if (release := _release(name))]
    words = (device.name if device is not None else "", gpus.driver, *releases)
    return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(words)).strip("-") or "unknown"


def _prune(root: Path) -> None:
    """Remove directories that were not used for a day, the least recently used first, down to the bound."""
    kept = sorted(_directories(root), key=lambda directory: directory.stat().st_mtime)
    total = sum(map(_size, kept))
    for directory in kept:
        if total <= MAX_BYTES:
            return
        if time.time() - directory.stat().st_mtime > _UNUSED_SECONDS:
            total -= _size(directory)
            remove_tree(directory)


def _directories(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir() and not path.is_symlink())


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def _release(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
