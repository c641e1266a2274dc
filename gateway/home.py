"""The home, the directory for kits, state and logs: its user's alone.

Who can open a file of it may lock it (flock(2)), and so hold up a deployment; who can write, replace a kit.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gateway.errors import StoreError

_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# One of these tells that a directory is a home. `/` and `/var/lib` are not narrowed, whoever names them.
_SIGNS = ("serve.lock", "state.db", "cache/oci-layout")
# On the top of a disk that was just made.
_NOTHING = ("lost+found",)


def keep_private() -> None:
    """Have this process, and all that it starts, make files and sockets for their user alone (umask(2))."""
    os.umask(_FOR_OTHERS)


def make_private(home: Path) -> str:
    """Make the home, or take it from other users where they may enter it.

    Returns:
        What to tell of it; "" where nothing was changed.

    Raises:
        StoreError: when it cannot be made, is another user's, or is more than a home.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unusable(home, error) from error
    try:
        return _narrow(home, directory)
    except OSError as error:
        raise unusable(home, error) from error
    finally:
        os.close(directory)


def unusable(home: Path, error: OSError) -> StoreError:
    """Return the error for a home that the system refuses."""
    return StoreError(f"{home} cannot be used: {error}; name another directory with --home")


def _narrow(home: Path, directory: int) -> str:
    status = os.fstat(directory)
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"{home} belongs to another user ({status.st_uid}), who could change what is served from it: "
            f"give it to this one (chown {os.geteuid()}), or name a directory in it with --home; it is made"
        )
    if not status.st_mode & _FOR_OTHERS:
        return ""
    if not _is_home(home, os.listdir(directory), is_shared=bool(status.st_mode & stat.S_ISVTX)):
        raise StoreError(
            f"{home} can be entered by other users, and holds more than a home of Kitserve: name a directory "
            "of its own with --home, such as one in it, which is made"
        )
    os.fchmod(directory, stat.S_IRWXU)
    return (
        f"{home} could be entered by other users of this machine (mode {stat.S_IMODE(status.st_mode):o}): "
        "it is its user's alone now (700)"
    )


def _is_home(home: Path, names: list[str], is_shared: bool) -> bool:
    """Tell whether a directory is a home, or nothing yet but files that begin with a dot."""
    if not is_shared and any((home / sign).exists() for sign in _SIGNS):
        return True
    return all(name.startswith(".") or name in _NOTHING for name in names)
