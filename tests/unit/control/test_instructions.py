"""What a worker is told in answer to a report."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.contract import AppName, Instructions
from gateway.control.gateway import Gateway
from gateway.control.state.workers import Workers
from tests.support.control_plane import report

APP = AppName("iris.v1.0123456789ab.01234567.1")
OTHER = AppName("lily.v1.0123456789ab.01234567.1")


def instructions(unwatched: AppName, making_room: AppName | None, restarting: AppName) -> Instructions:
    """Return what a worker of `APP` is told where these are the apps in that state."""
    gateway: Any = SimpleNamespace(
        _traces=None,
        _workers=Workers(),
        _activator=SimpleNamespace(hear=lambda _: None),
        _measured=SimpleNamespace(hear=lambda _: None),
        _descriptions=SimpleNamespace(hear=lambda _: False),
        _payload_log=SimpleNamespace(rules=lambda _: None),
        _rollouts=SimpleNamespace(
            hear=lambda _: 7, mirroring=lambda _: None, is_unwatched=lambda app: app == unwatched
        ),
        _loop=SimpleNamespace(wake=lambda: None, making_room=making_room),
        _restarts=SimpleNamespace(must_end=lambda _: False, is_under_way=lambda app: app == restarting),
    )
    told: Instructions = asyncio.run(Gateway.announce(gateway, report(APP)))
    assert told.told_until == 7
    return told


@pytest.mark.parametrize(
    ("unwatched", "making_room", "restarting", "may_rest"),
    [
        (APP, None, OTHER, True),
        (APP, OTHER, OTHER, True),
        (OTHER, None, OTHER, False),
        (APP, APP, OTHER, False),
        (APP, None, APP, False),
    ],
    ids=[
        "nobody waits",
        "another is to sleep",
        "its model has a rollout",
        "it is to sleep",
        "it is replaced",
    ],
)
def test_a_worker_may_rest_where_nobody_waits_for_its_next_report(
    unwatched: AppName, making_room: AppName | None, restarting: AppName, may_rest: bool
) -> None:
    told = instructions(unwatched, making_room, restarting)
    assert (told.may_rest, told.must_sleep) == (may_rest, making_room == APP)
