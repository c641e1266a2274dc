"""Models that compute for as long as their callers say, and one that loads for ever."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.model_files import chunk, node, number, onnx_model, value_info

_FLOAT, _INT64, _BOOL = 1, 7, 9
_TENSOR, _GRAPH = 4, 5

FOR_EVER = 10**12
"""A number of rounds that takes hours."""
FOR_A_WHILE = 100_000_000
"""A number of rounds that takes PyTorch's interpreter at least five seconds, and no minute: no test leaves it
running."""


def looping_onnx() -> bytes:
    """A model `y = x`, after a `Loop` of `rounds`."""
    body = (
        chunk(1, node("Identity", ["goes_on"], ["goes_on_still"]))
        + chunk(1, node("Identity", ["v"], ["w"]))
        + chunk(2, "body")
        + b"".join(
            chunk(11, info)
            for info in (
                value_info("round", _INT64, ()),
                value_info("goes_on", _BOOL, ()),
                value_info("v", _FLOAT, (1,)),
            )
        )
        + b"".join(
            chunk(12, info)
            for info in (value_info("goes_on_still", _BOOL, ()), value_info("w", _FLOAT, (1,)))
        )
    )
    attribute = chunk(1, "body") + chunk(6, body) + number(20, _GRAPH)
    return onnx_model(
        [node("Loop", ["rounds", "", "x"], ["y"], attributes=chunk(5, attribute))],
        [value_info("rounds", _INT64, (1,)), value_info("x", _FLOAT, (1,))],
        [value_info("y", _FLOAT, (1,))],
    )


class Looping(torch.nn.Module):
    """Gives `x` back after `rounds`; PyTorch's interpreter cannot be told to end it."""

    def forward(self, rounds: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        count, done = int(rounds.item()), 0
        while done < count:
            done += 1
        return x + float(done - count)


class LoadsForEver(torch.nn.Module):
    """A program whose `__setstate__` does not end; PyTorch runs it while it loads the archive."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = FOR_EVER

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return self.rounds, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        done = 0
        while done < state[0]:
            done += 1
        self.rounds = done
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.rounds


def looping_torchscript(directory: Path) -> Path:
    path = directory / "model.pt"
    torch.jit.script(Looping()).save(str(path))  # type: ignore[no-untyped-call]
    return path


def endless_load(directory: Path) -> Path:
    path = directory / "model.pt"
    torch.jit.script(LoadsForEver()).save(str(path))  # type: ignore[no-untyped-call]
    return path


class Growing(torch.nn.Module):
    """Gives `n` twos: a call of a hundred bytes takes as much memory as its caller says."""

    def forward(self, n: torch.Tensor) -> torch.Tensor:
        return torch.ones(int(n.item())) * 2.0


def growing_torchscript(directory: Path) -> Path:
    path = directory / "model.pt"
    torch.jit.script(Growing()).save(str(path))  # type: ignore[no-untyped-call]
    return path


def growing_onnx(directory: Path) -> Path:
    two = number(1, 1) + number(2, _FLOAT) + chunk(4, b"\0\0\0\x40")
    attribute = chunk(1, "value") + chunk(5, two) + number(20, _TENSOR)
    path = directory / "model.onnx"
    path.write_bytes(
        onnx_model(
            [node("ConstantOfShape", ["n"], ["y"], attributes=chunk(5, attribute))],
            [value_info("n", _INT64, (1,))],
            [value_info("y", _FLOAT, ("n",))],
        )
    )
    return path
