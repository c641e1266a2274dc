"""Proxies: what the processes of one Kitserve say to each other goes through none.

requests and curl read `no_proxy` and `NO_PROXY`; gRPC, by which Ray Serve's processes call each other, reads
`no_grpc_proxy`, or else `no_proxy` (https://grpc.github.io/grpc/core/md_doc_environment_variables.html).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, MutableMapping

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Ray's processes call each other by address. Who calls a server by its name still goes through the proxy.
_EVERY_ADDRESS = ("0.0.0.0/0", "::/0")
# No packet is sent: a datagram socket that is connected knows the address it would send from.
_ELSEWHERE = ((socket.AF_INET, "8.8.8.8"), (socket.AF_INET6, "2001:4860:4860::8888"))
_ANYTHING = "*"


def bypass_proxies(environment: MutableMapping[str, str] = os.environ) -> None:
    """Except loopback and this node's addresses from the proxies of this process and of all that it starts.

    Every other call, such as one to a registry or a webhook, goes through the proxy as before.
    """
    own = (*_LOOPBACK, *_node_addresses())
    lower, upper = environment.get("no_proxy", ""), environment.get("NO_PROXY", "")
    of_grpc = environment.get("no_grpc_proxy") or lower or upper
    environment["no_proxy"] = _joined(lower or upper, own)
    environment["NO_PROXY"] = _joined(upper or lower, own)
    environment["no_grpc_proxy"] = _joined(of_grpc.replace(_ANYTHING, ""), (*own, *_EVERY_ADDRESS))


def _joined(exceptions: str, addresses: Iterable[str]) -> str:
    """Return a list of exceptions with these addresses in it."""
    if exceptions.strip() == _ANYTHING:
        return exceptions
    names = [name.strip() for name in exceptions.split(",") if name.strip()]
    return ",".join(dict.fromkeys([*names, *addresses]))


def _node_addresses() -> list[str]:
    """Return the addresses from which this node calls others, as Ray finds them."""
    addresses = []
    for family, elsewhere in _ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 80))
            addresses.append(str(probe.getsockname()[0]))
    return addresses
