"""A client that makes a call each 10 ms until its input ends: `python -m tests.support.steady_client PORT`.

It is a process of its own, as a thread would wait for what else its interpreter does.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from tests.support.load import IRIS_CALL

ADDRESS = "127.0.0.2"
_PAUSE = 0.01
_PATIENCE = 60


@dataclass(frozen=True)
class Calls:
    """How long each call took, and what failed."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


class SteadyClient:
    """The process; it calls from now on."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.steady_client", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def stop(self) -> Calls:
        said, _ = self._process.communicate(timeout=_PATIENCE)
        return Calls(**json.loads(said))


def _call(port: int, is_over: threading.Event) -> Calls:
    calls = Calls()
    connection = http.client.HTTPConnection("127.0.0.1", port, 20, (ADDRESS, 0))
    while not is_over.wait(_PAUSE):
        began = time.monotonic()
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v2/models/iris/infer", IRIS_CALL, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                calls.failures.append(f"{answer.status} {text[:200]!r}")
        except (OSError, http.client.HTTPException) as error:
            calls.failures.append(repr(error))
            connection.close()
        calls.seconds.append(time.monotonic() - began)
    connection.close()
    return calls


def main() -> None:
    is_over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=wait).start()
    calls = _call(int(sys.argv[1]), is_over)
    print(json.dumps({"seconds": calls.seconds, "failures": calls.failures}))


if __name__ == "__main__":
    main()
