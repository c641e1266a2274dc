"""What is wanted against what is there: a plan of what to do next. Pure.

Each model has roles (see roles.py), and its calls have a route: the app that is stable, the one that is
canary, and the canary's percent. A role says what the config wants; the route says what happens to calls,
and follows the role only when that harms no caller:

    the stable app         the role's version                                   the next stable app
    ---------------------  ---------------------------------------------------  -------------------
    none                   has a ready worker                                   the role's
    another                has all the workers it begins with                   the role's
    one without workers    has a ready worker                                   the role's
    any                    loads, or has failed                                 the same
    another, surge is 0    is known to be servable                              none, until that is ready (8)
    condemned, forgotten   as if there were none                                the role's, or none

    the canary app         the canary role's version                            the next canary app
    ---------------------  ---------------------------------------------------  ----------------------------
    any                    answers                                              the role's, at its weight
    any                    answers, has calls, and the stable app does not      the role's, at 100 percent
    any                    has failed, or there is no such role                 none
    the same               loads again, in a rollout                            the same, at 0 percent
    another                loads, in a rollout                                  none
    any                    loads, and the share is fixed                        the same, while that answers

Rules, which the tests hold a plan to:

1. A plan depends on nothing but its two arguments, and each part of it may be done again without harm.
2. What answers is not taken from its callers for something that does not: a config that fails for one
   model changes nothing for its callers, nor for other models.
3. A canary takes calls only while it answers.
4. A version that may sleep and was ready once counts as one that answers also while it has no worker: the
   next call wakes it.
5. An app is surplus when no route, no role and no rollout wants it, when it is condemned, or when its kind
   was given up. It drains at the edge until it is gone.
6. Nothing is deployed under the name of an app that Serve still runs, and nothing is routed to what is
   condemned: where it is wanted again, the same version comes under a new number.
7. With nothing left to resolve, to load or to remove, a plan is empty and changes no route.
8. Where the config says `surge: 0`, rule 2 does not hold: a version loads once no other of its model is
   left. The loop condemns the stable one when the next is known to be servable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.contract import AppName
from gateway.control.loop.model_status import model_status
from gateway.control.loop.roles import Role, Roles, roles_of
from gateway.control.loop.routing import routing_table
from gateway.control.loop.situation import Situation, routed_apps
from gateway.control.state.database import AppRoute
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.status import ModelStatus
from gateway.control.state.versions import Version
from gateway.edge.routes import RoutingTable
from gateway.oci.reference import Reference, parse_reference
from gateway.rollout.state import ALL_CALLS


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next."""

    resolve: tuple[Reference, ...]
    """References whose digest is not known."""
    deploy: tuple[Version, ...]
    """Versions that Serve should run and does not, or not with as many workers as they should have."""
    surplus: tuple[AppName, ...]
    """Apps that nothing wants any more; they may go once their calls are answered."""
    routes: Mapping[str, AppRoute]
    """Where each model's calls go."""
    table: RoutingTable
    """The same, as the edge takes it."""
    models: tuple[ModelStatus, ...]
    retry: tuple[Version, ...] = ()
    """Versions that were given up for a reason that may pass."""
    swaps: tuple[Version, ...] = ()
    """Versions that wait until the stable one has ended, which may go once these are known to be servable."""


def reconcile(recorded: Recorded, observed: Observed) -> Plan:
    """Decide what to do next."""
    situation = Situation(recorded, observed)
    roles = {model.name: roles_of(model, situation) for model in recorded.desired.models}
    routes = {model: _next_route(model, roles[model], situation) for model in roles}

    named = _named_versions(roles.values())
    after = situation.with_versions(named)
    taking_calls = routed_apps(routes.values())
    lingering = _lingering(situation) - taking_calls
    in_use = taking_calls | lingering | named.keys()
    wanted = {
        app: version
        for app, version in sorted(after.recorded.versions.items())
        if app in in_use and after.may_run(version)
    }
    swaps = _swaps(roles, situation)
    # A version that is about to end is not started before.
    ending = {routes[version.model].stable for version in swaps} - observed.apps.keys()
    surplus = tuple(sorted({*observed.apps, *recorded.versions} - wanted.keys()))
    return Plan(
        resolve=_unresolved(roles.values(), situation),
        deploy=tuple(
            version
            for version in wanted.values()
            if _must_deploy(version, situation)
            and not situation.must_wait(version)
            and version.app not in ending
        ),
        surplus=surplus,
        routes=routes,
        table=routing_table(roles, routes, surplus, lingering, after),
        retry=tuple(version for version in named.values() if version.kind in recorded.retries),
        swaps=swaps,
        models=tuple(model_status(model, roles[model], routes[model], after) for model in roles),
    )


