"""The sample kits' models, unpacked from the OCI layout in `configs/samples`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.base import Array

pytest.register_assert_rewrite("runtimes.testing")

_LAYOUT = Path(__file__).parents[2] / "configs" / "samples"

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], dtype=np.float32)
PROBABILITIES = np.array(
    [
        [0.98157287, 0.01842713, 1.4781e-08],
        [5.6413e-05, 0.08067714, 0.91926646],
        [0.0151952, 0.8985231, 0.08628174],
    ],
    dtype=np.float32,
)


@pytest.fixture
def flowers() -> Array:
    """Three rows of measurements, FP32 [3, 4]: one flower of each kind."""
    return FLOWERS.copy()


@pytest.fixture
def probabilities() -> Array:
    """What the sample classifier says of them, FP32 [3, 3]."""
    return PROBABILITIES.copy()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the directory of a sample kit by its ref name, `iris:v1`."""

    def blob(digest: str) -> Path:
        return _LAYOUT / "blobs" / digest.replace(":", "/")

    def unpack(ref: str) -> Path:
        index: dict[str, Any] = json.loads((_LAYOUT / "index.json").read_bytes())
        digest = next(
            entry["digest"]
            for entry in index["manifests"]
            if entry["annotations"]["org.opencontainers.image.ref.name"].endswith(ref)
        )
        directory = tmp_path_factory.mktemp("sample")
        for layer in json.loads(blob(digest).read_bytes())["layers"]:
            with tarfile.open(blob(layer["digest"])) as archive:
                archive.extractall(directory, filter="data")
        return directory

    return unpack
