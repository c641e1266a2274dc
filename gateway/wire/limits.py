"""What a call may take: limits that hold on its whole way, at the edge, in the gateway and in a worker."""

from __future__ import annotations

HEAD_BYTES = 64 * 1024
"""The most that a head may have, and the size of the edge's buffers: nothing longer comes through."""
BODY_BYTES = 64 * 1024 * 1024
"""The most that the body of a call to a model may have."""
SMALL_BODY_BYTES = 64 * 1024
"""The most that the body of a call to the gateway may have."""
CONNECTION_STREAMS = 64
"""How many calls one HTTP/2 connection may have at a time, where the config says nothing else."""
CALL_SECONDS = 75.0
"""How long the edge waits for an answer to begin."""
STREAM_SECONDS = 3600.0
"""How long the edge waits for more of a stream from its server; from its client, `CALL_SECONDS`."""
WAKE_SECONDS = 60.0
"""How long a call may wait for a version that wakes."""
DRAIN_SECONDS = 60.0
"""How long a process that takes no new calls may finish those it has."""
