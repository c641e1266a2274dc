"""What a user writes about callers: how much the edge takes at a time, of all and of each."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, ByteSize, Field

from gateway.config.kits import Strict
from gateway.wire.limits import CONNECTION_STREAMS


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"{value!r} is no address and no network, such as 10.0.0.0/8") from None


class Callers(Strict):
    """How much the edge takes at a time, of all callers together and of each.

    A caller is an address; of IPv6, the 64 bits of its network.
    """

    max_connections: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """How many connections of clients are taken; others wait. Absent: 8192, or as many as the limit of open
    files is enough for."""
    max_connections_each: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many of them one caller may have. Absent: a quarter."""
    max_requests_each: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many calls one caller may have at a time, waiting ones among them. Absent: 1024, or half of what
    all may have together where that is less."""
    max_streams_per_connection: Annotated[int, Field(ge=1, le=1000)] = CONNECTION_STREAMS
    """How many calls one HTTP/2 connection may have at a time; its client keeps others back."""
    max_upload_each: Annotated[ByteSize, Field(ge=1024 * 1024)] | None = None
    """How many bytes of large bodies (1 MiB and more) are taken of one caller in a second, while it has more
    than 4 calls at a time, such as `500MiB`. Absent: 64 MiB for each core of the machine."""
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    """The addresses and networks of proxies in front of Kitserve: what they send is counted for the last
    address in X-Forwarded-For, and their connections are not."""
