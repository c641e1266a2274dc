"""How often Serve is asked what it runs."""

from __future__ import annotations

import time

import pytest

from gateway.control.loop import watch as module
from gateway.control.loop.watch import Watch
from gateway.control.state.workers import Workers
from tests.support.waiting import wait


def test_the_end_of_quiet_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOOK_SECONDS", "_QUIET_LOOK_SECONDS"):
        monkeypatch.setattr(module, name, 60.0)
    looks: list[float] = []

    def list_applications() -> dict[str, object]:
        looks.append(time.monotonic())
        return {}

    watch = Watch(Workers(), list_applications, lambda: None)  # type: ignore[arg-type]
    watch.is_quiet = True
    watch.start()
    time.sleep(0.1)
    assert looks == []
    watch.is_quiet = False
    wait(lambda: len(looks) == 1)
    watch.is_quiet = False
    time.sleep(0.1)
    assert len(looks) == 1
    watch.stop()
