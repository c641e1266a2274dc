"""The library of kits, as the config in force says."""

from __future__ import annotations

from pathlib import Path

from gateway.config.config import GatewayConfig
from gateway.kits.library import Library, cache_directory


def open_library(home: Path, config: GatewayConfig) -> Library:
    """Return this node's library, which reaches kits, and limits its disk, as the config says."""
    return Library(cache_directory(home), config.source_options(), config.cache.max_size)
