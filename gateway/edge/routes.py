"""Where each call goes: models, versions, weights and workers as one immutable value. Pure.

A route gives a model's unversioned calls to its stable version, but for the canary's share. Every
version that a route knows also answers under its tag, its digest and its 12-digit prefix.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """One worker's own HTTP server."""

    worker: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Backend:
    """The workers of one version. `version` is the app that runs it; `names` are what clients call it."""

    version: str
    names: tuple[str, ...]
    servers: tuple[Server, ...]
    may_sleep: bool = False
    """Whether a call is held, and wakes it, while it has no worker."""
    has_spare: bool = False
    """Whether another version takes the calls to it while it has no worker."""

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
    included.
    """

    sticky: tuple[str, str] | None = None
    match: tuple[tuple[str, str], ...] = ()
    watched: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A model's way to its versions. Without a stable version, calls are answered by `reason`."""

    model: str
    stable: Backend | None = None
    canary: Backend | None = None
    weight: int = 0
    reason: str = "is loading"
    rules: Rules = Rules()

    @property
    def stable_weight(self) -> int:
        """The stable version's percent of the calls."""
        return 100 - self.weight

    def backends(self) -> tuple[Backend, ...]:
        """The versions this route gives calls to, stable first."""
        return tuple(backend for backend in (self.stable, self.canary) if backend is not None)


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All routes at one moment. Draining versions get no new calls, but finish those they have."""

    routes: tuple[Route, ...] = ()
    draining: tuple[Backend, ...] = ()

    def backends(self) -> tuple[Backend, ...]:
        """Every version in the table, each once, the routed ones first."""
        backends: dict[str, Backend] = {}
        routed = (backend for route in self.routes for backend in route.backends())
        for backend in (*routed, *self.draining):
            backends.setdefault(backend.version, backend)
        return tuple(backends.values())
