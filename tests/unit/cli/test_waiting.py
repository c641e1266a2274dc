"""Commands that wait for a running Kitserve, whose gateway may be away for a while."""

from __future__ import annotations

from itertools import islice
from typing import Any, cast

import pytest

from gateway.cli.admin_client import AdminClient
from gateway.cli.waiting import statuses
from gateway.errors import ControlError


class Client:
    """A gateway that answers once, and then not for some seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds_away: float) -> None:
        self.now, self.calls = 100.0, 0
        self.back = self.now + seconds_away
        monkeypatch.setattr("gateway.cli.waiting.time.monotonic", lambda: self.now)
        monkeypatch.setattr("gateway.cli.waiting.time.sleep", self._sleep)

    def status(self) -> dict[str, Any]:
        self.calls += 1
        if self.calls > 1 and self.now < self.back:
            raise ControlError("no Kitserve answers")
        return {"generation": self.calls}

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_gateway_that_comes_back_with_all_of_ray_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, seconds_away=40)
    first, second = islice(statuses(cast(AdminClient, client), None), 2)
    assert first["generation"] == 1
    assert second["generation"] > 40


def test_a_gateway_that_does_not_come_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, seconds_away=3600)
    with pytest.raises(ControlError, match="no Kitserve answers"):
        list(statuses(cast(AdminClient, client), None))
    assert client.now < client.back
