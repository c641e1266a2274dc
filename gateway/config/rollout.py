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
    """The canary's percent of calls, for how long at least, or until a person promotes."""

    model_config = ConfigDict(serialize_by_alias=True)

    weight: Annotated[int, Field(ge=0, le=100)]
    hold: Annotated[Seconds | None, Field(alias="for")] = None
    pause: bool = False
    mirror: Share | None = None
    match: tuple[dict[HeaderName, Annotated[str, Field(pattern=_HEADER_VALUE)]], ...] = ()

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
    """How often the canary must answer as the stable version does, on a mirrored share of its calls."""

    metric: Metric = Metric.AUTO
    min: Annotated[float, Field(ge=0, le=1)] | None = None
    max: Annotated[float, Field(gt=0, le=10)] | None = None
    mirror: Annotated[float, Field(gt=0, le=1)] = 0.1
    output: str = ""
    rtol: Annotated[float, Field(ge=0)] = 0.01
    atol: Annotated[float, Field(ge=0)] = 1e-4
    cosine: Annotated[float, Field(gt=0, le=1)] = 0.99

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
    """What the canary is held to at each step."""

    max_error_rate: Annotated[float, Field(gt=0, lt=1)] | None = 0.01
    max_latency_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    latency_quantile: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    min_requests: Annotated[int, Field(ge=0)] = 50
    agreement: Agreement | None = None

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
    """A dataset with known answers, which the canary must give before it gets any call."""

    dataset: str
    min: Share = 1.0
    target: str = ""
    output: str = ""
    metric: Metric = Metric.AUTO
    rtol: Annotated[float, Field(ge=0)] = 0.01
    atol: Annotated[float, Field(ge=0)] = 1e-4
    cosine: Annotated[float, Field(gt=0, le=1)] = 0.99

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
    """Keeps a caller on one version while weights only grow: by a header's value, or a cookie's."""

    header: HeaderName | None = None
    cookie: CookieName | None = None

    @model_validator(mode="after")
    def _one(self) -> Sticky:
        if (self.header is None) == (self.cookie is None):
            raise ValueError("write `header: NAME` or `cookie: NAME`")
        return self

    def plan(self) -> StickyPlan:
        """The rule as the rollout room takes it."""
        return StickyPlan((self.header or "").lower(), self.cookie or "")


class Rollout(Strict):
    """How another kit takes over."""

    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=64)]
    checks: Checks = Checks()
    golden: Golden | None = None
    allow_signature_change: bool = False
    sticky: Sticky | None = None
    progress_deadline: Seconds = 600.0
    scale_down_delay: Seconds = 30.0
    max_restarts: Annotated[int, Field(ge=0)] = 2

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
