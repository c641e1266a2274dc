"""What a worker gives up, in a process of its own that does as a replica does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.worker.containment import ALL
from runtimes.containment import landlock

ROOT = Path(__file__).parents[2]
WORKER = """
import json, logging, os, sys, tempfile
from pathlib import Path
from gateway.worker.containment import WorkerContainment
home, kit = map(Path, sys.argv[1:])
contained = WorkerContainment(home, kit)
contained.contain(has_child=False)
def attempt(action):
    try:
        return action() and "done"
    except OSError as error:
        return type(error).__name__
moved = Path(tempfile.mkdtemp()) / "link"
print(json.dumps({
    "on": contained.on,
    "kit": attempt((kit / "model").read_text),
    "other kit": attempt((home / "cache" / "other").read_text),
    "state": attempt((home / "state.db").read_text),
    "log": attempt(lambda: (home / "logs" / "kitserve.log").open("a").write("line")),
    "traps": [
        attempt(lambda: os.symlink(home / "state.db", home / "logs" / "link") or True),
        attempt(lambda: os.mkfifo(home / "memory" / "pipe") or True),
        attempt(lambda: os.symlink(home, moved) or os.rename(moved, home / "hung" / "link") or True),
    ],
    "own link": attempt(lambda: moved.is_symlink()),
    "renamed": attempt(lambda: (home / "logs" / "kitserve.log").rename(home / "logs" / "kitserve.log.1")),
    "home": os.environ["HOME"],
    "temporary": tempfile.mkdtemp(),
    "secret": os.environ.get("REGISTRY_PASSWORD"),
    "token": os.environ.get("RAY_AUTH_TOKEN") or "of-ray" in open("/proc/self/environ").read(),
}))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
def test_a_worker_reads_its_kit_and_writes_the_log(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for directory in ("logs", "memory", "cache/kit"):
        (home / directory).mkdir(parents=True)
    for file in ("cache/kit/model", "cache/other", "state.db"):
        (home / file).write_text("content")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    left = temporary / "kitserve-worker-left"
    left.mkdir()
    environment = {
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
        "REGISTRY_PASSWORD": "x",
        "RAY_AUTH_TOKEN": "of-ray",
        "PATH": "/bin",
    }
    command = [sys.executable, "-c", WORKER, str(home), str(home / "cache" / "kit")]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    results = json.loads(output.stdout)
    assert set(results["on"]) == set(ALL)
    assert (results["kit"], results["log"], results["secret"]) == ("done", "done", None)
    assert results["token"] is False
    assert (results["other kit"], results["state"]) == ("PermissionError", "PermissionError")
    # What others read or write there is no link to what the worker may not read, and nothing that waits.
    assert results["traps"] == ["PermissionError"] * 3
    assert (results["own link"], results["renamed"]) == ("done", "done")
    assert results["temporary"].startswith(results["home"])
    assert results["home"].startswith(str(temporary))
    # It may be of a worker that has made it just now.
    assert left.exists()
