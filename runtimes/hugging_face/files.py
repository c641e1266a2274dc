"""The small files of a directory of Hugging Face's, read within bounds: JSON and text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from runtimes.errors import LoadError

_MAX_BYTES = 4 * 1024 * 1024


def read_text(path: Path) -> str:
    """Return the text of a file, "" where there is no such file; what is not UTF-8 in it becomes U+FFFD.

    Raises LoadError.
    """
    data = _read(path, _MAX_BYTES)
    return "" if data is None else data.decode(errors="replace")


def read_json(path: Path, max_bytes: int = _MAX_BYTES) -> Any:
    """Return the value in a JSON file, None where there is no such file. Raises LoadError."""
    data = _read(path, max_bytes)
    if data is None:
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise LoadError(f"{path} is no JSON: {error}; copy it and pack the kit again") from error


def read_object(path: Path, max_bytes: int = _MAX_BYTES) -> Mapping[str, Any]:
    """Return the object in a JSON file, an empty one where there is no such file. Raises LoadError."""
    value = read_json(path, max_bytes)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise LoadError(f"{path} holds no JSON object; copy it and pack the kit again")
    return value


def _read(path: Path, max_bytes: int) -> bytes | None:
    """Return the bytes of a regular file, None where there is none. Raises LoadError."""
    try:
        if path.is_symlink() or not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if len(data) > max_bytes:
        raise LoadError(f"{path} is larger than {max_bytes} bytes, too large for what it is")
    return data
