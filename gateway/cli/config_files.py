"""Config files as commands read them: as they are, or with the digests of their lock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.cli.options import err
from gateway.config.config import GatewayConfig, load_config
from gateway.config.lock import load_locked, lock_path


def read_file(path: Path, is_locked: bool, runtimes: Sequence[str] | None = None) -> GatewayConfig:
    """Read a config file that is put in force, and say so where its lock is passed over.

    Args:
        path: the file.
        is_locked: whether its kits are as its lock has them.
        runtimes: as for `load_config`.

    Raises:
        ConfigError: with one line for each fault in the file, or its lock.
    """
    if is_locked:
        return load_locked(path, needs_models=True, runtimes=runtimes)
    config = load_config(path, needs_models=True, runtimes=runtimes)
    location = lock_path(path)
    if location.exists():
        err.print(f"{location} is not used without --locked", style="dim", markup=False)
    return config
