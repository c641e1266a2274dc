"""Where each call goes: models, versions, weights and workers as one immutable value. Pure.

A route divides a model's unversioned calls between its stable version and its canary, by weight and by rules.
Each version also answers calls that name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """One worker's own HTTP server."""

    worker: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Backend:
    """One version and its workers."""

    version: str
    """The name of the Serve application that runs it."""
    names: tuple[str, ...]
    """What clients may call it by: tag, digest, 12-digit prefix."""
    servers: tuple[Server, ...]
    may_sleep: bool = False
    """Whether a call wakes it, and waits, while it has no worker."""
    has_spare: bool = False
    """Whether another version answers for it while it has no worker."""

    @property
    def is_callable(self) -> bool:
        """Whether a call to it is answered, if only after the version woke."""
        return bool(self.servers) or self.may_sleep


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about a model's unversioned calls besides chance.

    `sticky` is a header or a cookie, by kind and name: callers with the same value of it get the same
    version, and while the weight only grows none goes back to stable. `match` are headers and their values:
    calls that have one go to the canary, with any value where it is "". HAProxy must know beforehand what
    to look at: `watched` are all such names, by kind ("header", "cookie" or "match"), those of later steps
    included. Where `is_judged`, calls are evidence of how good a version is, also while there is one alone:
    its canary will be compared with that.
    """

    sticky: tuple[str, str] | None = None
    match: tuple[tuple[str, str], ...] = ()
    watched: tuple[tuple[str, str], ...] = ()
    is_judged: bool = False


class RouteState(StrEnum):
    """Why no version of a model answers: one of these words, and never a text from elsewhere."""

    STARTING = "starting"
    PULLING = "pulling"
    LOADING = "loading"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Route:
    """The versions of a model. Without a stable one, callers are told by `state` why nobody answers."""

    model: str
    stable: Backend | None = None
    canary: Backend | None = None
    weight: int = 0
    """The canary's percent of the unversioned calls."""
    state: RouteState = RouteState.LOADING
    rules: Rules = Rules()

    @property
    def stable_weight(self) -> int:
        """The stable version's percent of the unversioned calls."""
        return 100 - self.weight

    def backends(self) -> tuple[Backend, ...]:
        """Return the versions of this route, stable first."""
        return tuple(backend for backend in (self.stable, self.canary) if backend is not None)


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All routes at one moment. Draining versions get no new calls, but finish those they have."""

    routes: tuple[Route, ...] = ()
    draining: tuple[Backend, ...] = ()

    def backends(self) -> tuple[Backend, ...]:
        """Return every version in the table, each once, the routed ones first."""
        backends: dict[str, Backend] = {}
        routed = (backend for route in self.routes for backend in route.backends())
        for backend in (*routed, *self.draining):
            backends.setdefault(backend.version, backend)
        return tuple(backends.values())
