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
    return [Sample(index * every, {"worker": value}) for index, value in enumerate(rss_mib)]


def rising(share: float, swing: float = 0.0) -> list[Sample]:
    """Return memory that grows from 100 MiB by `share` of it, in 100 steps, and swings meanwhile."""
    return samples(*(100 + share * step + swing * (step // 12 % 2) for step in range(101)))


def test_growth_counts_from_when_memory_has_settled() -> None:
    settling = [*samples(50, 80), *(Sample(sample.seconds + 20, sample.rss_mib) for sample in rising(0.03))]
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
    """A server that sends `reply` to every request, and counts what it receives."""

    def __init__(self, counts: Counter[str], reply: bytes, closes: bool) -> None:
        self.counts, self.reply, self.closes = counts, reply, closes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.counts["connections"] += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.counts["bytes"] += len(data)
        if data.endswith(b"hi"):
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(self.reply)
            if self.closes:
                self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.counts["closed"] += 1


@asynccontextmanager
async def serving(counts: Counter[str], reply: bytes = OK, closes: bool = False) -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(counts, reply, closes), "127.0.0.1", 0)
    client = Client(*server.sockets[0].getsockname())
    try:
        yield client
    finally:
        await client.close()
        server.close()


async def answer(client: Client) -> tuple[int, bytes]:
    result: asyncio.Future[tuple[int, bytes]] = client.loop.create_future()
    client.call(REQUEST, lambda status, body: result.set_result((status, body)))
    return await asyncio.wait_for(result, 5)


def test_calls_one_after_another_use_one_connection() -> None:
    async def work() -> None:
        counts: Counter[str] = Counter()
        async with serving(counts) as client:
            assert [await answer(client) for _ in range(3)] == [(200, b"done")] * 3
            assert (counts["connections"], client.under_way) == (1, 0)

    asyncio.run(work())


def test_calls_at_once_have_a_connection_each() -> None:
    async def work() -> None:
        counts: Counter[str] = Counter()
        async with serving(counts) as client:
            answers = await asyncio.gather(*(answer(client) for _ in range(4)))
            assert (set(answers), counts["connections"]) == ({(200, b"done")}, 4)

    asyncio.run(work())


@pytest.mark.parametrize(("reply", "why"), [(b"", b"closed before"), (b"nonsense\r\n\r\n", b"not HTTP")])
def test_what_is_no_answer_is_reported(reply: bytes, why: bytes) -> None:
    async def work() -> None:
        async with serving(Counter(), reply, closes=True) as client:
            status, text = await answer(client)
            assert status == 0
            assert text.startswith(why)

    asyncio.run(work())


def test_a_server_that_closes_after_its_answer_is_connected_anew() -> None:
    async def work() -> None:
        counts: Counter[str] = Counter()
        reply = OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        async with serving(counts, reply) as client:
            assert [await answer(client) for _ in range(2)] == [(200, b"done")] * 2
            assert counts["connections"] == 2

    asyncio.run(work())


def test_a_call_without_an_answer_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(open_loop, "_SWEEP_SECONDS", 0.05)

    async def work() -> None:
        async with serving(Counter(), b"") as client:
            status, text = await answer(client)
            assert (status, text[:9]) == (0, b"no answer")

    asyncio.run(work())


def test_a_client_that_hangs_up_sends_a_part_and_closes() -> None:
    async def work() -> None:
        counts: Counter[str] = Counter()
        async with serving(counts) as client:
            client.hang_up(REQUEST, 7, 0.01)
            await client.close()
            for _ in range(100):
                if counts["closed"]:
                    break
                await asyncio.sleep(0.01)
            assert counts == {"connections": 1, "bytes": 7, "closed": 1}

    asyncio.run(work())


def test_a_missing_server_is_reported() -> None:
    async def work() -> None:
        async with serving(Counter()) as client:
            pass
        status, text = await answer(Client(*client._address))
        assert (status, text[:13]) == (0, b"no connection")

    asyncio.run(work())
