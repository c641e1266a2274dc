"""The suites of the contract: a small runtime keeps all of it, and what breaks a promise is found."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtimes.base import Array
from runtimes.testing import (
    LabelledContract,
    OnRequestContract,
    ProcessContract,
    RuntimeContract,
    TableContract,
    TensorContract,
)
from runtimes.testing.child import Job
from runtimes.testing.mutations import WAYS, mutated
from runtimes.testing.process import _done, _faults, is_one_core
from tests.support.model_files import zipped
from tests.support.toy_runtime import (
    SAMPLE,
    CrashingRuntime,
    HoardingRuntime,
    ToyRuntime,
    WritingRuntime,
)


def words(*texts: str) -> Array:
    return np.array([[text.encode()] for text in texts], object)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "toy.json"
    path.write_bytes(SAMPLE)
    return path


class TestToy(TensorContract, TableContract, OnRequestContract, LabelledContract, ProcessContract):
    engine = "torch"

    @pytest.fixture
    def runtime(self) -> ToyRuntime:
        return ToyRuntime()

    @pytest.fixture
    def model_path(self, model_path: Path) -> Path:
        return model_path

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {
            "age": np.array([[4.0], [8.0], [2.0]]),
            "income": np.array([[1.0], [2.5], [0.5]]),
            "town": words("Oslo", "Bergen", "Rome"),
        }

    @pytest.fixture
    def on_request(self) -> dict[str, Array]:
        return {"decision_function": np.array([3.0, 0.0, 0.0])}

    @pytest.fixture
    def expected(self) -> dict[str, Array]:
        yes = 1 / (1 + np.exp(-np.array([3.0, 0.0, 0.0])))
        return {
            "predict": words("yes", "no", "no")[:, 0],
            "predict_proba": np.stack([1 - yes, yes], axis=1),
        }

    @pytest.fixture
    def labels(self) -> dict[str, tuple[str, ...]]:
        return {"predict_proba": ("no", "yes")}


@pytest.fixture
def job(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    scratch = tmp_path_factory.mktemp("child")
    runtime = (CrashingRuntime.__module__, CrashingRuntime.__name__)
    inputs = {"age": np.zeros((1, 1)), "income": np.zeros((1, 1)), "town": words("Oslo")}
    return Job("damage", runtime, model_path, model_path, inputs, scratch / "report", scratch)


def test_a_runtime_that_crashes_is_found_with_the_seeds(job: Job) -> None:
    faults = _faults(job, range(-1, 60))
    assert any("the process was killed by SIGABRT" in fault for fault in faults)
    assert any("which is no ModelError" in fault for fault in faults)
    assert all(fault.startswith("seed ") for fault in faults)
    again = _faults(job, [int(fault.split()[1].rstrip(":")) for fault in faults])
    assert [fault.split(":")[0] for fault in again] == [fault.split(":")[0] for fault in faults]


def test_a_sample_that_is_not_served_is_a_fault(job: Job) -> None:
    job.model_path.write_bytes(SAMPLE.replace(b"classes", b"cla55es"))
    (fault,) = _faults(job, range(-1, 10))
    assert fault.startswith("the sample itself is not served: loading raises KeyError")


def test_a_runtime_that_keeps_what_it_loaded_is_found(job: Job) -> None:
    warm, last = _done(replace(job, task="memory", runtime=(job.runtime[0], HoardingRuntime.__name__)))
    assert last["bytes"] - warm["bytes"] > 15 * 2**20


def test_a_runtime_that_writes_beside_the_model_is_found(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    suite = RuntimeContract()
    suite.test_loads_from_a_directory_that_may_not_be_written(ToyRuntime(), model_path, tmp_path_factory)
    with pytest.raises(AssertionError):
        suite.test_loads_from_a_directory_that_may_not_be_written(
            WritingRuntime(), model_path, tmp_path_factory
        )


@pytest.mark.parametrize(
    ("threads", "expected"),
    [([0.8], True), ([0.8, 0.1], True), ([0.4, 0.4], True), ([0.8, 0.8], False), ([0.5] * 3, False)],
)
def test_threads_that_compute_at_once_take_more_than_one_core(threads: list[float], expected: bool) -> None:
    assert is_one_core(threads, 0.8) is expected


def test_damage_is_told_by_its_seed() -> None:
    data = bytes(range(256)) * 20 + SAMPLE
    results = [mutated(data, seed) for seed in range(200)]
    assert results == [mutated(data, seed) for seed in range(200)]
    assert len(set(results)) > 150
    assert data not in results[:WAYS]


@pytest.mark.parametrize("data", [b"", b"x", b"12", b"PK\x03\x04"])
def test_short_files_are_damaged_too(data: bytes) -> None:
    assert all(isinstance(mutated(data, seed), bytes) for seed in range(100))


def test_a_zip_is_damaged_within_a_member_as_well(tmp_path: Path) -> None:
    data = zipped({"a.json": b'{"a": 1}', "b.bin": bytes(range(200)), "empty": b""})
    whole = 0
    for seed in range(100):
        path = tmp_path / "x.zip"
        path.write_bytes(mutated(data, seed))
        broken = (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError)
        with suppress(*broken), zipfile.ZipFile(path) as archive:
            whole += archive.testzip() is None
    assert whole > 40
