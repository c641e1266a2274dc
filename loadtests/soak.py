"""A long run at a share of this machine's capacity: mixed models and sizes, and clients that hang up.

It fails on any call that is not answered as the model itself would, and on resident memory that grows.
Run as `python -m loadtests.soak --minutes 30`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import orjson
import uvloop

from gateway.cli.processes import descendants
from gateway.wording import counted
from loadtests import models, usage
from loadtests.calls import OIP_BINARY, OIP_JSON, Dialect, same
from loadtests.models import Array, Maker
from loadtests.open_loop import Client
from loadtests.plain_model import PlainModel
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.kitserve import Running, running

_SETTLE_SECONDS = 300
_MAX_GROWTH = 0.02
_LOOK_SECONDS = 3
_SAY_SECONDS = 60
_CAPACITY_SECONDS = 15
_WARM_UP_SECONDS = 5
_CALLERS = 32
_SEED = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call: its model, its form, and its share of all calls."""

    name: str
    model: str
    maker: Maker
    dialect: Dialect
    share: float


_BATCHING: dict[str, Any] = {"batching": {"max_batch_size": 16, "max_delay": 0.002}}
_MODELS: Mapping[str, tuple[Maker, dict[str, Any]]] = {
    "flowers": (models.flowers, {}),
    "flowers-batched": (models.flowers, _BATCHING),
    "text-batched": (models.text, _BATCHING),
    "image": (models.image, {}),
}
_KINDS = (
    Kind("flower, JSON", "flowers", models.flowers, OIP_JSON, 0.50),
    Kind("flower, binary, batched", "flowers-batched", models.flowers, OIP_BINARY, 0.36),
    Kind("text, JSON, batched", "text-batched", models.text, OIP_JSON, 0.08),
    Kind("image, JSON", "image", models.image, OIP_JSON, 0.02),
    Kind("image, binary", "image", models.image, OIP_BINARY, 0.04),
)
_HANG_UPS = 0.03
"""The share of calls whose client hangs up: amid a large body, or before the answer to a small one."""
_LARGE = 65536


@dataclass(frozen=True, slots=True)
class Sample:
    """The resident memory of each part in MiB, `seconds` after the start."""

    seconds: float
    rss_mib: Mapping[str, float]


@dataclass(slots=True)
class Ledger:
    """What became of the calls."""

    answered: int = 0
    hung_up: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latencies_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request as bytes, and the outputs that its answer must have."""

    kind: str
    request: bytes
    truth: Mapping[str, Array]
    read: Callable[[Any], dict[str, Array]]


def main() -> int:
    """Run. Return 1 when a call failed or memory grew, else 0."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity, which is measured first")
    parser.add_argument("--out", type=Path, default=Path("build/soak.json"), help="where the samples go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kss-") as directory, _kitserve(Path(directory)) as serve:
        ledger, samples = uvloop.run(_soak(serve, options.minutes * 60, options.share))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps([{"seconds": sample.seconds, **sample.rss_mib} for sample in samples], indent=1)
    )
    settled = settle_seconds(options.minutes * 60)
    faults = verdict(ledger, samples, settled)
    print(f"{counted(ledger.answered, 'call')} answered, {ledger.hung_up:,} hung up")
    for name, growth in growths(samples, settled).items():
        print(f"{name}: {samples[-1].rss_mib[name]:.1f} MiB, {growth:+.2%}")
    print("\n".join(f"FAILED: {fault}" for fault in faults) or "no failed call, memory flat")
    return 1 if faults else 0


def settle_seconds(seconds: float) -> float:
    """Return the seconds after which memory must be flat, in a run of that length."""
    return min(_SETTLE_SECONDS, seconds / 6)


