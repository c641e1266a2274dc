"""What the run on a GPU makes of its figures, and its load generator."""

from __future__ import annotations

import asyncio

import numpy as np

from loadtests import closed_loop
from loadtests.gpu_models import hungry_model, onnx_model, torch_model
from loadtests.gpu_report import Cell, Run, report
from loadtests.wrk import Load


def test_the_table_compares_with_the_engine() -> None:
    cells = [
        Cell("onnx", "Kitserve", 16, Load(960, 1.0, 2.0, 4.0, 10), 700),
        Cell("onnx", "directly", 16, Load(1000, 1.0, 1.5, 3.0, 0), 500),
        Cell("torch", "Kitserve", 16, Load(10, 1.0, 2.0, 4.0, 0), 0),
    ]
    steps = {"doctor": {"seconds": 1.5, "findings": ["all is well"]}}
    text = report(Run({"GPUs": "one"}, cells, steps, ["rollout: it failed"]))
    assert "| onnx, Kitserve | 16 | 950 (10 failed) | 2.00 | 4.00 | 700 | 0.95 |" in text
    assert "| onnx, directly | 16 | 1,000 | 1.50 | 3.00 | 500 |  |" in text
    assert "| torch, Kitserve | 16 | 10.0 | 2.00 | 4.00 | 0 |  |" in text
    assert (
        "- FAILED: rollout: it failed\n- onnx at 16 connections: at least 0.95 of the engine: met (0.95)\n"
        in text
    )
    assert "- torch at 16 connections: at least 0.95 of the engine: MISSED (unknown)\n" in text
    assert "- doctor: 1.5 s\n- doctor: all is well\n- GPUs: one\n" in text


def test_models_are_the_same_each_time() -> None:
    assert onnx_model(is_small=True).runtime == "onnx"
    first, second = torch_model(1, is_small=True), torch_model(2, is_small=True)
    assert first.data != second.data
    assert hungry_model().inputs["input"].shape == (1, 1024)
    assert first.inputs["input"].dtype == np.float32


def test_the_load_generator_counts_answers_and_errors() -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            assert await reader.readexactly(4) == b"body"
            count += 1
            status = b"200 OK" if count % 2 else b"503 Busy"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        ended.set()

    async def main() -> Load:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            load = await closed_loop.load(f"http://127.0.0.1:{port}/x", b"body", ["X-A: 1"], 1, 0.2)
            await ended.wait()
            return load

    load = asyncio.run(main())
    assert load.requests > 4
    assert abs(load.requests - 2 * load.errors) <= 1
    assert 0 < load.p50_ms <= load.p99_ms
