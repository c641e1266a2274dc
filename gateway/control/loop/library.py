"""The library of kits, as the config in force says."""

from __future__ import annotations

from pathlib import Path

from gateway.control.state.desired import Desired
from gateway.kits.library import Library, cache_directory


def open_library(home: Path, desired: Desired) -> Library:
    """Return this node's library, which reaches kits, and limits its disk, as the config says."""
    return Library(cache_directory(home), desired.sources, desired.cache_limit)
