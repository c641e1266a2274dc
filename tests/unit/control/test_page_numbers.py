"""What the page tells of calls and of signatures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.contract import AppName, Description
from gateway.control.admin.page.document import Facts, page_document
from gateway.control.admin.page.recent import Recent, RecentNumbers
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from gateway.control.state.workers import AppNumbers
from gateway.metrics.counts import MIRRORED
from gateway.metrics.tally import Tally
from tests.support.rollouts import DESCRIPTION

APP = AppName("iris.v1")
VERSION = VersionStatus("v1", "sha256:12", "kit", APP, "stable", 100, ModelState.READY, 1, "onnx")


def counted(tally: Tally) -> dict[AppName, AppNumbers]:
    return {APP: AppNumbers(tally.numbers())}


def call(tally: Tally, count: int, status: int = 200, role: str = "stable") -> None:
    for _ in range(count):
        tally.answered(role, status, 0.02, 0.0, 0.02)


def test_the_last_minute_is_what_counts_have_grown_by() -> None:
    recent, tally = RecentNumbers(), Tally()
    call(tally, 1000, 500)
    recent.add(0.0, counted(tally))
    assert recent.of(APP) is None, "nobody knows how long the first thousand took"
    call(tally, 30)
    call(tally, 70, role=MIRRORED)
    recent.add(30.0, counted(tally))
    now = recent.of(APP)
    assert now is not None
    assert (now.rate, now.calls, now.errors) == (1.0, 30, 0)
    assert now.median == pytest.approx(0.0158, rel=0.01)
    assert now.p95 == pytest.approx(0.0239, rel=0.01)
    recent.add(61.0, counted(tally))
    recent.add(91.0, counted(tally))
    assert recent.of(APP) == Recent(0.0, 0, 0, None, None)


def test_a_version_that_is_new_has_all_its_calls_of_late_and_one_that_is_gone_none() -> None:
    recent, tally = RecentNumbers(), Tally()
    recent.add(0.0, {})
    call(tally, 8)
    call(tally, 2, 503)
    recent.add(10.0, counted(tally))
    now = recent.of(APP)
    assert now is not None
    assert (now.rate, now.calls, now.errors) == (1.0, 10, 2)
    # The counts of workers that are forgotten are gone, and nothing else is below zero.
    recent.add(11.0, counted(Tally()))
    recent.add(70.5, counted(Tally()))
    now = recent.of(APP)
    assert now is not None
    assert (now.calls, now.errors, now.median) == (0, 0, None)
    recent.add(71.0, {})
    assert recent.of(APP) is None


@pytest.mark.parametrize(
    ("keys", "statement", "signer"),
    [
        ((), "signed by release (cosign tag signature)", ""),
        (("release",), "signed by release (cosign tag signature)", "release"),
        (("ci", "release"), "signed by release (cosign bundle)", "release"),
        (("ci", "release"), "signed by somebody else (cosign bundle)", "ci or release"),
        (("ci",), "", "ci"),
    ],
)
def test_a_worker_names_no_signer_but_one_of_the_policy(
    keys: tuple[str, ...], statement: str, signer: str
) -> None:
    description: Description = replace(DESCRIPTION, trust=statement)
    facts = Facts({}, lambda _: None, lambda _: description, lambda *_: keys, lambda _: None)
    status = Status(1, (ModelStatus("iris", ModelState.READY, "", (VERSION,)),))
    (version,) = page_document(status, 1, facts)["models"][0]["versions"]
    assert version["signed_by"] == signer
