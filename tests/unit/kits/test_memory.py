"""What a language model needs, as people read it."""

from __future__ import annotations

import pytest

from gateway.kits.memory import Need, free
from gateway.metrics import machine
from gateway.metrics.machine import MachineMemory, usable_memory
from gateway.wording import size
from runtimes.engines.base import Memory

GIB = 1024**3


@pytest.mark.parametrize(
    ("need", "text"),
    [
        (
            Need(Memory(2 * GIB, GIB, GIB // 4), 4, 8192),
            "3.2 GiB: 2.0 GiB weights + 1.0 GiB key-value cache (4 slots of 8192 tokens) + 256 MiB buffers",
        ),
        (Need(Memory(GIB, GIB), 1), "2.0 GiB: 1.0 GiB weights + 1.0 GiB key-value cache (1 slot)"),
        (Need(Memory(GIB // 2), 4, 512), "512 MiB: 512 MiB weights"),
        (Need(Memory(GIB // 2, other=GIB // 4)), "768 MiB: 512 MiB weights + 256 MiB buffers"),
        (Need(Memory(0, other=GIB), is_guess=True), "1.0 GiB: 1.0 GiB buffers (a guess)"),
    ],
)
def test_a_need_is_a_sum(need: Need, text: str) -> None:
    assert str(need) == text


def test_sizes() -> None:
    assert (size(0), size(GIB - 1), size(23 * GIB)) == ("0 MiB", "1024 MiB", "23.0 GiB")
    assert size(1 << 2000) == "more than an EiB"
    assert free(MachineMemory(4 * GIB, GIB)) == "1.0 GiB are free of 4.0 GiB"


def test_the_last_of_the_memory_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_memory", lambda: MachineMemory(20 * GIB, 3 * GIB))
    assert usable_memory() == MachineMemory(20 * GIB, 2 * GIB)
    monkeypatch.setattr(machine, "machine_memory", lambda: MachineMemory(20 * GIB, GIB // 2))
    assert usable_memory() == MachineMemory(20 * GIB, 0)
