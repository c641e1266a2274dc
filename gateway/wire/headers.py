"""The headers in which edge, gateway and workers tell each other of a call; nobody else can send them.

The edge removes them from every call of a client, and writes its own (`edge/templates/`).
"""

from __future__ import annotations

OWN_PREFIX = "Kitserve-"
"""How all of them begin: the edge removes whatever else a client sends that begins so."""
EDGE_HEADER = "Kitserve-Edge"
"""The secret by which workers know that a call came through the edge, or from another of Kitserve's own."""
SOURCE_HEADER = "Kitserve-Source"
"""Whose turn a call takes in a worker: the caller's address, or `key:` and the name of its key."""
PLACED_HEADER = "Kitserve-Placed"
"""That the edge chose the call's version by chance alone, so that it counts as evidence: `1`, or for a caller
that sticks to a version, a hash of what it sticks by. Calls are placed also where there is one version alone.
"""
CALLER_HEADER = "Kitserve-Caller"
"""The name of the caller's key: for workers, and for the edge when a call comes back from the body router."""
CLIENT_HEADER = "Kitserve-Client"
"""The caller's address, for the edge, when a call comes back from the body router."""
MODELS_HEADER = "Kitserve-Models"
"""Which models the gateway may tell a caller of, with commas between; absent, all."""
TRACED_HEADER = "Kitserve-Traced"
"""Of a call that is traced: when the edge began, in microseconds, a `-`, and the caller's span. It counts
only beside a `traceparent` that is sampled, which the edge lets nobody else write."""
TRACEPARENT_HEADER = "traceparent"

# As a server of ours has them in a request.
EDGE = EDGE_HEADER.lower().encode()
SOURCE = SOURCE_HEADER.lower().encode()
PLACED = PLACED_HEADER.lower().encode()
CALLER = CALLER_HEADER.lower().encode()
TRACED = TRACED_HEADER.lower().encode()
TRACEPARENT = TRACEPARENT_HEADER.encode()
TRACESTATE = b"tracestate"


def sticky_caller(placed: bytes | None) -> bytes:
    """Return the hash of a caller that sticks to a version, by its call's header `PLACED`; b"" for others."""
    return b"" if placed is None or placed == b"1" else placed
