"""What a user writes about rollouts: steps, and who comes to the canary. What judges it is in `checks`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from gateway.config.checks import Checks, Golden, Share
from gateway.config.kits import Seconds, Strict, fault, read_seconds
from gateway.rollout import plan as plans


def _like(pattern: str, expected: str) -> AfterValidator:
    """Return a validator of text that matches a pattern; else the fault says what is expected."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is not {expected}")
        return value

    return AfterValidator(check)


HeaderName = Annotated[
    str, _like("[A-Za-z0-9-]{1,64}", "the name of a header: letters, digits and '-', at most 64")
]
CookieName = Annotated[
    str, _like("[A-Za-z0-9_.-]{1,64}", "the name of a cookie: letters, digits, '_', '.' and '-', at most 64")
]
HeaderValue = Annotated[
    str,
    _like(
        "[A-Za-z0-9 _.,:;/@=+*-]{0,128}",
        "a header's value that can be matched: letters, digits, spaces and _.,:;/@=+*-, at most 128",
    ),
]
# The defaults stand in the plan, once.
_STEP = plans.Step(weight=0)
_PLAN = plans.Plan()


class Step(Strict):
    """One step of a rollout: which calls the canary gets, and for how long."""

    model_config = ConfigDict(serialize_by_alias=True)

    weight: Annotated[int, Field(ge=0, le=100)]
    """How many percent of the calls that name no version go to the canary; never less than before."""
    hold: Annotated[Seconds | None, Field(alias="for")] = None
    """How long the step lasts at least; absent, only until its checks are Successful."""
    pause: bool = _STEP.pause
    """Whether the step lasts until a person promotes; then without `for`."""
    mirror: Share | None = _STEP.mirror
    """Which share of the stable version's calls the canary answers too, unseen by callers; absent, the share
    in `checks.agreement`, or of a language model in `checks.answers`."""
    match: tuple[dict[HeaderName, HeaderValue], ...] = ()
    """Headers that send a call to the canary whatever the weight: `{NAME: VALUE}`, with `""` for any value.
    One such mapping, or a list."""

    @field_validator("match", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        if isinstance(value, dict):
            return (value,)
        if not isinstance(value, list | tuple):
            raise fault("write {NAME: VALUE}, or a list of such mappings")
        return value

    @model_validator(mode="after")
    def _for_or_pause(self) -> Step:
        if self.pause and self.hold is not None:
            raise ValueError("write `for` or `pause: true`, not both")
        return self

    def plan(self) -> plans.Step:
        """Return the step as a rollout takes it."""
        match = tuple(
            plans.Match(header.lower(), value) for rule in self.match for header, value in rule.items()
        )
        hold = _STEP.hold if self.hold is None else self.hold
        return plans.Step(self.weight, hold, self.pause, self.mirror, match)


class Sticky(Strict):
    """What keeps a caller on one version while weights grow: the value of a header, or of a cookie."""

    header: HeaderName | None = None
    """The header's name; not together with `cookie`."""
    cookie: CookieName | None = None
    """The cookie's name; not together with `header`."""

    @model_validator(mode="after")
    def _header_or_cookie(self) -> Sticky:
        if (self.header is None) == (self.cookie is None):
            raise ValueError("write `header: NAME` or `cookie: NAME`")
        return self

    def plan(self) -> plans.Sticky:
        """Return the rule as a rollout takes it."""
        return plans.Sticky((self.header or "").lower(), self.cookie or "")


class Rollout(Strict):
    """How another kit takes over: as a canary, step by step, and only while its checks hold."""

    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=64)] = ()
    """The steps, from 1 to 64. After the last one the canary becomes the stable version."""
    surge: Annotated[int, Field(ge=0, le=1)] = 1
    """How many versions run beside the stable one. With 0, which has no steps, the version that there is ends
    before the next one loads, as where a GPU has no room for both; until that is ready, nothing answers."""
    checks: Checks = Checks()
    """What the canary is judged by at each step."""
    golden: Golden | None = None
    """A dataset that the canary must answer rightly before it gets any call."""
    allow_signature_change: bool = _PLAN.allow_signature_change
    """Whether the canary may refuse inputs that the stable version takes, or lack outputs that it gives."""
    sticky: Sticky | None = None
    """What keeps a caller on one version while weights grow; absent, each call is left to chance."""
    progress_deadline: Seconds = _PLAN.progress_deadline
    """How long the canary may take to be ready, then to pass its gates, and each step beyond its `for` to
    find enough evidence."""
    scale_down_delay: Seconds = _PLAN.scale_down_delay
    """How long the version that lost keeps its workers."""
    warmup: Annotated[float, BeforeValidator(read_seconds), Field(ge=0)] | None = _PLAN.warmup
    """How long each worker of the canary is stopped only by gross failure, from its first call on: where it
    fails more than half of its calls, or takes three times as long as the limit allows. Absent, not at all
    for the workers that a rollout begins with, and 10 s for those that come later, say after a restart."""
    max_restarts: Annotated[int, Field(ge=0)] = _PLAN.max_restarts
    """How many times workers of the canary may die; one more ends the rollout: weight 0, phase Degraded."""

    @field_validator("steps")
    @classmethod
    def _growing(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        weights = [step.weight for step in steps]
        if weights != sorted(weights):
            raise ValueError(f"weights only grow from step to step, not {weights}")
        return steps

    @model_validator(mode="after")
    def _steps_or_swap(self) -> Rollout:
        if self.surge and not self.steps:
            raise ValueError("`steps` is missing, and must be written")
        others = {name for name in self.model_fields_set - {"surge"} if self._is_changed(name)}
        if not self.surge and others:
            raise ValueError(
                f"with `surge: 0`, no version is tried beside another; leave out `{min(others)}`"
            )
        return self

    def _is_changed(self, name: str) -> bool:
        """Tell whether a field says something else than its default, as which a gateway writes it."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    @model_serializer(mode="wrap")
    def _without_empty_steps(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out steps where there are none: a config that is sent to a gateway is read again."""
        return {name: value for name, value in write(self).items() if name != "steps" or self.steps}

    def plan(self) -> plans.Plan:
        """Return all of it as a rollout takes it."""
        return plans.Plan(
            steps=tuple(step.plan() for step in self.steps),
            checks=self.checks.plan(),
            golden=None if self.golden is None else self.golden.plan(),
            allow_signature_change=self.allow_signature_change,
            sticky=None if self.sticky is None else self.sticky.plan(),
            progress_deadline=self.progress_deadline,
            scale_down_delay=self.scale_down_delay,
            max_restarts=self.max_restarts,
            warmup=self.warmup,
        )
