"""What is wanted against what is there: a plan of what to do next. Pure.

A role (stable, canary) moves to the version that its config names once that version's workers are
ready; until then, and when it fails, the role's last good version stays. So a config that fails for
one model changes nothing for its callers, nor for other models.

A version that may sleep and was ready once counts as ready also while it has no worker: the next call
wakes it, and is answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from gateway.config.config import Model
from gateway.contract import Announcement, WorkerState
from gateway.control.loop.model_status import ANSWERS, Role, how_asleep, model_status
from gateway.control.state.database import Routed
from gateway.control.state.snapshot import Known, Observed, version_for
from gateway.control.state.status import ModelState, ModelStatus
from gateway.control.state.versions import Version, kind_of
from gateway.control.state.workers import ready_workers
from gateway.edge.routes import Backend, Route, RoutingTable, Rules, Server
from gateway.rollout.state import Rollout


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next. Every part may be done again without harm."""

    resolve: tuple[str, ...]
    deploy: tuple[Version, ...]
    surplus: tuple[str, ...]
    """Apps that no one wants any more; they may go once their calls are answered."""
    routed: Mapping[str, Routed]
    table: RoutingTable
    models: tuple[ModelStatus, ...]


def reconcile(known: Known, observed: Observed) -> Plan:
    """Decide what to do next."""
    by_app: dict[str, list[Announcement]] = defaultdict(list)
    for worker in observed.workers:
        by_app[worker.app].append(worker)
    routed: dict[str, Routed] = {}
    roles: dict[str, list[Role]] = {}
    for model in known.desired.config.models:
        stable, canary, weight = _roles(model, known, observed, by_app)
        roles[model.name] = [stable, *([canary] if canary else [])]
        routed[model.name] = _route(model, stable, canary, weight, known, observed, by_app)

    versions = {**known.versions, **_wanted_versions(roles)}
    in_use = {app for at in routed.values() for app in (at.stable, at.canary) if app is not None}
    lingering = _lingering(known) - in_use
    in_use |= lingering
    wanted = {
        app
        for app in {*in_use, *_wanted_versions(roles)}
        if app not in known.condemned and kind_of(app) not in known.failures
    }
    surplus = tuple(sorted(app for app in {*observed.apps, *known.versions} if app not in wanted))
    return Plan(
        resolve=tuple(
            dict.fromkeys(
                role.kit
                for both in roles.values()
                for role in both
                if role.version is None and role.state is not ModelState.FAILED
            )
        ),
        deploy=tuple(versions[app] for app in sorted(wanted) if app in versions and app not in observed.apps),
        surplus=surplus,
        routed=routed,
        table=_table(roles, routed, versions, surplus, lingering, observed, by_app, known.rollouts),
        models=tuple(
            model_status(name, both, routed[name], versions, observed, by_app, known)
            for name, both in roles.items()
        ),
    )


def _roles(
    model: Model, known: Known, observed: Observed, by_app: Mapping[str, list[Announcement]]
) -> tuple[Role, Role | None, int]:
    """The stable role, the canary's if there is one, and the canary's percent of calls."""
    rollout = known.rollouts.get(model.name)
    if rollout is None:
        stable = _role(model, model.kit, known, observed, by_app)
        if model.canary is None:
            return stable, None, 0
        return stable, _role(model, model.canary.kit, known, observed, by_app), model.canary.weight
    stable = _role(model, rollout.stable, known, observed, by_app)
    if rollout.trial:
        return stable, _role(model, rollout.trial, known, observed, by_app), rollout.weight
    if model.kit in known.pins:
        return stable, None, 0
    # What the config asks for is not known yet, or cannot be.
    return stable, _role(model, model.kit, known, observed, by_app), 0


def _role(
    model: Model, kit: str, known: Known, observed: Observed, by_app: Mapping[str, list[Announcement]]
) -> Role:
    if kit in known.failures:
        return Role(kit, None, ModelState.FAILED, known.failures[kit])
    version = version_for(model, kit, known)
    if version is None:
        return Role(kit, None, ModelState.PULLING, "resolving its reference")
    if kind_of(version.app) in known.failures:
        return Role(kit, version, ModelState.FAILED, known.failures[kind_of(version.app)])
    workers = by_app.get(version.app, [])
    up = len(ready_workers(workers))
    now = known.routed.get(model.name, Routed())
    if up >= (1 if version.app in (now.stable, now.canary) else version.first_replicas):
        return Role(kit, version, ModelState.READY, known.notes.get(kit, ""))
    if observed.may_sleep(version):
        return Role(kit, version, ModelState.ASLEEP, how_asleep(workers))
    if up:
        message = f"{up} of {version.min_replicas} workers are ready"
        return Role(kit, version, ModelState.LOADING, message)
    for state in (WorkerState.LOADING, WorkerState.PULLING):
        for worker in workers:
            if worker.state is state:
                return Role(kit, version, ModelState(state.value), worker.detail)
    return Role(kit, version, ModelState.LOADING, observed.apps.get(version.app, "") or "starting a worker")


