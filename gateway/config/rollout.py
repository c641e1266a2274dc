"""What a user writes about rollouts: steps, checks and gates."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from gateway.config.kits import Seconds, Strict
from gateway.rollout.plan import Agreement as AgreementPlan
from gateway.rollout.plan import Checks as ChecksPlan
from gateway.rollout.plan import Golden as GoldenPlan
from gateway.rollout.plan import Match, Metric, Plan
from gateway.rollout.plan import Step as StepPlan
from gateway.rollout.plan import Sticky as StickyPlan

Share = Annotated[float, Field(ge=0, le=1)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
CookieName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_HEADER_VALUE = r"^[A-Za-z0-9 _.,:;/@=+*-]{0,128}$"


class Step(Strict):
    """One step of a rollout: which calls the canary gets, and for how long."""

    model_config = ConfigDict(serialize_by_alias=True)

    weight: Annotated[int, Field(ge=0, le=100)]
    """How many percent of the calls that name no version go to the canary; never less than before."""
    hold: Annotated[Seconds | None, Field(alias="for")] = None
    """How long the step lasts at least; absent, only until its checks are Successful."""
    pause: bool = False
    """Whether the step lasts until a person promotes; then without `for`."""
    mirror: Share | None = None
    """Which share of the stable version's calls the canary answers too, unseen by callers; absent, the share
    in `checks.agreement`."""
    match: tuple[dict[HeaderName, Annotated[str, Field(pattern=_HEADER_VALUE)]], ...] = ()
    """Headers that send a call to the canary whatever the weight: `{NAME: VALUE}`, with `""` for any value.
    One such mapping, or a list."""

    @field_validator("match", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return (value,) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _for_or_pause(self) -> Step:
        if self.pause and self.hold is not None:
            raise ValueError("write `for` or `pause: true`, not both")
        return self

    def plan(self) -> StepPlan:
        """The step as the rollout room takes it."""
        match = tuple(Match(header.lower(), value) for rule in self.match for header, value in rule.items())
        return StepPlan(self.weight, self.hold or 0.0, self.pause, self.mirror, match)


class Agreement(Strict):
    """How often the canary must answer as the stable version does, on mirrored calls."""

    metric: Metric = Metric.AUTO
    """How two answers are compared; `auto` chooses by what an output holds."""
    min: Annotated[float, Field(ge=0, le=1)] | None = None
    """Which share of the answers must agree; absent, 0.95. Not with `psi`."""
    max: Annotated[float, Field(gt=0, le=10)] | None = None
    """How large the population stability index may be; absent, 0.2. Only with `psi`."""
    mirror: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Which share of the stable version's calls the canary answers too, in steps that do not say it."""
    output: str = ""
    """The output that is compared; `""` for the labels, or for all outputs where none are labels."""
    rtol: Annotated[float, Field(ge=0)] = 0.01
    """How far a number may be off, as a share of the stable version's number."""
    atol: Annotated[float, Field(ge=0)] = 1e-4
    """How far a number may be off besides, whatever its size."""
    cosine: Annotated[float, Field(gt=0, le=1)] = 0.99
    """How large the cosine of two vectors must be."""

    @model_validator(mode="after")
    def _bound_of_its_metric(self) -> Agreement:
        if self.metric is Metric.PSI and self.min is not None:
            raise ValueError("the population stability index has a `max` (0.2 is usual), no `min`")
        if self.metric is not Metric.PSI and self.max is not None:
            raise ValueError("`max` is for `metric: psi`; write `min`, the share of answers that must agree")
        return self

    def plan(self) -> AgreementPlan:
        """The check as the rollout room takes it."""
        if self.metric is Metric.PSI:
            least = 0.2 if self.max is None else self.max
        else:
            least = 0.95 if self.min is None else self.min
        return AgreementPlan(self.metric, least, self.mirror, self.output, self.rtol, self.atol, self.cosine)


class Checks(Strict):
    """What the canary is judged by at each step."""

    max_error_rate: Annotated[float, Field(gt=0, lt=1)] | None = 0.01
    """Which share of its calls the canary may fail (5xx) beyond the stable version's share; `null` for no
    such check."""
    max_latency_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    """How many times the stable version's latency the canary may need; absent, no such check."""
    latency_quantile: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """Which quantile of the latencies is compared."""
    min_requests: Annotated[int, Field(ge=0)] = 50
    """How many calls the canary must have answered before a step ends."""
    agreement: Agreement | None = None
    """How often its answers must agree with the stable version's; absent, no such check."""

    def plan(self) -> ChecksPlan:
        """The checks as the rollout room takes them."""
        return ChecksPlan(
            self.max_error_rate,
            self.max_latency_ratio,
            self.latency_quantile,
            self.min_requests,
            None if self.agreement is None else self.agreement.plan(),
        )