def growths(samples: Sequence[Sample], settled: float) -> dict[str, float]:
    """Return how much each part grew after it settled, as a share of what it had.

    Large bodies in flight make the memory of a worker swing by a tenth within minutes, but neither its minima
    nor its maxima may rise. So the minima of two halves are compared, and the maxima; the halves lie half of
    the time apart, hence twice the difference.
    """
    middle = (settled + samples[-1].seconds) / 2
    settled_samples = [sample for sample in samples if sample.seconds >= settled]
    halves = [
        [sample.rss_mib for sample in settled_samples if (sample.seconds >= middle) is is_second]
        for is_second in (False, True)
    ]

    def growth(name: str) -> float:
        first, second = ([rss_mib[name] for rss_mib in half] for half in halves)
        return 2 * max(min(second) / min(first) - 1, max(second) / max(first) - 1)

    return {name: growth(name) for name in samples[0].rss_mib}


def verdict(ledger: Ledger, samples: Sequence[Sample], settled: float) -> list[str]:
    """Return the faults of a run; none when all is well."""
    faults = [f"{count} x {why}" for why, count in ledger.failures.most_common()]
    if not ledger.answered:
        faults.append("no call was answered")
    shares = growths(samples, settled)
    faults += [f"{name} grew by {share:.1%}" for name, share in shares.items() if share > _MAX_GROWTH]
    return faults


@contextmanager
def _kitserve(directory: Path) -> Iterator[Running]:
    builder = LayoutBuilder(directory / "layout")
    with running(directory) as serve:
        for name, (maker, options) in _MODELS.items():
            builder.kit(f"soak/{name}:v1", tar(("model/model.onnx", maker().onnx)))
            serve.models[name] = {"kit": f"oci-layout:{builder.directory}:soak/{name}:v1", **options}
        serve.start()
        serve.wait(lambda status: all(model["state"] == "ready" for model in status["models"]))
        yield serve


def _prepare(serve: Running, kind: Kind) -> list[_Prepared]:
    model = kind.maker()
    plain = PlainModel(model.onnx)
    prepared = []
    for array in model.inputs:
        call = kind.dialect.call(array)
        head = [
            f"POST /v2/models/{kind.model}/infer HTTP/1.1",
            f"Host: 127.0.0.1:{serve.port}",
            f"Content-Length: {len(call.body)}",
            *(f"{name}: {value}" for name, value in call.headers.items()),
        ]
        request = "\r\n".join([*head, "", ""]).encode() + call.body
        prepared.append(_Prepared(kind.name, request, plain.run({"input": array}), kind.dialect.read))
    return prepared


class _Mix:
    """Calls that are drawn by their shares, in the same order at every run."""

    def __init__(self, serve: Running) -> None:
        self._chance = random.Random(_SEED)
        self._prepared = [_prepare(serve, kind) for kind in _KINDS]
        self._shares = [kind.share for kind in _KINDS]

    def draw(self) -> _Prepared:
        (calls_of_kind,) = self._chance.choices(self._prepared, self._shares)
        return self._chance.choice(calls_of_kind)

    def hangs_up(self) -> bool:
        return self._chance.random() < _HANG_UPS

    def part(self, request: bytes) -> int:
        """Return how many bytes of a request a client sends before it hangs up."""
        return self._chance.randrange(1, len(request)) if len(request) > _LARGE else len(request)

    def patience(self) -> float:
        return self._chance.uniform(0, 0.02)

    def gap(self, rate: float) -> float:
        return self._chance.expovariate(rate)


async def _soak(serve: Running, seconds: float, share: float) -> tuple[Ledger, list[Sample]]:
    mix = _Mix(serve)
    client = Client("127.0.0.1", serve.port)
    ledger = Ledger()
    await _closed_loop(client, mix, _WARM_UP_SECONDS, ledger)
    capacity = await _closed_loop(client, mix, _CAPACITY_SECONDS, ledger)
    rate = capacity * share
    print(f"capacity {capacity:,.0f}/s; {rate:,.0f}/s for {seconds / 60:g} minutes", flush=True)
    ledger.latencies_ms.clear()
    samples: list[Sample] = []
    watcher = asyncio.get_running_loop().create_task(_watch(serve, ledger, samples))
    await _open_loop(client, mix, rate, seconds, ledger)
    watcher.cancel()
    await client.close()
    samples.append(Sample(seconds, _memory(serve)))
    _say(samples[-1], ledger)
    return ledger, samples


