"""What engines say of their key-value cache, and how seldom they are asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.wire.exchange import Exchange
from gateway.wire.server import HttpServer
from gateway.worker import engine_numbers
from gateway.worker.engine_numbers import EngineNumbers, usage_of_metrics, usage_of_slots

BUSY = {"n_ctx": 100, "n_prompt_tokens": 40, "is_processing": True}
IDLE = {"n_ctx": 100, "n_prompt_tokens": 90, "is_processing": False}
METRICS = b"""# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="chat"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="chat"} 5e-1
"""


class FakeEngine:
    """Answers paths with what `answers` has for them, and notes what it was asked; see `exchange.Handler`."""

    max_body = 1000

    def __init__(self, socket: Path) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.server = HttpServer(self, str(socket))
        self.server.start()

    def head(self, exchange: Exchange) -> None:
        pass

    def handle(self, exchange: Exchange) -> None:
        self.asked.append(exchange.path)
        body = self.answers.get(exchange.path)
        exchange.respond(501 if body is None else 200, [], body or b"no")

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        exchange.respond(status, [], text.encode())


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


@pytest.fixture
def engine(socket_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(socket_path)
    yield engine
    engine.server.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(engine_numbers, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


async def usages(numbers: EngineNumbers, clock: SimpleNamespace, generating: list[int]) -> list[float | None]:
    """Return what is known at each second, with so many calls that run, before the engine answers."""
    known = []
    for count in generating:
        known.append(numbers.kv_cache_usage(count))
        if numbers._asking is not None:
            await numbers._asking
        clock.now += 1.0
    return known


@pytest.mark.parametrize(
    ("read", "body", "usage"),
    [
        (usage_of_slots, json.dumps([BUSY, IDLE]).encode(), 0.2),
        (usage_of_slots, json.dumps([{"n_ctx": 100, "is_processing": False}]).encode(), 0.0),
        (usage_of_slots, json.dumps([{**BUSY, "n_prompt_tokens": 101}]).encode(), 1.0),
        (usage_of_slots, b"[]", None),
        (usage_of_metrics, METRICS, 0.5),
        (usage_of_metrics, b"llamacpp:requests_processing 1\n", None),
    ],
)
def test_each_engine_says_it_in_its_way(
    read: Callable[[bytes], float | None], body: bytes, usage: float | None
) -> None:
    assert read(body) == usage


def test_an_engine_is_asked_only_while_it_works(
    engine: FakeEngine, socket_path: Path, clock: SimpleNamespace
) -> None:
    engine.answers["/slots"] = json.dumps([BUSY, IDLE]).encode()
    numbers = EngineNumbers(socket_path)
    assert asyncio.run(usages(numbers, clock, [0, 0, 1, 1, 0, 0])) == [None, None, None, 0.2, 0.0, 0.0]
    assert engine.asked == ["/slots", "/slots"]


def test_an_engine_is_asked_once_a_second(
    engine: FakeEngine, socket_path: Path, clock: SimpleNamespace
) -> None:
    engine.answers["/slots"] = json.dumps([BUSY]).encode()
    numbers = EngineNumbers(socket_path)

    async def ask_often() -> None:
        for _ in range(10):
            await usages(numbers, clock, [1])
            clock.now -= 0.9

    asyncio.run(ask_often())
    assert len(engine.asked) == 1


def test_an_engine_that_has_no_slots_may_have_metrics(
    engine: FakeEngine, socket_path: Path, clock: SimpleNamespace
) -> None:
    engine.answers["/metrics"] = METRICS
    assert asyncio.run(usages(EngineNumbers(socket_path), clock, [1, 1])) == [None, 0.5]
    assert engine.asked == ["/slots", "/metrics", "/metrics"]


@pytest.mark.parametrize("body", [None, b"", b"not JSON", b"{}", b'[{"id":1}]', b"[1]"])
def test_an_engine_that_says_nothing_is_asked_no_more(
    engine: FakeEngine, socket_path: Path, clock: SimpleNamespace, body: bytes | None
) -> None:
    if body is not None:
        engine.answers["/slots"] = body
    assert asyncio.run(usages(EngineNumbers(socket_path), clock, [1, 1, 1])) == [None] * 3
    assert engine.asked == ["/slots", "/metrics"]


def test_an_engine_that_is_away_is_asked_again(
    engine: FakeEngine, socket_path: Path, clock: SimpleNamespace
) -> None:
    engine.answers["/slots"] = json.dumps([BUSY]).encode()
    away = socket_path.with_name("away.sock")
    numbers = EngineNumbers(away)
    assert asyncio.run(usages(numbers, clock, [1, 1])) == [None, None]
    away.symlink_to(socket_path)
    assert asyncio.run(usages(numbers, clock, [1, 1])) == [None, 0.4]
