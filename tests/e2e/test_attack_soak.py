"""Every attack on connections and bodies at once, beside a caller who wants an answer. For `make soak`."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gateway.edge.haproxy import ask
from gateway.metrics.memory import total_resident_bytes
from gateway.wire.limits import ARRIVING_BYTES
from tests.support.kitserve import Running
from tests.support.load import IRIS_CALL

NEIGHBOUR = "127.0.0.2"
SECONDS = float(os.environ.get("KITSERVE_ATTACK_SECONDS", "300"))
MIB = 1024 * 1024


class Neighbour:
    """A client that makes a call each 10 ms, and notes how long it took and what failed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self._thread.start()

    def stop(self) -> float:
        """Returns the 99th percentile in seconds."""
        self._is_over.set()
        self._thread.join(30)
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]

    def _call(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, 20, (NEIGHBOUR, 0))
        while not self._is_over.wait(0.01):
            began = time.monotonic()
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/v2/models/iris/infer", IRIS_CALL, headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {text[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            self.seconds.append(time.monotonic() - began)
        connection.close()


@pytest.mark.soak
def test_a_neighbour_of_an_attacker_is_served(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"iris": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
    kitserve.apply()
    kitserve.wait(lambda status: status["models"] and status["models"][0]["state"] == "ready")
    runtime_socket = kitserve.edge().runtime_socket

    def number(name: str) -> int:
        lines = ask(runtime_socket, "show info").splitlines()
        return int(next(line.split(": ")[1] for line in lines if line.startswith(f"{name}: ")))

    watched = {
        "worker": (kitserve.workers("iris"), ARRIVING_BYTES + 400 * MIB),
        "gateway": (kitserve.gateway(), 200 * MIB),
        # Buffers of 64 KiB, two for a call.
        "edge": ([number("Pid")], 384 * MIB),
    }
    before = {name: total_resident_bytes(pids) for name, (pids, _) in watched.items()}
    growth = dict.fromkeys(watched, 0)

    neighbour = Neighbour(kitserve.port)
    time.sleep(min(20.0, SECONDS))
    quiet = neighbour.stop()
    assert not neighbour.failures

    attack = subprocess.Popen(
        [sys.executable, "-m", "tests.support.attack", str(kitserve.port), str(SECONDS)],
        stdout=subprocess.PIPE,
    )
    neighbour = Neighbour(kitserve.port)
    while attack.poll() is None:
        for name, (pids, _) in watched.items():
            growth[name] = max(growth[name], total_resident_bytes(pids) - before[name])
        time.sleep(0.2)
    attacked = neighbour.stop()
    assert attack.stdout is not None
    said = json.loads(attack.stdout.read())

    time.sleep(10)
    after = Neighbour(kitserve.port)
    time.sleep(min(20.0, SECONDS))
    afterwards = after.stop()
    kept = {name: total_resident_bytes(pids) - before[name] for name, (pids, _) in watched.items()}
    print(
        json.dumps(
            {
                "p99_ms": {"quiet": quiet * 1e3, "attacked": attacked * 1e3, "afterwards": afterwards * 1e3},
                "calls": len(neighbour.seconds),
                "slowest_ms": max(neighbour.seconds) * 1e3,
                "growth_mib": {name: size // MIB for name, size in growth.items()},
                "kept_mib": {name: size // MIB for name, size in kept.items()},
                "attack": said,
            },
            indent=1,
        )
    )
    assert all(said["rounds"].values()), said
    assert neighbour.failures == []
    assert after.failures == []
    assert attacked < 10 * quiet, (quiet, attacked)
    assert afterwards < 2 * quiet, (quiet, afterwards)
    for name, (_, limit) in watched.items():
        assert growth[name] < limit, (name, growth[name] // MIB)
    assert kept["edge"] < 64 * MIB, kept["edge"] // MIB
    assert number("CurrConns") < 20
