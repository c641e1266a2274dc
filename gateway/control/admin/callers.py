"""Who calls the admin API, and what each may do. Pure.

OWNER     the user of the gateway, or root, over the socket: everything
HOLDER    of the token, or of a certificate: all but what widens trust or names what is on this machine
READER    anybody on this machine: the page, and how models are, without secrets, paths and the config
NOBODY    from another machine, without either: nothing
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gateway.loopback import is_loopback

_READ_METHODS = ("GET", "HEAD")
_OPEN = re.compile(
    r"/|/page/[a-z_.]+|/metrics|/healthz|/api/status|/api/events|/api/models/[^/]+(/rollout(/history)?)?"
)


class Role(StrEnum):
    """What a caller of the admin API is to it."""

    OWNER = "owner"
    HOLDER = "holder"
    READER = "reader"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Caller:
    """One who calls the admin API; `name` is what the log calls them."""

    role: Role
    name: str


def may(caller: Caller, method: str, path: str) -> bool:
    """Tell whether a caller may make this request at all; unknown paths are not open to readers."""
    if caller.role in (Role.OWNER, Role.HOLDER):
        return True
    return caller.role is Role.READER and method in _READ_METHODS and _OPEN.fullmatch(path) is not None


def is_from_this_machine(addresses: Iterable[str]) -> bool:
    """Tell whether both ends of a connection are on loopback."""
    return all(map(is_loopback, addresses))
