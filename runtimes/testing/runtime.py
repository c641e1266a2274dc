"""The contract of every runtime, whatever its models can do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from runtimes.base import LoadedModel, Resources, Runtime
from runtimes.errors import LoadError
from runtimes.formats import identify
from runtimes.hugging_face.directory import with_directories


class RuntimeContract:
    """What every runtime promises; inherit the suite of a capability, which is this one and more."""

    engine: ClassVar[str]
    """The module that importing the runtime must not import."""
    capability: ClassVar[type]
    """What its models can do: a protocol of `runtimes.base`. Each suite names its own."""

    @pytest.fixture
    def runtime(self) -> Runtime:
        raise NotImplementedError

    @pytest.fixture
    def model_path(self) -> Path:
        raise NotImplementedError

    @pytest.fixture
    def model(self, runtime: Runtime, model_path: Path) -> Iterator[LoadedModel]:
        loaded = runtime.load(model_path, Resources())
        yield loaded
        loaded.close()

    def test_is_a_runtime_that_reads_the_sample(self, runtime: Runtime, model_path: Path) -> None:
        assert isinstance(runtime, Runtime)
        formats = with_directories({model_path: identify(model_path)})
        assert set(formats.values()) <= set(runtime.formats)

    def test_loads(self, model: LoadedModel) -> None:
        assert isinstance(model, LoadedModel)
        assert model.platform
        assert model.device == "cpu" or model.device.startswith("cuda:")

    def test_model_has_the_capability_of_the_suite(self, model: LoadedModel) -> None:
        assert isinstance(model, self.capability)

    @pytest.mark.parametrize("damage", ["empty", "cut", "noise", "missing"])
    def test_damaged_file_is_named(
        self, runtime: Runtime, model_path: Path, tmp_path: Path, damage: str
    ) -> None:
        whole = model_path.read_bytes()
        path = tmp_path / f"damaged{model_path.suffix}"
        if damage != "missing":
            path.write_bytes(
                {"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\xff\x00" * 500}[damage]
            )
        with pytest.raises(LoadError, match=r"damaged"):
            runtime.load(path, Resources())

    def test_importing_it_imports_no_engine(self, runtime: Runtime) -> None:
        module = type(runtime).__module__
        program = f"import sys, {module}; sys.exit({self.engine!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
