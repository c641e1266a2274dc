"""A kit's own Python reaches its kit and its own directory: no other files, no network, no others."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest

from runtimes.base import Resources
from runtimes.containment import landlock
from runtimes.python.model import PythonModel
from runtimes.python.runtime import PythonOptions, PythonRuntime

KIT = """
import errno, json, os, socket, subprocess
from pathlib import Path

def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

class Model:
    def __init__(self):
        self.loading = attempt(lambda: Path(OTHER).read_text())

    def predict(self, x: list[float]) -> list[str]:
        return [json.dumps({
            "another kit, while it loads": self.loading,
            "another kit": attempt(lambda: Path(OTHER).read_text()),
            "home": attempt(lambda: os.listdir(USERS_HOME)),
            "worker's variables": attempt(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()),
            "worker's memory": attempt(lambda: open(f"/proc/{os.getppid()}/mem", "rb")),
            "worker": attempt(lambda: os.kill(os.getppid(), 0)),
            "network": attempt(lambda: socket.create_connection(("127.0.0.1", PORT), 1)),
            "Unix socket": attempt(lambda: socket.socket(socket.AF_UNIX).connect(SOCKET)),
            "shell": attempt(lambda: subprocess.run(["/bin/sh", "-c", "true"])),
            "its kit": attempt(lambda: (Path(__file__).parent / "data.txt").read_text()),
            "write to its kit": attempt(lambda: (Path(__file__).parent / "new").write_text("")),
            "its home": attempt(lambda: (Path.home() / "new").write_text("")),
            "subprocess": attempt(lambda: os.waitpid(os.posix_spawn(
                sys_executable(), [sys_executable(), "-c", "1"], os.environ), 0)),
        })]

def sys_executable():
    import sys
    return sys.executable
"""


@pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
def test_a_kit_of_code_reaches_its_kit_and_its_own_directory(tmp_path: Path) -> None:
    kit, other = tmp_path / "kit", tmp_path / "other"
    for directory in (kit, other):
        directory.mkdir()
        (directory / "data.txt").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "admin.sock"))
        local.listen()
        names = {
            "OTHER": str(other / "data.txt"),
            "USERS_HOME": str(Path.home()),
            "PORT": server.getsockname()[1],
            "SOCKET": str(tmp_path / "admin.sock"),
        }
        values = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        (kit / "kitserve.py").write_text(KIT.replace("class Model", f"{values}\nclass Model"))
        model = PythonRuntime().start(kit / "kitserve.py", Resources(), PythonOptions(timeout=30))
        assert isinstance(model, PythonModel)
        try:
            results = json.loads(model.infer({"x": np.array([1.0])})["output"][0])
        finally:
            model.close()
    allowed = ("its kit", "its home", "subprocess")
    assert {name: results.pop(name) for name in allowed} == dict.fromkeys(allowed, "done")
    if landlock.abi() < 6:
        results.pop("worker")
    assert set(results.values()) <= {"EACCES", "EPERM"}, results
    assert not (kit / "new").exists()
