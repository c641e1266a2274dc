"""Every attack on connections and bodies at once, beside a caller who wants an answer. For `make soak`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.edge.haproxy import ask
from gateway.metrics.memory import total_resident_bytes
from gateway.wire.limits import ARRIVING_BYTES
from tests.support.kitserve import Running
from tests.support.steady_client import SteadyClient

SECONDS = float(os.environ.get("KITSERVE_ATTACK_SECONDS", "300"))
MIB = 1024 * 1024


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

    client = SteadyClient(kitserve.port)
    time.sleep(min(20.0, SECONDS))
    quiet = client.stop()
    assert not quiet.failures

    attack = subprocess.Popen(
        [sys.executable, "-m", "tests.support.attack", str(kitserve.port), str(SECONDS)],
        stdout=subprocess.PIPE,
    )
    client = SteadyClient(kitserve.port)
    while attack.poll() is None:
        for name, (pids, _) in watched.items():
            growth[name] = max(growth[name], total_resident_bytes(pids) - before[name])
        time.sleep(0.2)
    attacked = client.stop()
    said = json.loads(attack.communicate()[0])
    assert attack.returncode == 0

    time.sleep(10)
    client = SteadyClient(kitserve.port)
    time.sleep(min(20.0, SECONDS))
    afterwards = client.stop()
    kept = {name: total_resident_bytes(pids) - before[name] for name, (pids, _) in watched.items()}
    print(
        json.dumps(
            {
                "p99_ms": {
                    "quiet": quiet.p99 * 1e3,
                    "attacked": attacked.p99 * 1e3,
                    "afterwards": afterwards.p99 * 1e3,
                },
                "calls": len(attacked.seconds),
                "slowest_ms": max(attacked.seconds) * 1e3,
                "growth_mib": {name: size // MIB for name, size in growth.items()},
                "kept_mib": {name: size // MIB for name, size in kept.items()},
                "attack": said,
            },
            indent=1,
        )
    )
    assert all(said["rounds"].values()), said
    assert attacked.failures == []
    assert afterwards.failures == []
    assert attacked.p99 < 10 * quiet.p99, (quiet.p99, attacked.p99)
    assert afterwards.p99 < 2 * quiet.p99, (quiet.p99, afterwards.p99)
    for name, (_, limit) in watched.items():
        assert growth[name] < limit, (name, growth[name] // MIB)
    assert kept["edge"] < 64 * MIB, kept["edge"] // MIB
    assert number("CurrConns") < 20