class Golden(Strict):
    """A dataset of the kit whose answers are known: the canary must give them before it gets any call.

    A plain name is short for `{dataset: NAME}`.
    """

    dataset: str
    """The dataset's name in the Kitfile, or its path."""
    min: Share = 1.0
    """Which share of the rows must be answered as expected."""
    target: str = ""
    """The column of a CSV file that holds what is expected; `""` for the last one."""
    output: str = ""
    """The output that a CSV file's column is compared with; `""` for the one with the column's name, else the
    labels, else the only one."""
    metric: Metric = Metric.AUTO
    """How an answer is compared with what is expected; not `psi`, which is not for single rows."""
    rtol: Annotated[float, Field(ge=0)] = 0.01
    """How far a number may be off, as a share of the expected number."""
    atol: Annotated[float, Field(ge=0)] = 1e-4
    """How far a number may be off besides, whatever its size."""
    cosine: Annotated[float, Field(gt=0, le=1)] = 0.99
    """How large the cosine of two vectors must be."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"dataset": value} if isinstance(value, str) else value

    @field_validator("metric")
    @classmethod
    def _row_by_row(cls, value: Metric) -> Metric:
        if value is Metric.PSI:
            raise ValueError("a golden dataset is compared row by row: label, tolerance or cosine")
        return value

    def plan(self) -> GoldenPlan:
        """The gate as the rollout room takes it."""
        return GoldenPlan(
            self.dataset,
            self.min,
            self.target,
            self.output,
            self.metric,
            self.rtol,
            self.atol,
            self.cosine,
        )


class Sticky(Strict):
    """What keeps a caller on one version while weights grow: the value of a header, or of a cookie."""

    header: HeaderName | None = None
    """The header's name; not together with `cookie`."""
    cookie: CookieName | None = None
    """The cookie's name; not together with `header`."""

    @model_validator(mode="after")
    def _one(self) -> Sticky:
        if (self.header is None) == (self.cookie is None):
            raise ValueError("write `header: NAME` or `cookie: NAME`")
        return self

    def plan(self) -> StickyPlan:
        """The rule as the rollout room takes it."""
        return StickyPlan((self.header or "").lower(), self.cookie or "")


class Rollout(Strict):
    """How another kit takes over: as a canary, step by step, and only while its checks hold."""

    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=64)]
    """The steps, from 1 to 64. After the last one the canary becomes the stable version."""
    checks: Checks = Checks()
    """What the canary is judged by at each step."""
    golden: Golden | None = None
    """A dataset that the canary must answer rightly before it gets any call."""
    allow_signature_change: bool = False
    """Whether the canary may refuse inputs that the stable version takes, or lack outputs that it gives."""
    sticky: Sticky | None = None
    """What keeps a caller on one version while weights grow; absent, each call is left to chance."""
    progress_deadline: Seconds = 600.0
    """How long the canary may take to be ready, then to pass its gates, and each step beyond its `for` to
    find enough evidence."""
    scale_down_delay: Seconds = 30.0
    """How long the version that lost keeps its workers."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """How many times workers of the canary may die before the rollout is aborted."""

    @field_validator("steps")
    @classmethod
    def _growing(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        weights = [step.weight for step in steps]
        if weights != sorted(weights):
            raise ValueError(f"weights only grow from step to step, not {weights}")
        return steps

    def plan(self) -> Plan:
        """The rollout as the rollout room takes it."""
        return Plan(
            steps=tuple(step.plan() for step in self.steps),
            checks=self.checks.plan(),
            golden=None if self.golden is None else self.golden.plan(),
            allow_signature_change=self.allow_signature_change,
            sticky=None if self.sticky is None else self.sticky.plan(),
            progress_deadline=self.progress_deadline,
            scale_down_delay=self.scale_down_delay,
            max_restarts=self.max_restarts,
        )


FIELDS: dict[str, Any] = {
    "rollout": Rollout,
    "steps": Step,
    "checks": Checks,
    "agreement": Agreement,
    "golden": Golden,
    "sticky": Sticky,
}
"""The models by the field that leads to them, for advice on unknown fields."""