async def _closed_loop(client: Client, mix: _Mix, seconds: float, ledger: Ledger) -> float:
    """Run callers that send the next call after each answer. Return answers a second."""
    end = client.loop.time() + seconds
    before = ledger.answered
    ended = asyncio.Event()
    active = _CALLERS

    def begin() -> None:
        nonlocal active
        if client.loop.time() >= end:
            active -= 1
            if not active:
                ended.set()
            return
        _send(client, mix.draw(), client.loop.time(), ledger, begin)

    for _ in range(_CALLERS):
        begin()
    await ended.wait()
    return (ledger.answered - before) / seconds


async def _open_loop(client: Client, mix: _Mix, rate: float, seconds: float, ledger: Ledger) -> None:
    """Send calls at random moments, at that rate on average. Latency counts from when a call was due."""
    due = begun = client.loop.time()
    while due < begun + seconds:
        await asyncio.sleep(max(0.0, due - client.loop.time()))
        prepared = mix.draw()
        if mix.hangs_up():
            client.hang_up(prepared.request, mix.part(prepared.request), mix.patience())
            ledger.hung_up += 1
        else:
            _send(client, prepared, due, ledger)
        due += mix.gap(rate)


def _send(
    client: Client, prepared: _Prepared, due: float, ledger: Ledger, then: Callable[[], None] = lambda: None
) -> None:
    def answered(status: int, body: bytes) -> None:
        ledger.latencies_ms[prepared.kind].append((client.loop.time() - due) * 1e3)
        if status != 200:
            ledger.failures[f"{prepared.kind}: {status} {body[:200].decode(errors='replace')}"] += 1
        elif not same(prepared.read(orjson.loads(body)), prepared.truth):
            ledger.failures[f"{prepared.kind}: a wrong answer"] += 1
        else:
            ledger.answered += 1
        then()

    client.call(prepared.request, answered)


async def _watch(serve: Running, ledger: Ledger, samples: list[Sample]) -> None:
    """Sample memory every few seconds, and report every minute."""
    loop = asyncio.get_running_loop()
    begun = reported = loop.time()
    while True:
        now = loop.time()
        samples.append(Sample(now - begun, _memory(serve)))
        if now - reported >= _SAY_SECONDS:
            _say(samples[-1], ledger)
            ledger.latencies_ms.clear()
            reported = now
        await asyncio.sleep(_LOOK_SECONDS)


def _memory(serve: Running) -> dict[str, float]:
    assert serve.process is not None
    haproxy = [process for process in descendants(serve.process.pid) if _is_haproxy(process)]
    parts = {"gateway": serve.gateway(), "HAProxy": haproxy}
    parts |= {f"worker of {model}": serve.workers(model) for model in serve.models}
    return {name: usage.rss_mib(processes) for name, processes in parts.items()}


def _is_haproxy(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/comm").read_text().startswith("haproxy")
    except OSError:
        return False


def _say(sample: Sample, ledger: Ledger) -> None:
    memory = ", ".join(f"{name} {mib:.1f}" for name, mib in sample.rss_mib.items())
    print(
        f"{sample.seconds / 60:.1f} min: {ledger.answered:,} answered, {ledger.hung_up:,} hung up, "
        f"{ledger.failures.total()} failed; MiB: {memory}"
    )
    for kind, latencies in sorted(ledger.latencies_ms.items()):
        percentiles = quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
        print(f"    {kind}: p50 {percentiles[49]:.1f} ms, p99 {percentiles[98]:.1f} ms")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
