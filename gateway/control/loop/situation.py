"""What one tick decides by: what is remembered, what is observed, and what follows from both. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.contract import Announcement, AppName
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import DesiredModel
from gateway.control.state.snapshot import Observed, Recorded, version_for
from gateway.control.state.versions import Version
from gateway.control.state.workers import ready_workers
from gateway.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a tick knows; nothing of it changes while the tick decides."""

    recorded: Recorded
    observed: Observed
    _workers: Mapping[AppName, Sequence[Announcement]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        workers: dict[AppName, list[Announcement]] = {}
        for worker in self.observed.workers:
            workers.setdefault(worker.app, []).append(worker)
        object.__setattr__(self, "_workers", workers)

    def with_versions(self, versions: Mapping[AppName, Version]) -> Situation:
        """Return the situation in which these versions are known too."""
        recorded = replace(self.recorded, versions={**self.recorded.versions, **versions})
        return Situation(recorded, self.observed)

    def route(self, model: str) -> AppRoute:
        """Return where a model's calls go now."""
        return self.recorded.routes.get(model, AppRoute())

    def version_for(self, model: DesiredModel, kit: Reference) -> Version | None:
        """Return the version that a kit's reference means for a model; None before it is resolved."""
        return version_for(model, kit, self.recorded)

    def failure(self, version: Version) -> str | None:
        """Return why a version, or an equal one before it, was given up; None where none was."""
        return self.recorded.failures.get(version.kind)

    def may_be_routed(self, app: AppName | None) -> bool:
        """Tell whether an app is known, and is not being removed."""
        return app in self.recorded.versions and app not in self.recorded.condemned

    def may_run(self, version: Version) -> bool:
        """Tell whether a version is neither being removed nor given up."""
        return version.app not in self.recorded.condemned and self.failure(version) is None

    def must_wait(self, version: Version) -> bool:
        """Tell whether another version of the model must be gone first, as there is room for one alone."""
        model = self.recorded.desired.model(version.model)
        if model is None or model.surge or version.app in self.observed.apps:
            return False
        stable = self.route(version.model).stable
        if stable != version.app and self.may_be_routed(stable):
            # Also where nothing runs, as after a start: else both would load at once.
            return True
        return any(
            other.model == version.model and app != version.app
            for app, other in self.recorded.versions.items()
            if app in self.observed.apps
        )

    def workers(self, app: AppName) -> Sequence[Announcement]:
        """Return an app's workers, whatever their state."""
        return self._workers.get(app, ())

    def ready_workers(self, app: AppName) -> list[Announcement]:
        """Return an app's workers that take calls."""
        return ready_workers(self.workers(app))

    def answers(self, app: AppName | None) -> bool:
        """Tell whether a call to an app is answered, if only after it woke."""
        if app is None or app not in self.recorded.versions:
            return False
        return bool(self.ready_workers(app)) or self.can_be_woken(self.recorded.versions[app])

    def can_be_woken(self, version: Version) -> bool:
        """Tell whether a version answers also while it has no worker: the next call wakes it."""
        return self.observed.can_be_woken(version)


def routed_apps(routes: Iterable[AppRoute]) -> set[AppName]:
    """Return the apps that routes give calls to."""
    return {app for route in routes for app in (route.stable, route.canary) if app is not None}
