"""ONNX Runtime keeps the contract, on the sample classifier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtimes.base import Array, Resources, TensorModel
from runtimes.errors import LoadError
from runtimes.onnx import OnnxRuntime
from runtimes.testing import ProcessContract, TensorContract


class TestOnnx(TensorContract, ProcessContract):
    engine = "onnxruntime"

    @pytest.fixture
    def runtime(self) -> OnnxRuntime:
        return OnnxRuntime()

    @pytest.fixture
    def model_path(self, sample: Callable[[str], Path]) -> Path:
        return sample("/iris:v1") / "model" / "iris.onnx"

    @pytest.fixture
    def inputs(self, flowers: Array) -> dict[str, Array]:
        return {"input": flowers}

    @pytest.fixture
    def expected(self, probabilities: Array) -> dict[str, Array]:
        return {"probabilities": probabilities, "label": np.array([0, 2, 1])}

    def test_several_threads_may_call_at_once(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        answers: list[dict[str, Array]] = []

        def ask() -> None:
            answers.extend(model.infer(inputs) for _ in range(50))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 200
        for answer in answers:
            self.assert_same(answer, expected)

    def test_gives_outputs_in_the_asked_order(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        assert list(model.infer(inputs, ["label", "probabilities"])) == ["label", "probabilities"]

    def test_a_gpu_that_is_asked_for_and_not_usable_is_an_error(
        self, runtime: OnnxRuntime, model_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # One that is there is not.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with pytest.raises(
            LoadError,
            match=r"is to run on a GPU, and ONNX Runtime .* or let the CPU compute with `device: prefer-gpu`",
        ):
            runtime.load(model_path, Resources(gpus=1))
