"""The library of kits on the gateway's node, opened as the config in force says."""

from __future__ import annotations

from pathlib import Path

from gateway.control.state.desired import Desired
from gateway.kits.library import Library, cache_directory


def open_library(home: Path, desired: Desired) -> Library:
    """Return the library, with the config's ways to reach registries and its limit of disk space."""
    return Library(cache_directory(home), desired.sources, desired.cache_limit)
