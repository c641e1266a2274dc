"""The token of the admin API: made at the first start, in a file that only its user may read."""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
from hashlib import sha256
from pathlib import Path

from gateway.errors import StoreError
from gateway.files import read_regular, replace_private

TOKEN_FILE = "admin.token"  # noqa: S105 - a name
"""The name of the file in a home."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")
_BYTES = 32
_FILE_BYTES = 1024


def read_token(home: Path) -> str:
    """Return the token of a home.

    Raises:
        StoreError: when there is none, or others than its user may read it.
    """
    return token_in(home / TOKEN_FILE, "remove it and start again")


def token_in(path: Path, advice: str) -> str:
    """Return the token in a file that only its user, or root, may read; `advice` is for where it is not so.

    Raises:
        StoreError: when there is none, or others may read it.
    """
    try:
        text = read_regular(path, _FILE_BYTES).decode().strip()
        status = path.stat()
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; `kitserve serve` makes it at its first start") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
        raise StoreError(f"{path} may be read by others, or is another user's; {advice}")
    if not _TOKEN.fullmatch(text):
        raise StoreError(f"{path} holds no token; {advice}")
    return text


def make_token(home: Path) -> str:
    """Make a new token in place of the one that a home has; returns it.

    Raises:
        StoreError: when the file cannot be written.
    """
    token = secrets.token_urlsafe(_BYTES)
    path = home / TOKEN_FILE
    try:
        replace_private(path, f"{token}\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error
    return token


def keep_token(home: Path) -> None:
    """Make a token for a home that has none, or one that cannot be used.

    Raises:
        StoreError: when the file cannot be written.
    """
    try:
        read_token(home)
    except StoreError:
        make_token(home)


class TokenCheck:
    """Tells whether a text is the token of a home. A new token holds at once."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __call__(self, text: str) -> bool:
        """Compare in a time that tells nothing of the token."""
        with contextlib.suppress(StoreError):
            token = read_token(self._home)
            return hmac.compare_digest(sha256(text.encode()).digest(), sha256(token.encode()).digest())
        return False
