"""`kitserve lock`: the digests of all kits of a config, written beside it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from gateway.cli.options import FAILED, ConfigFile, out
from gateway.config.config import GatewayConfig, read_config
from gateway.config.lock import Lock, LockedKit, lock_path, lock_text, read_lock, references
from gateway.errors import StoreError
from gateway.kits.kit import Kit
from gateway.kits.library import Library
from gateway.oci.files import replace_file
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import LayoutReference, Reference
from gateway.wording import counted

_THREADS = 8


def lock(
    file: ConfigFile,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Take what all tags mean now, not only those of new kits.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing; end with 1 if the lock does not fit FILE. No registry is asked."
        ),
    ] = False,
) -> None:
    """Write the digests of FILE's kits into a lock beside it.

    What is locked already stays as it is, unless --upgrade is given. Kits that are no longer in FILE are
    left out. The lock of kitserve.yaml is kitserve.lock.
    """
    config = read_config(file, needs_models=True)
    path = lock_path(file)
    if check:
        if not path.exists():
            out.print(f"there is no {path}; run `kitserve lock {file}`", markup=False)
            raise typer.Exit(FAILED)
        if differences := read_lock(path, file).differences(config):
            for line in differences:
                out.print(line, markup=False)
            out.print(f"{path} does not fit {file}; run `kitserve lock {file}`", markup=False)
            raise typer.Exit(FAILED)
        out.print(f"{path} fits {file}", markup=False)
        return
    before = read_lock(path, file) if path.exists() else Lock()
    after = _locked(config, Lock() if upgrade else before)
    for line in _changes(before, after):
        out.print(line, markup=False)
    text = lock_text(after, file)
    if path.exists() and path.read_text() == text:
        out.print(f"{path} is up to date: {counted(len(after.kits), 'kit')}", markup=False)
        return
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    out.print(f"{path} is written: {counted(len(after.kits), 'kit')}", markup=False)


def _locked(config: GatewayConfig, kept: Lock) -> Lock:
    """Return the lock of a config: what is in `kept` as it is there, the rest as it is found now."""
    # Imported here, as it takes a while, and a check needs none of it.
    from gateway.control.loop.resolver import find_kit
    from gateway.control.state.desired import desired_from

    rooted = config.rooted(Path.cwd())
    absolute = dict(zip(references(config), references(rooted), strict=True))
    fitting = kept.fitting(config)
    missing = [reference for reference in absolute if reference not in fitting]
    desired = desired_from(rooted)
    # A directory of its own: what this machine remembers of parents is of before.
    with TemporaryDirectory(prefix="kitserve-lock-") as directory:
        library = Library(Path(directory), desired.sources)
        with ThreadPoolExecutor(_THREADS) as pool:
            kits = list(pool.map(lambda kit: find_kit(library, absolute[kit], desired), missing))
    resolved = {reference: _entry(reference, kit) for reference, kit in zip(missing, kits, strict=True)}
    return Lock({reference: fitting.get(reference) or resolved[reference] for reference in absolute})


def _entry(reference: Reference, kit: Kit) -> LockedKit:
    """Return what a lock has of a kit; parents in the same layout have its path as the config has it."""
    return LockedKit(
        kit.digest,
        tuple(PinnedReference(_as_written(parent.reference, reference, kit)) for parent in kit.parents),
        None if reference.digest in (None, kit.digest) else reference.digest,
    )


def _as_written(parent: Reference, reference: Reference, kit: Kit) -> Reference:
    own = kit.reference
    if isinstance(parent, LayoutReference) and isinstance(reference, LayoutReference):
        is_beside = isinstance(own, LayoutReference) and own.path == parent.path
        return replace(parent, path=reference.path) if is_beside else parent
    return parent


def _changes(before: Lock, after: Lock) -> Sequence[str]:
    """Return a line for each kit that a new lock has, lacks, or has otherwise."""
    return [
        *(f"{kit}: added, {_shown(entry)}" for kit, entry in after.kits.items() if kit not in before.kits),
        *(
            f"{kit}: {_shown(before.kits[kit])} -> {_shown(entry)}"
            for kit, entry in after.kits.items()
            if kit in before.kits and before.kits[kit] != entry
        ),
        *(f"{kit}: removed" for kit in before.kits if kit not in after.kits),
    ]


def _shown(kit: LockedKit) -> str:
    parents = ", ".join(f"{parent.label}@{parent.short}" for parent in kit.parents)
    return kit.digest.short + (f" with parents {parents}" if parents else "")
