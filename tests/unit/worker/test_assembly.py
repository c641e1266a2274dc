"""An app has the handlers of what its model can do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.errors import UnusableModel
from gateway.metrics.tally import Tally
from gateway.worker.assembly import build_app
from gateway.worker.version import Identity


class Incapable:
    """A loaded model that has no capability."""

    platform = "test_incapable"
    device = "cpu"

    def close(self) -> None:
        pass


def test_a_model_that_can_do_nothing_is_not_served() -> None:
    with pytest.raises(UnusableModel, match=r"^model iris: Incapable can do nothing that is served"):
        build_app(Identity("iris", "v1", "sha256:12"), Incapable(), Tally())


def test_workers_of_other_models_import_nothing_of_language_models() -> None:
    script = """
import sys
from gateway.worker.assembly import build_app
names = ("worker.openai", "worker.language", "engine.generation", "wire.upstream", "codec.openai.request")
print([name for name in names if f"gateway.{name}" in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
