"""Mutated pickles end in an error or in a model: nothing is imported, opened or run, and nothing crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def fuzz(seconds: int, seed: int, directory: Path) -> dict[str, int]:
    """Run the fuzz in a process of its own, which the audit hook or a crash would end."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.support.pickle_fuzz", str(seconds), str(seed)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-4000:])
    assert list(directory.iterdir()) == []
    # LightGBM writes lines of its own before it.
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def test_mutated_pickles_import_and_run_nothing(tmp_path: Path) -> None:
    counts = fuzz(60, 1, tmp_path)
    assert counts["refused"] > 10
    assert counts["loaded"] > 10
    assert counts["predicted"] > 10


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_mutated_pickles_import_and_run_nothing_for_long(tmp_path: Path) -> None:
    assert fuzz(600, int.from_bytes(os.urandom(4)), tmp_path)["all"] > 10_000
