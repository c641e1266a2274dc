"""Where each call goes: models, versions, weights and workers as one immutable value. Pure.

A route gives a model's unversioned calls to its stable version, but for the canary's share. Every
version that a route knows also answers under its tag, its digest and its 12-digit prefix.

HAProxy can change servers and maps while it runs, but not add a backend. So the edge has a pool of
empty backends, and a version is given one of them (its *slot*) for as long as it is served.
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
    def answers(self) -> bool:
        """Whether a call to it is answered, if only after it woke."""
        return bool(self.servers) or self.may_sleep


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about a model's unversioned calls besides chance.

    `key` is a header or cookie whose value keeps a caller where it is while the weight only grows. Calls
    with a header of `match` go to the canary: those with that value, or with any where it is "". HAProxy must
    know beforehand what it is to look at: `watched` are all such names, by kind ("header", "cookie" or
    "match"), also those that matter later.
    """

    key: tuple[str, str] | None = None
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
        found: dict[str, Backend] = {}
        for backend in (*(at for route in self.routes for at in route.backends()), *self.draining):
            found.setdefault(backend.version, backend)
        return tuple(found.values())
