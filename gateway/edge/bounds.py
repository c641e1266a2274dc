"""How much the edge takes at a time, of all callers together and of each: computed from its open files. Pure.

A connection of a client is an open file of HAProxy's, and so is each connection to a worker: one for each
call that runs, and those that are kept for the next call. A client that opens many streams on few
connections would use them up, so calls and kept connections are bounded as well. With these numbers the sum
never exceeds `files`:

    files = _OWN_FILES + checks + 2 * all_connections
    2 * all_connections >= connections + requests + kept * keeping + 2 * routed + HEALTH_CONNECTIONS

HAProxy counts one file for each server whose health it checks, and does not start with more than it may have
open. What a pool of few models has of them is set aside from the beginning (`FIRST_CHECKS`); a larger pool
takes from the callers (`EdgeBounds.beside`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gateway.errors import EdgeError
from gateway.wire.limits import CONNECTION_STREAMS

MIN_FILES = 4096
"""With fewer open files, too few calls would be served."""
MAX_CONNECTIONS = 8192
"""How many connections of clients are taken at a time, where nothing else is said."""
HEALTH_CONNECTIONS = 64
"""How many connections its own listener for health takes, whatever the others do."""
CALLER_REQUESTS = 1024
"""How many calls one caller may have at a time, where nothing else is said."""
FULL_CALLER_CONNECTIONS = 32
"""How many connections a caller may open in a second while it has as many calls in work as it may."""
CALLER_STREAMS = 64
"""How many streams of health and reflection one caller may have at a time."""
LARGE_BYTES = 1024 * 1024
"""From how many bytes on the body of a call is a large one."""
UPLOADS = 4
"""With more calls at a time than this, what a caller's large bodies take is bounded."""
UPLOAD_BYTES = 64 * 1024 * 1024
"""How many bytes of them are taken in a second for each core, where nothing else is said."""
UPLOAD_SHARES = 20
"""In so many parts of a second, so that they do not come all at once and have other calls wait."""
ALL_STREAMS = 512
"""How many calls, these streams among them, the gateway's gRPC services answer at a time."""
RAISE_THE_LIMIT = (
    "raise the limit (`LimitNOFILE=` in systemd, `--ulimit nofile=65536` in Docker, or limits.conf)"
)
FIRST_CHECKS = 256
"""For so many servers' health checks there are files, whatever callers take."""
# Of HAProxy: listeners, sockets for control, threads.
_OWN_FILES = 256
# Connections that are neither clients' nor those of calls to workers: routed ones, and health's.
_OTHER_CONNECTIONS = 256
# With fewer, what serves many models would not serve many callers.
_MIN_CONNECTIONS = 512
# How many files must be left beside the health checks.
_FOR_CALLERS = 2 * (_MIN_CONNECTIONS + _OTHER_CONNECTIONS) + _OWN_FILES
_MAX_ROUTED = 400
_MIN_KEEPING = 256


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What the config says of it (`callers`); None where it is computed."""

    max_connections: int | None = None
    max_connections_each: int | None = None
    max_requests_each: int | None = None
    max_streams_per_connection: int = CONNECTION_STREAMS
    max_upload_each: int | None = None


@dataclass(frozen=True, slots=True)
class EdgeBounds:
    """The numbers of HAProxy's configuration; made by `edge_bounds`."""

    files: int
    """How many files HAProxy may have open."""
    limits: CallerLimits
    """What the config says."""
    cores: int
    """On how many HAProxy runs."""
    all_connections: int
    """`maxconn` of the process, from which HAProxy sizes its table of files: two for each."""
    connections: int
    """`maxconn` of the listener for clients; others wait in the kernel's queue."""
    routed: int
    """`maxconn` of the listener for calls that come back from the body router."""
    requests: int
    """How many calls of clients may be in work at a time."""
    streams: int
    """How many of them on one HTTP/2 connection."""
    keeping: int
    """Up to how many connections of clients keep connections to workers between two calls."""
    kept: int
    """How many each of these keeps."""
    caller_connections: int
    """How many connections one caller may have."""
    caller_requests: int
    """How many calls one caller may have in work."""
    caller_upload: int
    """How many bytes of one caller's large bodies are taken in a second, while it has many calls."""

    def beside(self, checks: int) -> EdgeBounds:
        """Return the same with so many health checks; limits of the config become lower where they must.

        Raises:
            EdgeError: when too little is left for callers.
        """
        if checks <= FIRST_CHECKS:
            return self
        if checks > self.max_checks:
            raise EdgeError(
                f"for so many models and workers the edge needs {_FOR_CALLERS + checks} open files, and it "
                f"may have {self.files} (ulimit -Hn): {RAISE_THE_LIMIT}, or serve fewer models"
            )
        return _bounds(self.files, checks, self.limits, self.cores, may_lower=True)

    @property
    def max_checks(self) -> int:
        """How many health checks leave enough for callers."""
        return self.files - _FOR_CALLERS

    @property
    def crowded(self) -> int:
        """From how many connections of clients on each is closed once its call is answered."""
        return self.connections * 3 // 4

    @property
    def caller_crowded(self) -> int:
        """The same of one caller."""
        return self.caller_connections * 3 // 4

    @property
    def caller_refused_connections(self) -> int:
        """How many connections of one caller are open at most; those above its limit only to be told so."""
        return self.caller_connections + max(8, self.caller_connections // 8)

    @property
    def caller_refused_requests(self) -> int:
        """How many calls of one caller are there at most; those above its limit only to be told so."""
        return 2 * self.caller_requests


def edge_bounds(files: int, limits: CallerLimits | None = None, cores: int = 2) -> EdgeBounds:
    """Return what the edge may take, when it may have so many files open, and runs on so many cores.

    Raises:
        EdgeError: when a limit of the config needs more files, or more than there is of all callers.
    """
    return _bounds(files, FIRST_CHECKS, limits or CallerLimits(), cores, may_lower=False)


def _connections(files: int, checks: int) -> int:
    """Return for how many connections, of two files each, there is room beside HAProxy's own files."""
    return (files - _OWN_FILES - checks) // 2


def _bounds(files: int, checks: int, limits: CallerLimits, cores: int, *, may_lower: bool) -> EdgeBounds:
    all_connections = _connections(files, checks)
    possible = all_connections - _OTHER_CONNECTIONS
    connections = min(MAX_CONNECTIONS, possible) if limits.max_connections is None else limits.max_connections
    if connections > possible and not may_lower:
        needed = 2 * (connections + _OTHER_CONNECTIONS) + _OWN_FILES + checks
        raise EdgeError(
            f"callers.max_connections is {connections}, for which {needed} open files are needed, and this "
            f"process may have {files} (ulimit -Hn): write {possible} at most, or {RAISE_THE_LIMIT}"
        )
    connections = min(connections, possible)
    # What is possible leaves 192 of these.
    routed = min(_MAX_ROUTED, all_connections - connections - HEALTH_CONNECTIONS)
    to_workers = 2 * all_connections - connections - 2 * routed - HEALTH_CONNECTIONS
    # To keep fewer than a burst of calls needs costs more than to run fewer at a time.
    requests = min(max(connections, MAX_CONNECTIONS), to_workers * 2 // 5)
    kept = max(1, min(limits.max_streams_per_connection, (to_workers - requests) // _MIN_KEEPING))
    of_one = partial(_of_one, may_lower=may_lower)
    return EdgeBounds(
        files=files,
        limits=limits,
        cores=cores,
        all_connections=all_connections,
        connections=connections,
        routed=routed,
        requests=requests,
        streams=limits.max_streams_per_connection,
        keeping=(to_workers - requests) // kept,
        kept=kept,
        caller_connections=of_one(
            "max_connections_each", limits.max_connections_each, max(1, connections // 4), connections
        ),
        caller_requests=of_one(
            "max_requests_each", limits.max_requests_each, min(CALLER_REQUESTS, requests // 2), requests
        ),
        caller_upload=limits.max_upload_each or UPLOAD_BYTES * cores,
    )


def _of_one(field: str, wanted: int | None, default: int, of_all: int, *, may_lower: bool) -> int:
    if wanted is not None and wanted > of_all and not may_lower:
        raise EdgeError(
            f"callers.{field} is {wanted}, and the edge takes {of_all} of all callers together: write less, "
            "or raise callers.max_connections and the limit of open files (ulimit -Hn)"
        )
    return min(default if wanted is None else wanted, of_all)
