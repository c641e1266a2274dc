"""The runtime of a kit's own Python keeps the contract, on a class with numbers and texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runtimes.base import Array, Runtime, TensorSpec
from runtimes.python.runtime import PythonRuntime
from runtimes.testing import TensorContract

MODEL = """
from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
from numpy.typing import NDArray


class Answer(TypedDict):
    total: Annotated[NDArray[np.float32], (-1,)]
    text: list[str]


class Model:
    def load(self, path: Path) -> None:
        self.factor = json.loads((path / "weights.json").read_text())

    def predict(self, flowers: Annotated[NDArray[np.float32], (-1, 4)], name: list[str]) -> Answer:
        total = (flowers * np.float32(self.factor)).sum(axis=1)
        return {"total": total, "text": [f"{text}!" for text in name]}
"""


class TestKitserve(TensorContract):
    engine = "kitserve"

    @pytest.fixture
    def runtime(self) -> PythonRuntime:
        return PythonRuntime()

    @pytest.fixture
    def model_path(self, tmp_path: Path) -> Path:
        (tmp_path / "weights.json").write_text(json.dumps(2))
        path = tmp_path / "kitserve.py"
        path.write_text(MODEL)
        return path

    @pytest.fixture
    def inputs(self, flowers: Array) -> dict[str, Array]:
        return {"flowers": flowers, "name": np.array([b"a", "ö".encode(), b"ccc"], object)}

    @pytest.fixture
    def expected(self, flowers: Array) -> dict[str, Array]:
        text = np.array([b"a!", "ö!".encode(), b"ccc!"], object)
        return {"total": 2 * flowers.sum(axis=1), "text": text}

    def test_is_a_runtime_that_reads_the_sample(self, runtime: Runtime, model_path: Path) -> None:
        # What an entry is, its kit says: by its content it is text.
        assert [format_.title for format_ in runtime.formats] == ["Python of the kit"]

    def test_signature(self, model: object, inputs: dict[str, Array]) -> None:
        assert model.signature.inputs == (  # type: ignore[attr-defined]
            TensorSpec("flowers", "FP32", (-1, 4)),
            TensorSpec("name", "BYTES", (-1,)),
        )
        assert model.signature.outputs == (  # type: ignore[attr-defined]
            TensorSpec("total", "FP32", (-1,)),
            TensorSpec("text", "BYTES", (-1,)),
        )
