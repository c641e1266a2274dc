"""What the candidate's answers say of it: evidence, gathered pair by pair, for the judge of rollouts.

The recorded version is *stable*, and the candidate the *canary* at a step at which it answers all that is
recorded: as in a rollout, calls that fail count against it, and so do answers that differ from stable's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gateway.codec.tensor_documents import tensor_documents
from gateway.foreign_text import foreign_text
from gateway.metrics.counts import BUCKETS
from gateway.metrics.pairs import AnswerPairs
from gateway.metrics.tally import Tally
from gateway.payloads.record import Record
from gateway.replay.calls import OK, Reply
from gateway.rollout.agreement import compare
from gateway.rollout.analysis import judge
from gateway.rollout.answers import Answer, compare_answers, is_worse, read_wishes
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.plan import Agreement, AnswerChecks, Checks, Plan, Step
from gateway.rollout.verdict import Outcome, Verdict, unknown
from gateway.worker.mirror_text import read_generated

MAX_EXAMPLES = 5
_EXAMPLE_LENGTH = 300
_EXAMPLE_VALUES = 8
_ERROR = 500
# A step at which both versions answer, and all calls are compared.
_STEPS = (Step(50, mirror=1.0),)


@dataclass(slots=True)
class SideCounts:
    """Counts one version's calls."""

    calls: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    def add(self, reply: Reply) -> None:
        """Count a call; one that its caller did wrong is on neither side."""
        if reply.status != OK and reply.status < _ERROR:
            return
        self.calls += 1
        self.errors += reply.status != OK
        self.latency[bisect_left(BUCKETS, reply.seconds)] += 1

    def side(self) -> Side:
        """Return what the judge takes."""
        return Side(self.calls, self.errors, tuple(self.latency))


@dataclass(frozen=True, slots=True)
class Difference:
    """A call that the candidate answered otherwise, with the beginning of both answers."""

    request_id: str
    stable: str
    candidate: str


class Judgement:
    """Gathers what is known of the candidate; `is_timed` tells that stable's times are of the same moment."""

    def __init__(self, checks: Checks, is_text: bool, is_timed: bool) -> None:
        self._checks = checks
        self.is_text = is_text
        self._is_timed = is_timed
        self._agreement = checks.agreement or Agreement()
        self._answers = checks.answers or AnswerChecks()
        self._stable, self._canary = SideCounts(), SideCounts()
        self._tally = Tally()
        self.compared = 0
        self.not_compared: Counter[str] = Counter()
        """Calls whose answers could not be compared, by reason."""
        self.differing = 0
        self.differences: list[Difference] = []
        """The first calls that were answered otherwise."""
        self.trouble = ""
        """Why the measuring broke; "" while it did not."""

    def add(self, record: Record, stable: Reply | None, canary: Reply) -> None:
        """Count a call that both versions answered; `stable` is None where its answer is not known."""
        self._canary.add(canary)
        self._stable.add(stable or Reply(record.status, record.seconds))
        if stable is None:
            self.not_compared["no answer is recorded"] += 1
            return
        try:
            is_same = self._compare(record, stable, canary)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self.not_compared[f"an answer cannot be read ({type(error).__name__})"] += 1
            return
        self.compared += 1
        if not is_same:
            self.differing += 1
            if len(self.differences) < MAX_EXAMPLES:
                texts = _shown(stable), _shown(canary)
                self.differences.append(Difference(foreign_text(record.request_id), *texts))

    def verdicts(self) -> tuple[Verdict, ...]:
        """Judge what there is."""
        checks, left_out = self._checks, []
        if checks.max_latency_ratio is not None and not self._is_timed:
            checks = replace(checks, max_latency_ratio=None)
            message = "recorded times are of other load; with --against, both versions are timed alike"
            left_out.append(unknown("latency", message, {}))
        for check, limit in (
            ("first_token", checks.max_first_token_ratio),
            ("token_time", checks.max_token_time_ratio),
        ):
            if self.is_text and limit is not None:
                left_out.append(unknown(check, "a replay streams no answers, so it has no such times", {}))
        if self.is_text and self._answers.max_loss is not None:
            left_out.append(unknown("loss", "a replay has no likelihoods of answers", {}))
        answers = replace(self._answers, max_loss=None)
        plan = Plan(
            _STEPS,
            replace(
                checks,
                agreement=self._agreement,
                answers=answers,
                max_first_token_ratio=None,
                max_token_time_ratio=None,
            ),
        )
        return (*judge(plan, 0, self._evidence()), *left_out)

    def _evidence(self) -> Evidence:
        numbers = self._tally.numbers()
        return Evidence(
            self._stable.side(),
            self._canary.side(),
            numbers.mirrored,
            self.trouble,
            numbers.pairs if self.is_text else None,
        )

    def _compare(self, record: Record, stable: Reply, canary: Reply) -> bool:
        """Count a pair of answers; return whether they agree."""
        if self.is_text:
            pairs = self._compare_texts(record, stable, canary)
            self._tally.compared_answers(pairs, is_worse(pairs), failed=canary.status != OK)
            return not is_worse(pairs)
        if stable.tensors is None:
            # Nothing is asked of the candidate that stable could not do.
            return True
        if canary.tensors is None:
            self._tally.compared(0.0, True, {}, {})
            return False
        comparison = compare(stable.tensors, canary.tensors, self._agreement)
        self._tally.compared(comparison.agreeing, False, comparison.stable, comparison.canary)
        return comparison.agreeing == 1.0

    def _compare_texts(self, record: Record, stable: Reply, canary: Reply) -> AnswerPairs:
        wishes = read_wishes(record.request or {})
        ratio = self._answers.max_length_ratio
        return compare_answers(_answer(record, stable), _answer(record, canary), wishes, ratio)


def ended(reason: str) -> Verdict:
    """Return the verdict on a candidate whose process ended, or that could not be started."""
    return Verdict("candidate", Outcome.FAILED, reason)


def _answer(record: Record, reply: Reply) -> Answer | None:
    return None if reply.document is None else read_generated(record.path, reply.document)


def _shown(reply: Reply) -> str:
    """Return the beginning of an answer, for people."""
    if reply.status != OK:
        return foreign_text(f"{reply.status} {reply.error}", _EXAMPLE_LENGTH)
    document: Mapping[str, Any] = reply.document or {}
    if reply.tensors is not None:
        first = {name: array.reshape(-1)[:_EXAMPLE_VALUES] for name, array in reply.tensors.items()}
        document = {tensor["name"]: tensor["data"] for tensor in tensor_documents(first)}
    elif choices := document.get("choices"):
        document = {"choices": choices}
    return foreign_text(orjson.dumps(document).decode(), _EXAMPLE_LENGTH)
