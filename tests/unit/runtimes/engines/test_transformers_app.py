"""What an engine answers when it fails, and what it does for callers that are gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runtimes.engines.transformers_app import app
from runtimes.engines.transformers_engine import Engine
from runtimes.engines.transformers_generation import EngineFailure, Limits
from runtimes.engines.transformers_load import Loaded, load
from runtimes.engines.transformers_sampling import Sampling
from tests.support.language_models import save_llama

LIMITS = Limits(context=256, slots=2, batch=32)

HELLO = {"prompt": "hello", "max_tokens": 4}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    directory: Path = save_llama(tmp_path_factory.mktemp("model"))
    return load(directory, dtype="float32", device="cpu")


@asynccontextmanager
async def started(loaded: Loaded) -> AsyncIterator[Engine]:
    engine = Engine(loaded, LIMITS)
    await engine.start()
    try:
        yield engine
    finally:
        engine.generator.stop()


def run(work: Callable[[Engine], Coroutine[Any, Any, None]], loaded: Loaded) -> None:
    async def main() -> None:
        async with started(loaded) as engine:
            await work(engine)

    asyncio.run(main())


def breaking(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: object, **__: object) -> None:
        raise RuntimeError("the weights are gone")

    monkeypatch.setattr(loaded.model, "forward", forward)


def test_a_failure_ends_the_calls_and_the_engine(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engine: Engine) -> None:
        assert engine.generator.failure == ""
        breaking(loaded, monkeypatch)
        with pytest.raises(EngineFailure, match="the weights are gone"):
            async for _ in engine.generator.generate([5], Sampling(), 4):
                pass
        while not engine.generator.failure:
            await asyncio.sleep(0.01)
        with pytest.raises(EngineFailure, match="the weights are gone"):
            async for _ in engine.generator.generate([5], Sampling(), 4):
                pass

    run(work, loaded)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_failure_is_told_to_the_caller_and_to_who_ends_the_process(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    reasons: list[str] = []

    async def work(engine: Engine) -> None:
        served = app(engine, name="tiny", fingerprint="f", on_failure=reasons.append)
        transport = httpx2.ASGITransport(app=served)
        async with httpx2.AsyncClient(transport=transport, base_url="http://engine") as client:
            assert (await client.get("/health")).status_code == 200
            breaking(loaded, monkeypatch)
            answer = await client.post("/v1/completions", json={**HELLO, "stream": is_streamed})
            text = answer.text.removeprefix("data: ")
            assert answer.status_code == (200 if is_streamed else 500)
            assert "the weights are gone" in json.loads(text)["error"]["message"]
            while not engine.generator.failure:
                await asyncio.sleep(0.01)
            assert (await client.get("/health")).status_code == 503
        assert "the weights are gone" in reasons[-1]

    run(work, loaded)


def test_paths_and_methods_that_are_not_served_are_errors_in_json(loaded: Loaded) -> None:
    async def work() -> None:
        served = app(Engine(loaded, LIMITS), name="tiny", fingerprint="f", on_failure=lambda _: None)
        transport = httpx2.ASGITransport(app=served)
        async with httpx2.AsyncClient(transport=transport, base_url="http://engine") as client:
            for answer, status in ((await client.get("/no"), 404), (await client.get("/score"), 405)):
                assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
                assert answer.json()["error"]["type"] in ("not_found_error", "invalid_request_error")

    asyncio.run(work())


def test_a_call_that_is_left_gives_its_slot_back(loaded: Loaded) -> None:
    async def work(engine: Engine) -> None:
        generator = engine.generator
        for _ in range(3 * LIMITS.slots):
            async with aclosing(generator.generate([5, 6], Sampling(), 200, has_end=False)) as steps:
                async for _ in steps:
                    break
        last = generator.generate([5], Sampling(temperature=0), 2, has_end=False)
        async with asyncio.timeout(30):
            assert sum([len(step.tokens) async for step in last]) == 2

    run(work, loaded)


def test_calls_wait_for_a_slot_and_may_leave_before(loaded: Loaded) -> None:
    async def work(engine: Engine) -> None:
        generator = engine.generator
        calls = range(LIMITS.slots)
        running = [generator.generate([5], Sampling(), 200, has_end=False) for _ in calls]
        for steps in running:
            await anext(steps)
        waiting = asyncio.ensure_future(anext(generator.generate([6], Sampling(), 1, has_end=False)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for steps in running:
            await steps.aclose()
        async with asyncio.timeout(30):
            assert [step async for step in generator.generate([6], Sampling(), 1)]

    run(work, loaded)


def test_a_prompt_longer_than_a_batch_and_a_whole_context_in_every_slot(loaded: Loaded) -> None:
    async def work(engine: Engine) -> None:
        async def fill(first: int) -> int:
            prompt = [first] * 200
            steps = engine.generator.generate(prompt, Sampling(temperature=0), 56, has_end=False)
            return sum([len(step.tokens) async for step in steps])

        async with asyncio.timeout(60):
            assert (
                await asyncio.gather(*(fill(token) for token in range(5, 5 + 2 * LIMITS.slots))) == [56] * 4
            )

    run(work, loaded)
