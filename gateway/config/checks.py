"""What a user writes about what a canary is judged by: the limits of checks, and a golden dataset."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.config.kits import Strict, fault
from gateway.metrics.pairs import MAX_LOSS
from gateway.rollout import plan as plans
from gateway.rollout.answers import Fault
from gateway.rollout.plan import Metric

Share = Annotated[float, Field(ge=0, le=1)]
# The defaults stand in the plan, once.
_AGREEMENT = plans.Agreement()
_ANSWERS = plans.AnswerChecks()
_CHECKS = plans.Checks()
_GOLDEN = plans.Golden(dataset="")


class Agreement(Strict):
    """How often the canary must answer as the stable version does, on mirrored calls."""

    metric: Metric = _AGREEMENT.metric
    """How two answers are compared; `auto` chooses by what an output holds."""
    min: Share = _AGREEMENT.min
    """Which share of the answers must agree. Not with `psi`."""
    max: Annotated[float, Field(gt=0, le=10)] = _AGREEMENT.max
    """How large the population stability index may be. Only with `psi`."""
    mirror: Annotated[float, Field(gt=0, le=1)] = _AGREEMENT.mirror
    """Which share of the stable version's calls the canary answers too, in steps that do not say it."""
    output: str = _AGREEMENT.output
    """The output that is compared; `""` for the labels, or for all outputs where none are labels."""
    rtol: Annotated[float, Field(ge=0)] = _AGREEMENT.rtol
    """How far a number may be off, as a share of the stable version's number."""
    atol: Annotated[float, Field(ge=0)] = _AGREEMENT.atol
    """How far a number may be off besides, whatever its size."""
    cosine: Annotated[float, Field(gt=0, le=1)] = _AGREEMENT.cosine
    """How large the cosine of two vectors must be."""

    @field_validator("min", "max", mode="before")
    @classmethod
    def _absent(cls, bound: object, field: ValidationInfo) -> object:
        """Take `null` for a bound that is not written, as earlier releases wrote it."""
        return getattr(_AGREEMENT, str(field.field_name)) if bound is None else bound

    @model_validator(mode="after")
    def _bound_of_its_metric(self) -> Agreement:
        if self.metric is Metric.PSI and self.min != _AGREEMENT.min:
            raise ValueError("the population stability index has a `max` (0.2 is usual), no `min`")
        if self.metric is not Metric.PSI and self.max != _AGREEMENT.max:
            raise ValueError("`max` is for `metric: psi`; write `min`, the share of answers that must agree")
        return self

    def plan(self) -> plans.Agreement:
        """Return the check as a rollout takes it."""
        return plans.Agreement(
            min=self.min,
            max=self.max,
            mirror=self.mirror,
            metric=self.metric,
            output=self.output,
            rtol=self.rtol,
            atol=self.atol,
            cosine=self.cosine,
        )


class AnswerChecks(Strict):
    """What the canary of a language model is judged by on mirrored calls: the faults of its answers."""

    max_faults: Annotated[float, Field(gt=0, lt=1)] = _ANSWERS.max_faults
    """Which share of the calls the canary may answer worse than the stable version does: with an error, with
    nothing, with repetitions, or not in the form that was asked for."""
    max_shift: Annotated[float, Field(gt=0, lt=1)] = _ANSWERS.max_shift
    """The same of what two samples of one version differ in, too: answers that are cut off, that are much
    longer or shorter, or that call functions."""
    max_length_ratio: Annotated[float, Field(gt=1, le=100)] = _ANSWERS.max_length_ratio
    """An answer with more than so many times the other one's tokens is much longer."""
    max_loss: Annotated[float, Field(gt=0, lt=MAX_LOSS)] | None = _ANSWERS.max_loss
    """How much less likely the canary may find the stable version's answers, in nats per token (0.1 is
    a usual limit for the same model in another form), which both engines must be able to tell; absent, no
    such check."""
    min_pairs: Annotated[int, Field(ge=0)] = _ANSWERS.min_pairs
    """How many calls must be mirrored before a check is Successful."""
    mirror: Annotated[float, Field(gt=0, le=1)] = _ANSWERS.mirror
    """Which share of the stable version's calls the canary answers too, in steps that do not say it."""
    skip: tuple[Fault, ...] = ()
    """Checks that are not made."""

    def plan(self) -> plans.AnswerChecks:
        """Return the checks as a rollout takes them."""
        return plans.AnswerChecks(
            max_faults=self.max_faults,
            max_shift=self.max_shift,
            max_length_ratio=self.max_length_ratio,
            max_loss=self.max_loss,
            min_pairs=self.min_pairs,
            mirror=self.mirror,
            skip=tuple(fault.value for fault in self.skip),
        )