def _lingering(known: Known) -> set[str]:
    """The apps of versions that lost in a rollout, and are kept a little longer."""
    found = set()
    for name, rollout in known.rollouts.items():
        model = known.desired.config.model(name)
        if model is None:
            continue
        for revision in rollout.wanted:
            version = version_for(model, revision, known)
            if version is not None and version.app in known.versions:
                found.add(version.app)
    return found


def _route(
    model: Model,
    stable: Role,
    canary: Role | None,
    weight: int,
    known: Known,
    observed: Observed,
    by_app: Mapping[str, list[Announcement]],
) -> Routed:
    """Where the model's calls go next, given where they go now."""
    now = known.routed.get(model.name, Routed())
    app = now.stable if now.stable in known.versions and now.stable not in known.condemned else None
    wanted = stable.version
    if wanted is not None and stable.state is not ModelState.FAILED and wanted.app != app:
        workers = ready_workers(by_app.get(wanted.app, []))
        # The first version answers as soon as it can; a successor comes with all its workers.
        if len(workers) >= (1 if app is None else wanted.first_replicas) or observed.may_sleep(wanted):
            app = wanted.app
    trial, weight = _trial(model, canary, weight, known, observed, by_app)
    return Routed(app) if app is None or trial == app else Routed(app, trial, weight)


def _trial(
    model: Model,
    canary: Role | None,
    weight: int,
    known: Known,
    observed: Observed,
    by_app: Mapping[str, list[Announcement]],
) -> tuple[str | None, int]:
    """The canary that takes calls next, and its percent: the wanted one once ready, else the one now."""
    if canary is None or canary.state is ModelState.FAILED:
        return None, 0
    if canary.version is not None and canary.state in ANSWERS:
        return canary.version.app, weight
    now = known.routed.get(model.name, Routed())
    if model.name in known.rollouts:
        # One that lost its workers keeps its place: what was on its way there finds the stable version.
        app = None if canary.version is None else canary.version.app
        return (app, 0) if app is not None and app == now.canary else (None, 0)
    if now.canary is None or now.canary in known.condemned or now.canary not in known.versions:
        return None, 0
    answers = ready_workers(by_app.get(now.canary, [])) or observed.may_sleep(known.versions[now.canary])
    return (now.canary, now.weight) if answers else (None, 0)


def _table(
    roles: Mapping[str, list[Role]],
    routed: Mapping[str, Routed],
    versions: Mapping[str, Version],
    surplus: Sequence[str],
    lingering: Set[str],
    observed: Observed,
    by_app: Mapping[str, list[Announcement]],
    rollouts: Mapping[str, Rollout],
) -> RoutingTable:
    def backend(app: str | None, going: bool = False, trial: bool = False) -> Backend | None:
        if app is None or app not in versions:
            return None
        workers = _reachable(by_app.get(app, [])) if going else ready_workers(by_app.get(app, []))
        servers = tuple(sorted(Server(worker.worker, worker.host, worker.port) for worker in workers))
        may_sleep = not going and observed.may_sleep(versions[app])
        return Backend(app, versions[app].names, servers, may_sleep, has_spare=trial)

    routes = tuple(
        Route(
            name,
            backend(at.stable),
            backend(at.canary, trial=True),
            at.weight,
            _reason(roles[name][0]),
            _rules(rollouts.get(name)),
        )
        for name, at in routed.items()
    )
    draining = [backend(app, going=True) for app in surplus]
    kept = [backend(app, going=True, trial=True) for app in sorted(lingering)]
    gone = [at for at in draining if at is not None and at.servers] + [at for at in kept if at is not None]
    return RoutingTable(routes, tuple(gone))


def _rules(rollout: Rollout | None) -> Rules:
    """What else than chance decides about a model's calls, at this step and at others."""
    if rollout is None:
        return Rules()
    plan = rollout.plan
    sticky = plan.sticky
    watched = {("match", at.header) for step in plan.steps for at in step.match}
    key: tuple[str, str] | None = None
    if sticky is not None:
        key = ("header", sticky.header) if sticky.header else ("cookie", sticky.cookie)
        watched.add(key)
    match = {at.header: at.value for at in rollout.match}
    return Rules(key, tuple(sorted(match.items())), tuple(sorted(watched)))


def _reason(role: Role) -> str:
    """What a caller is told while no version of the model can answer."""
    if role.state is ModelState.FAILED:
        return f"could not be served: {role.message}"
    return f"is not ready yet: {role.state}"


def _reachable(workers: Sequence[Announcement]) -> list[Announcement]:
    return [worker for worker in workers if worker.state in (WorkerState.READY, WorkerState.DRAINING)]


def _wanted_versions(roles: Mapping[str, list[Role]]) -> dict[str, Version]:
    return {
        role.version.app: role.version for both in roles.values() for role in both if role.version is not None
    }
