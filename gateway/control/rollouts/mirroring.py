"""Which versions mirror their calls, to whom, and how the answers are compared. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.contract import AppName, Mirroring
from gateway.control.rollouts.observation import stable_and_canary
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.workers import ready_workers
from gateway.rollout.plan import Agreement, AnswerChecks
from gateway.rollout.state import Rollout


def mirroring_by_app(
    rollouts: Mapping[str, Rollout], recorded: Recorded, observed: Observed
) -> Mapping[AppName, Mirroring]:
    """Return what the workers of each app are to mirror; apps that mirror nothing are not in it."""
    mirroring: dict[AppName, Mirroring] = {}
    for name, rollout in rollouts.items():
        model = recorded.desired.model(name)
        versions = (
            stable_and_canary(model, rollout, recorded, observed)
            if model is not None and rollout.mirror
            else None
        )
        if versions is None:
            continue
        stable, canary = versions
        targets = tuple(
            sorted((worker.host, worker.port) for worker in ready_workers(observed.workers, canary.app))
        )
        if targets:
            checks = rollout.plan.checks
            mirroring[stable.app] = Mirroring(
                rollout.mirror, targets, checks.agreement or Agreement(), checks.answers or AnswerChecks()
            )
    return mirroring
