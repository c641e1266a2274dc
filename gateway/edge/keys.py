"""The map of keys: who holds one, and what its holder may call. Its keys, its entries, their lookup. Pure.

    HEX                     the name of the key whose SHA-256 this is, in upper-case digits
    NAME:any                `1`: it may call every model
    NAME:model:MODEL        `1`: it may call every version of this model
    NAME:some:MODEL         `NAME:some:MODEL`, where it may call certain versions of it
    NAME:some:MODEL/VERSION `1`: it may call this version, by this name
    NAME:list               the models, with commas between, that it is told of when it asks for a list
    NAME:canary             `1`: it may choose the canary
    NAME:per-second         how many calls it may make in a second
    NAME:per-minute         … and in a minute

A key is random and long, so nobody finds it by trying: a fast hash is enough, and hides it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from gateway.config.access import ANY_MODEL, MAX_KEYS, KeyRights
from gateway.config.keys import Key

LEEWAY_SECONDS = 60
"""How much later than said a token may begin: clocks differ."""
AUDIENCES = 4
"""How many audiences of a token are looked at."""
COUNTED, RATED = 5, 6
"""HAProxy's numbers of what is tracked of a call: by the name of its key, and by who shares a rate."""
STICK_COUNTERS = 8
COUNTS = "key_counts"
"""The table in which calls are counted by the name of their key."""
NOBODY = ":nobody"
"""The name under which calls without a valid key are counted."""
MAX_NAMES = 2 * MAX_KEYS
MODELLESS_CALLS = ("ServerLive", "ServerReady", "ServerMetadata")
"""gRPC methods that tell nothing of single models."""
_PREFIX = "ks_"
_KEY_BYTES = 32


class Right(StrEnum):
    """What a key's name is followed by in the map."""

    ANY = ":any"
    MODEL = ":model:"
    SOME = ":some:"
    LIST = ":list"
    CANARY = ":canary"
    PER_SECOND = ":per-second"
    PER_MINUTE = ":per-minute"


def new_key() -> str:
    """Return a new key: 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def hash_of(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def lookup(path: Path, right: Right, variable: str = "") -> str:
    """Return HAProxy's expression for an entry of the key in `txn.key`; its last name is in `variable`."""
    return f"var(txn.key),concat({right}{',' + variable if variable else ''}),map({path})"


def key_entries(keys: Iterable[Key], issuers: Iterable[KeyRights]) -> dict[str, str]:
    """Return the entries of the map."""
    entries = {}
    for key in keys:
        entries[key.sha256.upper()] = key.name
        entries |= _rights(key)
    for issuer in issuers:
        entries |= _rights(issuer)
    return entries


def _rights(rights: KeyRights) -> dict[str, str]:
    name = rights.name
    entries = {}
    for model, _, version in (written.partition("@") for written in rights.models):
        if model == ANY_MODEL:
            entries[f"{name}{Right.ANY}"] = "1"
        elif version:
            some = f"{name}{Right.SOME}{model}"
            entries |= {some: some, f"{some}/{version}": "1"}
        else:
            entries[f"{name}{Right.MODEL}{model}"] = "1"
    models = dict.fromkeys(written.partition("@")[0] for written in rights.models)
    if models and ANY_MODEL not in models:
        entries[f"{name}{Right.LIST}"] = ",".join(models)
    if rights.may_choose_canary:
        entries[f"{name}{Right.CANARY}"] = "1"
    for right, limit in ((Right.PER_SECOND, rights.per_second), (Right.PER_MINUTE, rights.per_minute)):
        if limit is not None:
            entries[f"{name}{right}"] = str(limit)
    return entries
