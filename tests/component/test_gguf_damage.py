"""Damaged GGUF files: each is refused with a reason, or is served; this process outlives them all."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtimes import gguf_file
from runtimes.base import Resources
from runtimes.engines import sockets
from runtimes.engines.base import EngineOptions
from runtimes.errors import LoadError
from runtimes.gguf import GgufRuntime, LlamaModel
from tests.support import gguf_files
from tests.support.models import smollm2

CUTS, HEADER_FLIPS, TENSOR_FLIPS = 100, 60, 40
LARGE_CUTS, LARGE_HEADER_FLIPS, LARGE_TENSOR_FLIPS = 10, 10, 3

OPTIONS = EngineOptions(context=256, slots=1)
PROMPT = '{"prompt": "Hi", "max_tokens": 2}'

REASON = re.compile(
    r"cut short|damaged|is no |does not say|declares|has version|big-endian|is a |refuses .*: \w+"
)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return gguf_files.tiny_llama(tmp_path / "m.gguf")


def outcome(path: Path) -> str:
    """Load the model and ask it; "served", "refused" or "died", each as it must be."""
    try:
        model = GgufRuntime().start(path, Resources(), OPTIONS)
    except LoadError as error:
        text = str(error)
        assert text.startswith((str(path), f"llama.cpp refuses {path}"))
        assert REASON.search(text), text
        assert "Traceback" not in text
        assert len(text) < 2_000
        return "refused"
    try:
        return "served" if answers(model) else "died"
    finally:
        model.close()


def answers(model: LlamaModel) -> bool:
    """Whether it lives through a call; if it does not, it says how it ended."""
    connection = sockets.UnixConnection(model.socket, 30)
    try:
        connection.request("POST", "/v1/completions", PROMPT, {"Content-Type": "application/json"})
        connection.getresponse().read()
    except OSError:
        assert "killed by SIG" in model.failure()
        return False
    finally:
        connection.close()
    return True


@contextmanager
def flipped(path: Path, offset: int, bit: int) -> Iterator[None]:
    """Flip a bit of a file, and back."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
        file.flush()
        try:
            yield
        finally:
            file.seek(offset)
            file.write(bytes([byte]))


def test_every_cut_is_refused_without_a_process(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.gguf.EngineProcess", None)
    data = tiny.read_bytes()
    lengths = random.Random(1).sample(range(len(data) - 32), CUTS)
    for length in lengths:
        tiny.write_bytes(data[:length])
        assert outcome(tiny) == "refused"


def test_flips_in_the_header(tiny: Path) -> None:
    start = tiny.stat().st_size - gguf_file.read(tiny).data_bytes
    source = random.Random(2)
    # Half of them where the numbers are, and half anywhere.
    offsets = [source.randrange(1_200 if index % 2 else start) for index in range(HEADER_FLIPS)]
    outcomes: Counter[str] = Counter()
    for offset in offsets:
        with flipped(tiny, offset, source.randrange(8)):
            outcomes[outcome(tiny)] += 1
    assert outcomes["refused"] > HEADER_FLIPS / 5
    assert outcomes["served"] > HEADER_FLIPS / 5


def test_flips_in_tensors(tiny: Path) -> None:
    size, bytes_ = tiny.stat().st_size, gguf_file.read(tiny).data_bytes
    source = random.Random(3)
    outcomes: Counter[str] = Counter()
    for _ in range(TENSOR_FLIPS):
        with flipped(tiny, source.randrange(size - bytes_, size), source.randrange(8)):
            outcomes[outcome(tiny)] += 1
    # A weight that is changed is still a weight, but for what is no number.
    assert outcomes["served"] > TENSOR_FLIPS / 2


def test_damage_of_a_real_model(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    shutil.copyfile(smollm2(), path)
    size = path.stat().st_size
    start = size - gguf_file.read(path).data_bytes
    source = random.Random(4)
    for _ in range(LARGE_HEADER_FLIPS):
        with flipped(path, source.randrange(2_400), source.randrange(8)):
            outcome(path)
    for _ in range(LARGE_TENSOR_FLIPS):
        with flipped(path, source.randrange(start, size), source.randrange(8)):
            outcome(path)
    for length in sorted(source.sample(range(size), LARGE_CUTS), reverse=True):
        with path.open("r+b") as file:
            file.truncate(length)
        assert outcome(path) == "refused"
