"""What is decided, as the edge takes it: routes to backends, and backends that drain. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.loop.roles import Role, Roles
from gateway.control.loop.situation import Situation
from gateway.control.state.database import AppRoute
from gateway.control.state.status import ModelState
from gateway.edge.routes import Backend, Route, RouteState, RoutingTable, Rules, Server
from gateway.rollout.state import Rollout

_REACHABLE = (WorkerState.READY, WorkerState.DRAINING)


def routing_table(
    roles: Mapping[str, Roles],
    routes: Mapping[str, AppRoute],
    surplus: Iterable[AppName],
    lingering: Iterable[AppName],
    situation: Situation,
) -> RoutingTable:
    """Return the edge's table for the routes of all models.

    A surplus version drains while a worker of it can be reached; one that lingers keeps its backend also
    without a worker, as the next rollout may want it again.
    """
    table = tuple(
        Route(
            model,
            _backend(route.stable, situation),
            _backend(route.canary, situation, has_spare=True),
            route.weight,
            _state(roles[model].stable),
            _rules(situation.recorded.rollouts.get(model)),
        )
        for model, route in routes.items()
    )
    draining = [
        backend
        for backend in (_draining_backend(app, situation) for app in surplus)
        if backend is not None and backend.servers
    ]
    kept = [
        backend
        for backend in (_draining_backend(app, situation, has_spare=True) for app in sorted(lingering))
        if backend is not None
    ]
    return RoutingTable(table, (*draining, *kept))


def _backend(app: AppName | None, situation: Situation, has_spare: bool = False) -> Backend | None:
    """Return the backend of a version that is routed; None where no version is."""
    version = situation.recorded.versions.get(app) if app is not None else None
    if version is None:
        return None
    servers = _servers(situation.ready_workers(version.app))
    return Backend(version.app, version.reference.names, servers, situation.can_be_woken(version), has_spare)


def _draining_backend(app: AppName, situation: Situation, has_spare: bool = False) -> Backend | None:
    """Return the backend of a version that takes no new calls; None where the version is forgotten."""
    version = situation.recorded.versions.get(app)
    if version is None:
        return None
    workers = [worker for worker in situation.workers(app) if worker.state in _REACHABLE]
    return Backend(app, version.reference.names, _servers(workers), has_spare=has_spare)


def _servers(workers: Iterable[Announcement]) -> tuple[Server, ...]:
    return tuple(sorted(Server(worker.worker, worker.host, worker.port) for worker in workers))


def _rules(rollout: Rollout | None) -> Rules:
    """Return what decides besides chance about a model's calls, at this step and at others."""
    if rollout is None:
        return Rules()
    watched = {("match", match.header) for step in rollout.plan.steps for match in step.match}
    sticky = rollout.plan.sticky
    key: tuple[str, str] | None = None
    if sticky is not None:
        key = ("header", sticky.header) if sticky.header else ("cookie", sticky.cookie)
        watched.add(key)
    matches = {match.header: match.value for match in rollout.match}
    return Rules(key, tuple(sorted(matches.items())), tuple(sorted(watched)), is_judged=True)


def _state(role: Role) -> RouteState:
    """Return what a caller is told while no version of the model can answer."""
    if role.has_failed:
        return RouteState.FAILED
    return RouteState.PULLING if role.state is ModelState.PULLING else RouteState.LOADING