class Checks(Strict):
    """What the canary is judged by at each step."""

    max_error_rate: Annotated[float, Field(gt=0, lt=1)] | None = _CHECKS.max_error_rate
    """Which share of its calls the canary may fail (5xx) beyond the stable version's share; `null` for no
    such check."""
    max_latency_ratio: Annotated[float, Field(ge=1, le=1000)] | None = _CHECKS.max_latency_ratio
    """How many times the stable version's latency the canary may need; absent, no such check."""
    max_first_token_ratio: Annotated[float, Field(ge=1, le=1000)] | None = _CHECKS.max_first_token_ratio
    """How many times the stable version's time to the first token a language model's canary may need; absent,
    no such check."""
    max_token_time_ratio: Annotated[float, Field(ge=1, le=1000)] | None = _CHECKS.max_token_time_ratio
    """How many times the stable version's time for each further token it may need: 2 is half as many tokens
    per second; absent, no such check."""
    latency_quantile: Annotated[float, Field(ge=0.5, le=0.999)] = _CHECKS.latency_quantile
    """Which quantile of the latencies and of the times of tokens is compared."""
    min_requests: Annotated[int, Field(ge=0)] = _CHECKS.min_requests
    """How many calls the canary must have answered before a step ends."""
    agreement: Agreement | None = None
    """How often its answers must agree with the stable version's; absent, no such check. Not for language
    models."""
    answers: AnswerChecks | None = AnswerChecks()
    """What the answers of a language model are judged by; `null` for no such checks."""

    def plan(self) -> plans.Checks:
        """Return the checks as a rollout takes them."""
        return plans.Checks(
            max_error_rate=self.max_error_rate,
            max_latency_ratio=self.max_latency_ratio,
            max_first_token_ratio=self.max_first_token_ratio,
            max_token_time_ratio=self.max_token_time_ratio,
            latency_quantile=self.latency_quantile,
            min_requests=self.min_requests,
            agreement=None if self.agreement is None else self.agreement.plan(),
            answers=None if self.answers is None else self.answers.plan(),
        )


class Golden(Strict):
    """A dataset of the kit whose answers are known: the canary must give them before it gets any call.

    A plain name is short for `{dataset: NAME}`.
    """

    dataset: str
    """The dataset's name in the Kitfile, or its path."""
    min: Share = _GOLDEN.min
    """Which share of the rows must be answered as expected."""
    target: str = _GOLDEN.target
    """The column of a CSV file that holds what is expected; `""` for the last one."""
    output: str = _GOLDEN.output
    """The output that a CSV file's column is compared with; `""` for the one with the column's name, else the
    labels, else the only one."""
    metric: Metric = _GOLDEN.metric
    """How an answer is compared with what is expected; not `psi`, which is not for single rows."""
    rtol: Annotated[float, Field(ge=0)] = _GOLDEN.rtol
    """How far a number may be off, as a share of the expected number."""
    atol: Annotated[float, Field(ge=0)] = _GOLDEN.atol
    """How far a number may be off besides, whatever its size."""
    cosine: Annotated[float, Field(gt=0, le=1)] = _GOLDEN.cosine
    """How large the cosine of two vectors must be."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        if isinstance(value, dict | Golden):
            return value
        if not isinstance(value, str):
            raise fault("write a dataset's name, or {dataset: NAME}")
        return {"dataset": value}

    @field_validator("metric")
    @classmethod
    def _row_by_row(cls, value: Metric) -> Metric:
        if value is Metric.PSI:
            raise ValueError("a golden dataset is compared row by row: label, tolerance or cosine")
        return value

    def plan(self) -> plans.Golden:
        """Return the gate as a rollout takes it."""
        return plans.Golden(
            dataset=self.dataset,
            min=self.min,
            target=self.target,
            metric=self.metric,
            output=self.output,
            rtol=self.rtol,
            atol=self.atol,
            cosine=self.cosine,
        )
