"""The file of keys: a list of names, hashes and rights, as YAML. The keys themselves are in no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from gateway.config.access import MAX_KEYS, KeyRights
from gateway.config.faults import describe_faults
from gateway.config.kits import Strict
from gateway.config.yaml_file import read_yaml
from gateway.errors import ConfigError

_DIGITS = 64


def _hash(value: str) -> str:
    if len(value) != _DIGITS or not set(value.lower()) <= set("0123456789abcdef"):
        raise ValueError("this is no SHA-256 of a key: 64 hexadecimal digits; `kitserve key new` makes both")
    return value.lower()


class Key(KeyRights):
    """One key, by its hash."""

    sha256: Annotated[str, AfterValidator(_hash)]
    """The SHA-256 of the key, in hexadecimal digits."""


class KeyFile(Strict):
    """The keys of a file."""

    keys: Annotated[tuple[Key, ...], Field(max_length=MAX_KEYS)] = ()
    """The keys."""


def parse_keys(text: str, source: str, reserved: Sequence[str] = ()) -> tuple[Key, ...]:
    """Return the keys of a file.

    Args:
        text: what is in the file.
        source: its name in errors.
        reserved: names that its keys may not have.

    Raises:
        ConfigError: with one line for each fault in it.
    """
    value, lines, faults = read_yaml(text, source)
    try:
        keys = KeyFile.model_validate(value).keys
    except ValidationError as error:
        raise ConfigError(source, faults + describe_faults(error.errors(), lines, KeyFile)) from error
    names, hashes = [*reserved, *(key.name for key in keys)], [key.sha256 for key in keys]
    for index, key in enumerate(keys):
        line = lines.get(("keys", index), 1)
        if names.count(key.name) > 1:
            faults.append(f"line {line}: the name {key.name!r} is there twice")
        if hashes.index(key.sha256) != index:
            faults.append(f"line {line}: {key.name!r} has the hash of a key above")
    if faults:
        raise ConfigError(source, faults)
    return keys