def _must_deploy(version: Version, situation: Situation) -> bool:
    """Tell whether Serve is to be told of a version: it does not run it, or scales it as it did before."""
    current = situation.recorded.versions.get(version.app)
    return version.app not in situation.observed.apps or (
        current is not None and current.serving.scaling != version.serving.scaling
    )


def _swaps(roles: Mapping[str, Roles], situation: Situation) -> tuple[Version, ...]:
    """Return the versions that wait for the stable one of their model."""
    waiting = []
    for name, its_roles in roles.items():
        version, current = its_roles.stable.version, situation.route(name).stable
        if version is None or its_roles.stable.has_failed or not situation.may_be_routed(current):
            continue
        if current != version.app and situation.must_wait(version):
            waiting.append(version)
    return tuple(waiting)


def _named_versions(models: Iterable[Roles]) -> dict[AppName, Version]:
    """Return the versions that roles name, by app."""
    versions = (role.version for roles in models for role in roles.all())
    return {version.app: version for version in versions if version is not None}


def _unresolved(models: Iterable[Roles], situation: Situation) -> tuple[Reference, ...]:
    """Return the references that roles name and that may still be resolved, each once."""
    every_role = (role for roles in models for role in roles.all())
    retries = situation.recorded.retries
    return tuple(
        dict.fromkeys(
            role.kit
            for role in every_role
            if role.version is None and (not role.has_failed or role.kit in retries)
        )
    )


def _lingering(situation: Situation) -> set[AppName]:
    """Return the apps of versions that rollouts still want, on whatever side of a route they are."""
    apps: set[AppName] = set()
    for name, rollout in situation.recorded.rollouts.items():
        model = situation.recorded.desired.model(name)
        if model is None:
            continue
        versions = (situation.version_for(model, parse_reference(revision)) for revision in rollout.wanted)
        apps |= {version.app for version in versions if version is not None}
    return apps & situation.recorded.versions.keys()


def _next_route(model: str, roles: Roles, situation: Situation) -> AppRoute:
    """Return where a model's calls go next, given where they go now."""
    stable = _next_stable(model, roles.stable, situation)
    canary, weight = _next_canary(model, roles, situation)
    if weight and not situation.answers(stable):
        # Nothing else can answer.
        weight = ALL_CALLS
        if stable is None and roles.stable.has_failed:
            stable = canary
    if stable is None or canary == stable:
        return AppRoute(stable)
    return AppRoute(stable, canary, weight)


def _next_stable(model: str, role: Role, situation: Situation) -> AppName | None:
    current = situation.route(model).stable
    if not situation.may_be_routed(current):
        current = None
    successor = role.version
    if successor is None or role.has_failed or successor.app == current:
        return current
    ready = len(situation.ready_workers(successor.app))
    # The first version takes calls as soon as it can; a successor comes with all its workers.
    is_enough = ready >= (successor.serving.scaling.first if situation.answers(current) else 1)
    return successor.app if is_enough or situation.can_be_woken(successor) else current


def _next_canary(model: str, roles: Roles, situation: Situation) -> tuple[AppName | None, int]:
    """Return the canary and its percent: of the wanted one once it answers, else of the one now."""
    role = roles.canary
    if role is None or role.has_failed:
        return None, 0
    if role.version is not None and role.answers:
        return role.version.app, roles.weight
    current = situation.route(model)
    if model in situation.recorded.rollouts:
        # One that lost its workers keeps its place: what was on its way there finds the stable version.
        is_current = role.version is not None and role.version.app == current.canary
        return (current.canary, 0) if is_current and situation.may_be_routed(current.canary) else (None, 0)
    if situation.may_be_routed(current.canary) and situation.answers(current.canary):
        return current.canary, current.weight
    return None, 0
