"""The secret by which it is chosen which version a sticky caller gets."""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path

from gateway.errors import StoreError
from gateway.files import create_private

_FILE = "sticky.key"


def sticky_key(home: Path) -> str:
    """Return the secret of this home, in hexadecimal digits; it lasts, so that callers stay where they are.

    Without it, nobody can compute for which user names, say, a call goes to the canary.

    Raises:
        StoreError: when it can be neither read nor made.
    """
    path = home / _FILE
    try:
        with suppress(FileExistsError):
            create_private(path, secrets.token_hex(32))
        key = path.read_text().strip()
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror}") from error
    if not re.fullmatch("[0-9a-f]{64}", key):
        raise StoreError(f"{path} is damaged; remove it, and sticky callers are divided anew")
    return key
