"""A language model is loaded only where the machine has the memory that it needs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gateway.contract import Passing
from gateway.errors import NoMemory, UnusableModel
from gateway.kits.language import LanguageModel
from gateway.kits.library import Library, UnpackedKit
from gateway.metrics.machine import MachineMemory
from gateway.oci.reference import parse_reference
from gateway.worker import admission
from gateway.worker.admission import Admission
from runtimes.base import Resources
from runtimes.engines.base import EngineOptions, Memory
from runtimes.formats import Format
from runtimes.onnx import OnnxRuntime
from runtimes.select import Choice
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit
from tests.support.language import GIB, MadeUpEngines
from tests.support.waiting import wait

LANGUAGE = LanguageModel(EngineOptions(context=8192))
CPUS = Resources()


@pytest.fixture
def kit(tmp_path: Path) -> UnpackedKit:
    builder = LayoutBuilder(tmp_path / "layout")
    pack_kit(builder, "chat:v1", ("model", "model.gguf", {"model.gguf": b"GGUF weights"}))
    return Library(tmp_path / "cache").open(parse_reference(f"oci-layout:{builder.directory}:chat:v1"))


class Node:
    """A node with 24 GiB of memory, of which `free` are."""

    def __init__(self, directory: Path) -> None:
        self.free = 6 * GIB
        self.directory = directory / "memory"
        self.waits = 0
        self.admission = Admission(self.directory, lambda: MachineMemory(24 * GIB, self.free), self.wait)

    def wait(self) -> None:
        self.waits += 1

    @property
    def reservations(self) -> list[Path]:
        return [path for path in self.directory.glob("*") if path.name != "lock"]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def choice(kit: UnpackedKit, weights: float, cache: float = 0, other: float = 0) -> Choice:
    need = Memory(int(weights * GIB), int(cache * GIB), int(other * GIB))
    return Choice(MadeUpEngines(need), kit.model_path, Format.GGUF)


def test_a_model_that_fits_is_reserved_for_while_it_loads(kit: UnpackedKit, node: Node) -> None:
    with node.admission.admitted(kit, choice(kit, 4, 1.5), LANGUAGE, CPUS):
        assert node.waits == 0
        assert [path.read_text() for path in node.reservations] == [str(int(5.5 * GIB))]
    assert node.reservations == []


def test_one_that_does_not_fit_now_is_refused_with_the_arithmetic_and_tried_again(
    kit: UnpackedKit, node: Node
) -> None:
    with (
        pytest.raises(NoMemory) as caught,
        node.admission.admitted(kit, choice(kit, 7.9, 1.25, 0.1), LANGUAGE, CPUS),
    ):
        pass
    assert str(caught.value) == (
        f"{kit.kit.reference}: needs 9.2 GiB: 7.9 GiB weights + 1.2 GiB key-value cache (4 slots of 8192 "
        "tokens) + 102 MiB buffers; 6.0 GiB are free of 24.0 GiB; set a smaller `context` or fewer `slots` "
        "in the model's `engine`, take a kit with fewer bits per weight, or stop what takes the memory"
    )
    assert Passing.of(caught.value) == Passing()
    assert node.reservations == []


def test_one_that_never_fits_is_refused_for_good(kit: UnpackedKit, node: Node) -> None:
    with (
        pytest.raises(
            UnusableModel, match=r"needs 30\.0 GiB: .*; this machine has 24\.0 GiB; .* larger machine"
        ),
        node.admission.admitted(kit, choice(kit, 30), LANGUAGE, CPUS),
    ):
        pass


def test_others_are_always_admitted(kit: UnpackedKit, node: Node) -> None:
    node.free = 0
    with node.admission.admitted(kit, choice(kit, 100), LANGUAGE, Resources(gpus=1)):
        pass
    tensors = Choice(OnnxRuntime(), kit.model_path, Format.ONNX)
    with node.admission.admitted(kit, tensors, LanguageModel(), CPUS):
        pass
    assert node.reservations == []


def test_weights_that_another_engine_has_mapped_are_not_needed_again(
    kit: UnpackedKit, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "is_mapped", lambda path: path == kit.model_path)
    with node.admission.admitted(kit, choice(kit, 10, 1), LANGUAGE, CPUS):
        assert [path.read_text() for path in node.reservations] == [str(GIB)]


def test_of_two_that_load_at_a_time_the_second_waits_where_both_may_not_fit(
    kit: UnpackedKit, node: Node
) -> None:
    entered = threading.Event()

    def load() -> None:
        with node.admission.admitted(kit, choice(kit, 4), LANGUAGE, CPUS):
            entered.set()

    second = threading.Thread(target=load)
    with node.admission.admitted(kit, choice(kit, 4), LANGUAGE, CPUS):
        second.start()
        wait(lambda: node.waits > 1)
        assert not entered.is_set()
        with node.admission.admitted(kit, choice(kit, 1), LANGUAGE, CPUS):
            assert len(node.reservations) == 2
    assert entered.wait(5)
    second.join()


def test_the_second_is_refused_once_the_first_has_taken_the_memory(kit: UnpackedKit, node: Node) -> None:
    refused: list[NoMemory] = []

    def load() -> None:
        try:
            with node.admission.admitted(kit, choice(kit, 4), LANGUAGE, CPUS):
                pass
        except NoMemory as error:
            refused.append(error)

    second = threading.Thread(target=load)
    with node.admission.admitted(kit, choice(kit, 4), LANGUAGE, CPUS):
        second.start()
        node.free = 2 * GIB
    second.join(5)
    assert "2.0 GiB are free of 24.0 GiB" in str(refused[0])


def test_the_reservation_of_a_worker_that_died_counts_for_nothing(kit: UnpackedKit, node: Node) -> None:
    node.directory.mkdir()
    (node.directory / "left").write_text(str(100 * GIB))
    with node.admission.admitted(kit, choice(kit, 4), LANGUAGE, CPUS):
        wait(lambda: not (node.directory / "left").exists())


def test_what_a_kit_put_among_the_reservations_is_removed_and_not_followed(
    kit: UnpackedKit, node: Node, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1" * 12)
    node.directory.mkdir()
    (node.directory / "lock").symlink_to(tmp_path / "made")
    (node.directory / "link").symlink_to(secret)
    os.mkfifo(node.directory / "pipe")
    with node.admission.admitted(kit, choice(kit, 4), LANGUAGE, CPUS):
        assert [path.read_text() for path in node.reservations] == [str(4 * GIB)]
    assert secret.read_text() == "1" * 12
    assert not (tmp_path / "made").exists()
