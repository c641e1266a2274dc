"""What the gateway can tell of its models now: status, numbers and descriptions, for who only reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from gateway.contract import AppName, Description, WorkerState
from gateway.control.state.database import State
from gateway.control.state.descriptions import Descriptions
from gateway.control.state.status import Status
from gateway.control.state.workers import AppNumbers, Workers
from gateway.metrics.exposition import VersionLabels, VersionSample


class Overview(Protocol):
    """What the admin API and the front read; safe to use from several threads."""

    @property
    def status(self) -> Status:
        """All models, as of the last tick of the reconcile loop."""

    def version_samples(self) -> Iterable[VersionSample]:
        """The numbers of each version, for metrics and statistics."""

    def description(self, app: AppName) -> Description | None:
        """What a version's model takes and gives; None before it was ready for the first time."""


class StatusSource(Protocol):
    """What works out the status: the reconcile loop."""

    status: Status


class HeldCalls(Protocol):
    """What holds calls for versions that sleep: the activator."""

    def waiting(self) -> Mapping[AppName, int]:
        """How many calls wait for each app."""


class GatewayOverview:
    """The overview of a running gateway; see `Overview`."""

    def __init__(
        self,
        loop: StatusSource,
        state: State,
        workers: Workers,
        descriptions: Descriptions,
        held_calls: HeldCalls,
    ) -> None:
        self._loop = loop
        self._state = state
        self._workers = workers
        self._descriptions = descriptions
        self._held_calls = held_calls

    @property
    def status(self) -> Status:
        return self._loop.status

    def description(self, app: AppName) -> Description | None:
        return self._descriptions.of(app)

    def version_samples(self) -> Iterator[VersionSample]:
        versions = self._state.versions()
        weights = self._weights()
        waiting = self._held_calls.waiting()
        numbers = self._workers.numbers()
        for app in dict.fromkeys((*numbers, *weights)):
            version = versions.get(app)
            if version is None:
                continue
            app_numbers = numbers.get(app, AppNumbers())
            yield VersionSample(
                VersionLabels(version.model, version.label, version.digest.short, app_numbers.runtime),
                app_numbers.numbers,
                app_numbers.ongoing,
                {WorkerState.READY.value: 0, **app_numbers.replicas},
                weights.get(app, {}),
                queued=app_numbers.queued,
                held=waiting.get(app, 0),
            )

    def _weights(self) -> dict[AppName, dict[str, int]]:
        """Return by app, and then by role, the percent of the calls that name no version."""
        weights: dict[AppName, dict[str, int]] = {}
        for route in self._state.routes().values():
            if route.stable is not None:
                weights[route.stable] = {"stable": route.stable_weight}
            if route.canary is not None:
                weights[route.canary] = {"canary": route.weight}
        return weights
