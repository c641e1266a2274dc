from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtests import open_loop
from loadtests.open_loop import Client
from loadtests.soak import Ledger, Sample, growths, settle_seconds, verdict

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"


def samples(*rss_mib: float, every: float = 10.0) -> list[Sample]:
    return [Sample(place * every, {"worker": value}) for place, value in enumerate(rss_mib)]


def rising(share: float, swing: float = 0.0) -> list[Sample]:
    """From 100 MiB to so much more, in 100 steps, and up and down by the way."""
    return samples(*(100 + share * place + swing * (place // 12 % 2) for place in range(101)))


def test_growth_counts_from_when_memory_has_settled() -> None:
    settling = [*samples(50, 80), *(Sample(at.seconds + 20, at.rss_mib) for at in rising(0.03))]
    assert growths(settling, settled=20) == {"worker": pytest.approx(0.03, rel=0.01)}


@pytest.mark.parametrize("swing", [0.0, 10.0])
@pytest.mark.parametrize(("share", "faults"), [(0.019, []), (0.022, ["worker grew by 2.2%"])])
def test_memory_may_swing_and_grow_by_two_percent(swing: float, share: float, faults: list[str]) -> None:
    assert verdict(Ledger(answered=1), rising(share, swing), 0) == faults


def test_any_failure_and_no_answer_at_all_are_faults() -> None:
    ledger = Ledger(failures=Counter({"image: 503 full": 2}))
    assert verdict(ledger, samples(1, 1), 0) == ["2 x image: 503 full", "no call was answered"]


def test_a_short_run_settles_in_a_sixth_of_its_time() -> None:
    assert settle_seconds(1800) == 300
    assert settle_seconds(120) == 20


class Server(asyncio.Protocol):
    """Answers every request as `reply` says; counts what comes."""

    def __init__(self, seen: Counter[str], reply: bytes, closes: bool) -> None:
        self.seen, self.reply, self.closes = seen, reply, closes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.seen["connections"] += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.seen["bytes"] += len(data)
        if data.endswith(b"hi"):
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(self.reply)
            if self.closes:
                self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.seen["closed"] += 1


@asynccontextmanager
async def serving(seen: Counter[str], reply: bytes = OK, closes: bool = False) -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(seen, reply, closes), "127.0.0.1", 0)
    client = Client(*server.sockets[0].getsockname())
    try:
        yield client
    finally:
        await client.close()
        server.close()


async def answer(client: Client) -> tuple[int, bytes]:
    came: asyncio.Future[tuple[int, bytes]] = client.loop.create_future()
    client.call(REQUEST, lambda status, body: came.set_result((status, body)))
    return await asyncio.wait_for(came, 5)


def test_calls_one_after_another_use_one_connection() -> None:
    async def work() -> None:
        seen: Counter[str] = Counter()
        async with serving(seen) as client:
            assert [await answer(client) for _ in range(3)] == [(200, b"done")] * 3
            assert (seen["connections"], client.under_way) == (1, 0)

    asyncio.run(work())


def test_calls_at_once_have_a_connection_each() -> None:
    async def work() -> None:
        seen: Counter[str] = Counter()
        async with serving(seen) as client:
            answers = await asyncio.gather(*(answer(client) for _ in range(4)))
            assert (set(answers), seen["connections"]) == ({(200, b"done")}, 4)

    asyncio.run(work())


@pytest.mark.parametrize(("reply", "why"), [(b"", b"closed before"), (b"nonsense\r\n\r\n", b"not HTTP")])
def test_what_is_no_answer_is_told(reply: bytes, why: bytes) -> None:
    async def work() -> None:
        async with serving(Counter(), reply, closes=True) as client:
            status, said = await answer(client)
            assert status == 0
            assert said.startswith(why)

    asyncio.run(work())


def test_a_server_that_closes_after_its_answer_is_connected_anew() -> None:
    async def work() -> None:
        seen: Counter[str] = Counter()
        reply = OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        async with serving(seen, reply) as client:
            assert [await answer(client) for _ in range(2)] == [(200, b"done")] * 2
            assert seen["connections"] == 2

    asyncio.run(work())


def test_a_call_without_an_answer_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(open_loop, "_SWEEP_SECONDS", 0.05)

    async def work() -> None:
        async with serving(Counter(), b"") as client:
            status, said = await answer(client)
            assert (status, said[:9]) == (0, b"no answer")

    asyncio.run(work())


def test_who_hangs_up_sends_a_part_and_leaves() -> None:
    async def work() -> None:
        seen: Counter[str] = Counter()
        async with serving(seen) as client:
            client.hang_up(REQUEST, 7, 0.01)
            await client.close()
            for _ in range(100):
                if seen["closed"]:
                    break
                await asyncio.sleep(0.01)
            assert seen == {"connections": 1, "bytes": 7, "closed": 1}

    asyncio.run(work())


def test_no_server_is_told() -> None:
    async def work() -> None:
        async with serving(Counter()) as client:
            pass
        status, said = await answer(Client(*client._address))
        assert (status, said[:13]) == (0, b"no connection")

    asyncio.run(work())
