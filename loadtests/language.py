"""Measure streamed chats: the engine alone, the same behind FastAPI, and Kitserve, taking turns in one run.

The engine is llama.cpp with SmolLM2-135M-Instruct, one thread and eight slots, twice: Kitserve's own, and one
that is called directly and through FastAPI. Only one of the three is called at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

from loadtests.conditions import conditions
from loadtests.streams import Address, Stream, stream, streams
from runtimes.base import Resources
from runtimes.engines.base import EngineOptions
from runtimes.gguf import GgufRuntime
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.kitserve import running
from tests.support.models import smollm2
from tests.support.ports import free_port

ALONE, FASTAPI, KITSERVE = "llama.cpp alone", "FastAPI", "Kitserve"
_SLOTS = 8
_CONTEXT = 1024
_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Cell:
    """What one contender did at one number of streams in one pass."""

    contender: str
    streams: int
    tokens_per_second: float
    first_ms: float
    """The median time to the first token."""
    between_ms: float
    """The median time from one token to the next."""


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.language", description=__doc__)
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48, help="length of an answer")
    parser.add_argument("--first", type=int, default=60, help="calls for the time to the first token")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    console = Console(stderr=True, highlight=False, width=140)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = conditions()
    with tempfile.TemporaryDirectory() as directory, _contenders(Path(directory)) as contenders:
        console.print("all are up")
        firsts = _first_tokens(contenders, options.first)
        cells = [cell for number in (1, 8) for cell in _passes(contenders, number, options)]
    run = {"conditions": facts, "first_ms": firsts, "cells": [asdict(cell) for cell in cells]}
    (options.out / "language.json").write_text(json.dumps(run, indent=1))
    _report(console, facts, firsts, cells)
    return 0


@contextmanager
def _contenders(directory: Path) -> Iterator[dict[str, Address]]:
    """Start all three, and end them."""
    model = smollm2()
    options = EngineOptions(context=_CONTEXT, slots=_SLOTS)
    engine = GgufRuntime().start(model, Resources(), options)
    port = free_port()
    behind = subprocess.Popen([sys.executable, "-m", "loadtests.plain_chat", str(port), str(engine.socket)])
    LayoutBuilder(directory / "kits").kit(
        "smollm2:v1", tar((model.name, model.read_bytes())), path=model.name
    )
    try:
        with running(directory) as kitserve:
            kitserve.models["smollm2"] = {
                "kit": f"oci-layout:{directory / 'kits'}:smollm2:v1",
                "engine": {"context": _CONTEXT, "slots": _SLOTS},
            }
            kitserve.settings["access_log"] = "off"
            kitserve.start()
            kitserve.wait(lambda _: kitserve.model("smollm2")["state"] == "ready")
            _wait(f"http://127.0.0.1:{port}/health")
            yield {
                ALONE: engine.socket,
                FASTAPI: ("127.0.0.1", port),
                KITSERVE: ("127.0.0.1", kitserve.port),
            }
    finally:
        behind.terminate()
        behind.wait(10)
        engine.close()


def _wait(url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            requests.get(url, timeout=5).raise_for_status()
        except requests.RequestException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _body(number: int, tokens: int) -> dict[str, Any]:
    """Return a call that no cache of prompts knows from its number on; all are of one length."""
    prompt = f"{number:06}. Tell me a long story about a lighthouse and the sea."
    messages = [{"role": "user", "content": prompt}]
    return {"model": "smollm2", "messages": messages, "max_tokens": tokens, "temperature": 0}


def _first_tokens(contenders: dict[str, Address], calls: int) -> dict[str, float]:
    """Return the median time to the first token in milliseconds; contenders take turns call by call."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}

    async def measure() -> None:
        for number in range(calls + 3):
            for name, address in contenders.items():
                result = await stream(address, _body(0, 1))
                if number >= 3:
                    seconds[name].append(result.first)

    asyncio.run(measure())
    return {name: statistics.median(values) * 1000 for name, values in seconds.items()}


def _passes(contenders: dict[str, Address], number: int, options: argparse.Namespace) -> Iterator[Cell]:
    for index in range(options.passes):
        # The order turns, so that none is always first.
        names = list(contenders)
        for place, name in enumerate(names[index % 3 :] + names[: index % 3]):
            # Two contenders share an engine and its cache, so no prompt comes twice.
            first = 10_000 * number + 100 * index + 10 * place
            bodies = [_body(first + slot, options.tokens) for slot in range(number)]
            results, seconds = asyncio.run(streams(contenders[name], bodies))
            yield _cell(name, number, results, seconds)


def _cell(name: str, number: int, results: Sequence[Stream], seconds: float) -> Cell:
    return Cell(
        name,
        number,
        sum(result.tokens for result in results) / seconds,
        statistics.median(result.first for result in results) * 1000,
        statistics.median(gap for result in results for gap in result.gaps) * 1000,
    )


def _report(console: Console, facts: dict[str, str], firsts: dict[str, float], cells: Sequence[Cell]) -> None:
    for name, fact in facts.items():
        console.print(f"{name}: {fact}")
    table = Table("streams", "contender", "tokens/s", "of alone", "first token", "between tokens")
    for number in (1, 8):
        alone = [cell for cell in cells if (cell.contender, cell.streams) == (ALONE, number)]
        for name in firsts:
            own = [cell for cell in cells if (cell.contender, cell.streams) == (name, number)]
            ratios = [
                cell.tokens_per_second / base.tokens_per_second for cell, base in zip(own, alone, strict=True)
            ]
            table.add_row(
                str(number),
                name,
                f"{statistics.median(cell.tokens_per_second for cell in own):.1f}",
                f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{statistics.median(cell.first_ms for cell in own):.1f} ms",
                f"{statistics.median(cell.between_ms for cell in own):.2f} ms",
            )
    console.print(table)
    for name, milliseconds in firsts.items():
        added = milliseconds - firsts[ALONE]
        console.print(f"{name}: first token of one stream after {milliseconds:.2f} ms, {added:+.2f} ms")


if __name__ == "__main__":
    sys.exit(main())
