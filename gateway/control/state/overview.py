"""What the gateway can tell of its models now: status, numbers and descriptions, for who only reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from gateway.contract import AppName, Description, WorkerState
from gateway.control.state.database import State
from gateway.control.state.descriptions import Descriptions
from gateway.control.state.rollout_status import RolloutStatus
from gateway.control.state.status import ModelState, ModelStatus, Status
from gateway.control.state.workers import AppNumbers, Workers
from gateway.edge.edge import Edge
from gateway.errors import StoreError
from gateway.metrics.edge_numbers import EdgeNumbers
from gateway.metrics.exposition import Scrape
from gateway.metrics.memory import resident_bytes
from gateway.metrics.rollouts import RolloutSample
from gateway.metrics.system import ModelSample, PayloadNumbers, SpanNumbers, SystemSample
from gateway.metrics.versions import VersionLabels, VersionSample
from gateway.rollout.state import Phase
from gateway.rollout.trial import UNITS
from gateway.rollout.verdict import Outcome

# Of versions that are gone, too.
_MAX_LABELS = 4000


class Overview(Protocol):
    """What the admin API and the front read; safe to use from several threads."""

    @property
    def status(self) -> Status:
        """All models, as of the last tick of the reconcile loop."""

    def version_samples(self) -> Iterable[VersionSample]:
        """The numbers of each version that workers report."""

    def numbers(self) -> Mapping[AppName, AppNumbers]:
        """What the workers of each version counted, and do and have now."""

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
        edge: Edge,
        payloads: Callable[[], Mapping[str, PayloadNumbers]] = dict,
    ) -> None:
        self._loop = loop
        self._state = state
        self._workers = workers
        self._descriptions = descriptions
        self._held_calls = held_calls
        self._edge = edge
        self._payloads = payloads
        self._span_numbers: Callable[[], SpanNumbers] | None = None
        # Of apps that are forgotten too: another app may go on under their labels, and must not begin at 0.
        self._labels: dict[AppName, VersionLabels] = {}

    def count_spans(self, numbers: Callable[[], SpanNumbers]) -> None:
        """Have told what became of spans."""
        self._span_numbers = numbers

    @property
    def status(self) -> Status:
        return self._loop.status

    def description(self, app: AppName) -> Description | None:
        return self._descriptions.of(app)

    def numbers(self) -> Mapping[AppName, AppNumbers]:
        return self._workers.numbers()

    def scrape(self) -> Scrape:
        """Return all that Prometheus reads."""
        edge = self._edge.statistics()
        models = tuple(_model_sample(model) for model in self.status.models)
        names = [model.model for model in models]
        # From the start, so that the first increase is seen as one; and no model that is removed.
        unavailable = {name: edge.whole.unavailable.get(name, 0) for name in names}
        system = SystemSample(
            models,
            replace(edge.whole, unavailable=unavailable),
            {"gateway": resident_bytes(), "edge": edge.memory_bytes},
            self._payloads(),
            None if self._span_numbers is None else self._span_numbers(),
        )
        return Scrape(self._version_samples(edge.versions), system)

    def version_samples(self) -> Iterator[VersionSample]:
        return self._samples({})

    def _version_samples(self, edge_numbers: Mapping[str, EdgeNumbers]) -> tuple[VersionSample, ...]:
        try:
            return tuple(self._samples(edge_numbers))
        except StoreError:
            # The rest of a scrape is wanted most when the state cannot be read.
            return ()

    def _samples(self, edge_numbers: Mapping[str, EdgeNumbers]) -> Iterator[VersionSample]:
        """Yield a sample for each version that is known and called, those of equal labels added up."""
        numbers = self._workers.numbers()
        weights = self._weights()
        waiting = self._held_calls.waiting()
        samples: dict[VersionLabels, VersionSample] = {}
        shown: set[VersionLabels] = set()
        versions = self._state.versions()
        apps = dict.fromkeys(map(AppName, (*numbers, *weights, *edge_numbers)))
        if len(self._labels) > _MAX_LABELS:
            self._labels = {app: labels for app, labels in self._labels.items() if app in apps}
        for app in apps:
            app_numbers = numbers.get(app, AppNumbers())
            version = versions.get(app)
            if version is not None:
                names = version.model, version.label, version.digest.short
                self._labels[app] = VersionLabels(*names, self._runtime(app, app_numbers))
            labels = self._labels.get(app)
            if labels is None:
                continue
            if version is not None:
                shown.add(labels)
            sample = VersionSample(
                labels,
                app_numbers.numbers,
                app_numbers.ongoing,
                {WorkerState.READY.value: 0, **app_numbers.replicas},
                weights.get(app, {}),
                queued=app_numbers.queued,
                generating=app_numbers.generating,
                kv_cache_usage=app_numbers.kv_cache_usage,
                held=waiting.get(app, 0),
                edge=edge_numbers.get(app, EdgeNumbers()),
                restarts=app_numbers.restarts,
                memory_bytes=app_numbers.memory_bytes,
                memory_limit_bytes=None if version is None else version.serving.resources.memory,
                uncontained=app_numbers.uncontained,
                gpu_memory_bytes=app_numbers.gpu_memory_bytes,
            )
            earlier = samples.get(labels)
            samples[labels] = sample if earlier is None else earlier.plus(sample)
        return (sample for labels, sample in samples.items() if labels in shown)

    def _runtime(self, app: AppName, numbers: AppNumbers) -> str:
        """Return the runtime of an app; the last one known, while none of its workers says it."""
        labels = self._labels.get(app)
        return numbers.runtime or ("" if labels is None else labels.runtime)

    def _weights(self) -> dict[AppName, dict[str, int]]:
        """Return by app, and then by role, the percent of the calls that name no version."""
        weights: dict[AppName, dict[str, int]] = {}
        for route in self._state.routes().values():
            if route.stable is not None:
                weights[route.stable] = {"stable": route.stable_weight}
            if route.canary is not None:
                weights[route.canary] = {"canary": route.weight}
        return weights


def _model_sample(model: ModelStatus) -> ModelSample:
    states = {state.value: state is model.state for state in ModelState}
    rollout = None if model.rollout is None else _rollout_sample(model.rollout)
    return ModelSample(model.name, states, rollout, 0 if model.retry is None else model.retry.tries)


def _rollout_sample(rollout: RolloutStatus) -> RolloutSample:
    return RolloutSample(
        phases={phase.value: phase.value == rollout.phase for phase in Phase},
        reason=rollout.reason,
        number=rollout.number,
        step=rollout.step,
        steps=len(rollout.steps),
        held_seconds=rollout.held,
        mirrored_ratio=rollout.mirror,
        verdicts={
            verdict.check: {outcome.value: outcome is verdict.outcome for outcome in Outcome}
            for verdict in rollout.verdicts
        },
        units={
            verdict.check: {unit: verdict.numbers[unit] for unit in UNITS if unit in verdict.numbers}
            for verdict in rollout.verdicts
        },
    )
