"""What happens to rollouts is logged with all its fields, and announced."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from gateway.control.rollouts.journal import Journal
from gateway.control.state.database import State
from gateway.control.state.rollout_status import RolloutEvent
from gateway.logs.events import JsonFormatter
from gateway.rollout.events import Changed
from gateway.rollout.state import Reason, Rollout, Stage

STABLE = f"registry.test/iris:v1@sha256:{'a' * 64}"


def test_an_event_is_saved_logged_and_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = State(tmp_path / "state.db")
    announced: list[RolloutEvent] = []
    journal = Journal(state, announced.append, clock=lambda: 0.0)
    rollout = Rollout(stable=STABLE, stage=Stage.DEGRADED, reason=Reason.ABORTED, number=3)
    events = journal.save("iris", None, rollout, [Changed(Reason.ABORTED, "aborted by a person")])
    with caplog.at_level(logging.INFO, "gateway.control.rollouts.journal"):
        journal.announce(events)
    assert announced == list(events) == journal.history("iris")
    line = json.loads(JsonFormatter("test").format(caplog.records[0]))
    assert line["event"] == "rollout.changed"
    assert (line["model"], line["number"], line["text"]) == ("iris", 3, "aborted by a person")
    assert line["time"].startswith("20"), "the log's own"
    state.close()
