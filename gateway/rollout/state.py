"""Where the rollout of one model is: the value that is saved, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.rollout.evidence import Evidence
from gateway.rollout.plan import Match, Plan
from gateway.rollout.trial import Trial
from gateway.rollout.verdict import Verdict

ALL_CALLS = 100
"""The weight that leaves the stable version no call."""


class Stage(StrEnum):
    """Where a rollout is."""

    HEALTHY = "healthy"
    LOADING = "loading"
    GATING = "gating"
    STEPPING = "stepping"
    PAUSED = "paused"
    DEGRADED = "degraded"


class Phase(StrEnum):
    """What people and scripts see of a stage; the words are Argo Rollouts'."""

    HEALTHY = "Healthy"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    DEGRADED = "Degraded"


class Reason(StrEnum):
    """Why a rollout is in its phase."""

    NONE = ""
    COMPLETED = "RolloutCompleted"
    SUPERSEDED = "RolloutSuperseded"
    CANARY_LOADING = "CanaryLoading"
    GATES_RUNNING = "GatesRunning"
    STEP_RUNNING = "StepRunning"
    PAUSE_STEP = "CanaryPauseStep"
    INCONCLUSIVE = "InconclusiveAnalysis"
    ANALYSIS_ERROR = "AnalysisError"
    CANARY_FAILED = "CanaryFailed"
    CANARY_LOST = "CanaryLost"
    SIGNATURE_CHANGED = "SignatureChanged"
    GOLDEN_FAILED = "GoldenDatasetFailed"
    ANALYSIS_FAILED = "AnalysisFailed"
    DEADLINE = "ProgressDeadlineExceeded"
    ABORTED = "RolloutAborted"
    STABLE_LOST = "StableLost"
    SWAPPING = "Swapping"
    SWAP_FAILED = "SwapFailed"
    SWAPPED_BACK = "SwappedBack"


_PHASES: Mapping[Stage, Phase] = {
    Stage.HEALTHY: Phase.HEALTHY,
    Stage.LOADING: Phase.PROGRESSING,
    Stage.GATING: Phase.PROGRESSING,
    Stage.STEPPING: Phase.PROGRESSING,
    Stage.PAUSED: Phase.PAUSED,
    Stage.DEGRADED: Phase.DEGRADED,
}
LIVE = (Stage.STEPPING, Stage.PAUSED)
ON_THE_WAY = (Stage.LOADING, Stage.GATING, *LIVE)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One model's rollout: all that is saved of it. Durations in seconds."""

    stable: str = ""
    """The revision that takes the calls; "" before the first."""
    canary: str = ""
    """The revision on trial, or the one that failed; "" where there is none."""
    declared: str = ""
    """The revision that the config asked for last; "" where that could not be resolved."""
    settings: str = ""
    """What else it asked for that needs other workers; "" where nobody knows."""
    previous: str = ""
    """The stable revision before the last promotion."""
    plan: Plan = field(default_factory=Plan)
    stage: Stage = Stage.HEALTHY
    reason: Reason = Reason.NONE
    message: str = ""
    number: int = 0
    """How many rollouts there have been."""
    step: int = 0
    rollback: bool = False
    """Whether this one returns to an earlier revision: without gates and steps."""
    clock: float = 0.0
    """What the caller's clock showed last."""
    held: float = 0.0
    """How long this stage or step has lasted, with its canary up."""
    down: float = 0.0
    """How long the canary has not been up, in this step."""
    restarts: int = 0
    workers: tuple[str, ...] = ()
    """The canary's workers that took calls at the last tick: one that is gone without a report has died."""
    evidence: Evidence = field(default_factory=Evidence)
    trial: Trial | None = None
    """What is known of this step in units that are independent; None where calls are counted alone."""
    canary_workers: Mapping[str, int] = field(default_factory=dict)
    """The first window of each of the canary's workers, in this rollout."""
    verdicts: tuple[Verdict, ...] = ()

    @property
    def phase(self) -> Phase:
        """What people and scripts see of the stage."""
        return _PHASES[self.stage]

    @property
    def weight(self) -> int:
        """The canary's percent of calls."""
        return self.plan.steps[self.step].weight if self.stage in LIVE else 0

    @property
    def mirror(self) -> float:
        """The share of the stable version's calls that the canary answers too, unseen by callers."""
        if self.stage not in LIVE or self.weight >= ALL_CALLS:
            return 0.0
        return self.plan.mirror(self.step, self.evidence.is_text)

    @property
    def match(self) -> tuple[Match, ...]:
        """The calls that go to the canary whatever its weight."""
        return self.plan.steps[self.step].match if self.stage in LIVE else ()

    @property
    def active_canary(self) -> str:
        """The revision that is on its way to be stable; "" without one."""
        return self.canary if self.stage in ON_THE_WAY else ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The revisions that must have workers; one that lost keeps them a little longer."""
        lingering = self.held < self.plan.scale_down_delay
        kept = {
            Stage.HEALTHY: self.previous if lingering else "",
            Stage.DEGRADED: self.canary if lingering and self.reason is not Reason.CANARY_FAILED else "",
        }.get(self.stage, self.canary)
        return tuple(dict.fromkeys(revision for revision in (self.stable, kept) if revision))
