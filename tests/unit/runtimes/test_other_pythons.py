"""Unpacking is as strict on every Python as on the one that runs the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"


def _interpreters() -> dict[str, str]:
    """Return an interpreter of each version of Python that is installed, by version."""
    interpreters = {sys.version[:4]: sys.executable}
    for version in VERSIONS:
        paths = [*map(str, PYENV.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
        for path in filter(None, paths):
            if _version(path) == version:
                interpreters[version] = path
    return interpreters


def _version(path: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run(
        [path, "-S", "-c", code], capture_output=True, text=True, check=False
    ).stdout.strip()


INTERPRETERS = _interpreters()


@pytest.mark.parametrize("version", VERSIONS)
def test_hostile_archives(version: str, tmp_path: Path) -> None:
    if version not in INTERPRETERS:
        pytest.skip(f"no Python {version} here")
    # Without site-packages: unpacking asks for nothing but Python.
    done = subprocess.run(
        [INTERPRETERS[version], "-S", "-s", "-m", "tests.support.archives"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == {}
    assert report["cases"] > 300
