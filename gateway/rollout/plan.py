"""What a rollout is to do: steps, checks and gates, as plain values. The defaults of a config stand here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Metric(StrEnum):
    """How two answers to one call are compared; see `agreement`."""

    AUTO = "auto"
    LABEL = "label"
    TOLERANCE = "tolerance"
    COSINE = "cosine"
    PSI = "psi"


@dataclass(frozen=True, slots=True)
class Match:
    """Calls with this header (in lower case) go to the canary; `value` "" is any value."""

    header: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the canary's share of calls in percent, and how long it has it at least, in seconds.

    `pause` holds until a person promotes. `mirror` is the share of the stable version's calls that the
    canary answers too, unseen by callers; None is the agreement check's own.
    """

    weight: int
    hold: float = 0.0
    pause: bool = False
    mirror: float | None = None
    match: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRules:
    """When two answers agree: by `metric` in `output`, within the bounds of the metric."""

    metric: Metric = Metric.AUTO
    output: str = ""
    """The output that is compared; "" leaves it to be found."""
    rtol: float = 0.01
    """How far a number may be off, as a share of the number that is expected."""
    atol: float = 1e-4
    """How far a number may be off besides, whatever its size."""
    cosine: float = 0.99
    """How large the cosine of two vectors is at least."""


@dataclass(frozen=True, slots=True)
class Agreement(ComparisonRules):
    """How often the canary must answer as the stable version does."""

    min: float = 0.95
    """The share of answers that must agree; not for PSI."""
    max: float = 0.2
    """How large the population stability index may be; for PSI alone."""
    mirror: float = 0.1
    """The share of the stable version's calls that is compared."""


@dataclass(frozen=True, slots=True)
class AnswerChecks:
    """What the canary of a language model is held to on mirrored calls; see `answers` and `pair_checks`."""

    max_faults: float = 0.03
    """The share of the calls, at most, that the canary may answer worse than the stable version does."""
    max_shift: float = 0.1
    """The same of what two samples of one version differ in too: where answers end, how long they are, and
    whether they call functions."""
    max_length_ratio: float = 2.0
    """An answer with more than so many times the other one's tokens is much longer."""
    max_loss: float | None = None
    """How much less likely the canary may find the stable version's answers, in nats per token."""
    min_pairs: int = 50
    mirror: float = 0.2
    """The share of the stable version's calls that is compared."""
    skip: tuple[str, ...] = ()
    """Checks that are not made, by the words of `answers.Fault`."""


@dataclass(frozen=True, slots=True)
class Checks:
    """What the canary is held to at each step; a check that is None is not made.

    `max_error_rate` is the share of calls that the canary may fail (5xx) beyond what the stable version
    fails at the same time. `max_latency_ratio` bounds the canary's latency quantile by the stable version's.
    """

    max_error_rate: float | None = 0.01
    max_latency_ratio: float | None = None
    latency_quantile: float = 0.95
    min_requests: int = 50
    agreement: Agreement | None = None
    """Of models that give tensors."""
    answers: AnswerChecks | None = AnswerChecks()
    """Of models that generate text; so are the two below, in which the quantile is that of latencies."""
    max_first_token_ratio: float | None = None
    """Bounds the time to the first token by the stable version's."""
    max_token_time_ratio: float | None = None
    """Bounds the time of each further token, the inverse of tokens per second, by the stable version's."""


@dataclass(frozen=True, slots=True)
class Golden(ComparisonRules):
    """A dataset whose answers are known."""

    dataset: str
    """Its name or path in the kit."""
    min: float = 1.0
    """The share of rows whose answer must agree with the expected one."""
    target: str = ""
    """The column of a CSV file that holds what is expected of `output`; "" leaves it to be found."""


@dataclass(frozen=True, slots=True)
class Sticky:
    """What keeps a caller on one version: the value of a header, or of a cookie."""

    header: str = ""
    cookie: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole rollout. Durations in seconds."""

    steps: tuple[Step, ...] = (Step(100),)
    checks: Checks = Checks()
    golden: Golden | None = None
    allow_signature_change: bool = False
    sticky: Sticky | None = None
    progress_deadline: float = 600.0
    """How long the canary may take to be ready, and a step beyond its hold to find enough evidence."""
    scale_down_delay: float = 30.0
    """How long the version that lost keeps its workers."""
    max_restarts: int = 2
    """How often the canary's workers may die before it is given up."""
    warmup: float | None = None
    """How long each of the canary's workers is judged by gross failure alone; None is not at all for those
    that the rollout begins with, and 10 s for those that come later."""

    def mirror(self, step: int, is_text: bool = False) -> float:
        """The share of calls that is mirrored at a step; `is_text` tells that the model generates text."""
        share = self.steps[step].mirror
        if share is not None:
            return share
        check = self.checks.answers if is_text else self.checks.agreement
        return check.mirror if check else 0.0
