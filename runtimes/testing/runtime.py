"""The contract of every runtime, whatever its models can do."""

from __future__ import annotations

import shutil
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

    def test_loads_from_a_directory_that_may_not_be_written(
        self, runtime: Runtime, model_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        directory = tmp_path_factory.mktemp("read-only") / "model"
        shutil.copytree(model_path.parent, directory)
        entries = [directory, *directory.rglob("*")]
        for path in entries:
            path.chmod(0o555 if path.is_dir() else 0o444)
        # To root nothing is forbidden, so that it is looked whether anything was written.
        before = _facts(directory)
        try:
            runtime.load(directory / model_path.name, Resources()).close()
            assert _facts(directory) == before
        finally:
            for path in entries:
                path.chmod(0o755)

    def test_importing_it_imports_no_engine(self, runtime: Runtime) -> None:
        module = type(runtime).__module__
        program = f"import sys, {module}; sys.exit({self.engine!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _facts(directory: Path) -> dict[Path, tuple[int, int, int]]:
    """Return the mode, the size and the time of change of everything in a directory."""
    stats = {path: path.stat() for path in (directory, *directory.rglob("*"))}
    return {path: (stat.st_mode, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
