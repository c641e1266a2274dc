"""Where a running Kitserve is asked: at the socket in its home, or at an address that a person names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from gateway.control.admin.socket_file import SOCKET_FILE

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_UNIX = "unix:"


def socket_path(address: str) -> Path | None:
    """Return the path of a socket, written `/PATH`, `./PATH` or `unix:PATH`; None for other addresses."""
    is_socket = address.startswith((_UNIX, "/", "./", "../", "~"))
    path = address.removeprefix(_UNIX)
    return Path(path).expanduser().absolute() if is_socket and path and path.isprintable() else None


def admin_url(address: str) -> str:
    """Return the URL of the admin API at an address: `HOST:PORT`, or a URL itself.

    Raises:
        ValueError: when it is neither; the message says what to write.
    """
    is_url = "://" in address
    try:
        parts = urlsplit(address if is_url else f"http://{address}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    is_usable = (
        _VISIBLE_ASCII.fullmatch(address) is not None
        and parts.scheme in ("http", "https")
        and _HOST.fullmatch(parts.hostname or "") is not None
        and (is_url or port is not None)
        and port != 0
        and not (parts.username or parts.password or parts.query or parts.fragment)
    )
    if not is_usable:
        raise ValueError(
            f"{address!r} is not an admin address; write HOST:PORT, such as 127.0.0.1:8081, "
            "or a URL, such as http://127.0.0.1:8081, or the path of a socket, such as /PATH/admin.sock"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def default_home() -> Path:
    """Return the home where none is named."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("KITSERVE_HOME") or Path(data) / "kitserve")


def home_socket() -> Path:
    """Return where the socket is of the Kitserve that runs from the default home."""
    return default_home().absolute() / SOCKET_FILE
