"""What the gateway tells of itself and its machine."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from gateway.control.state.database import State
from gateway.control.state.desired import Desired
from gateway.control.state.status import Status
from gateway.control.state.vitals import Vitals
from gateway.errors import StoreError
from gateway.logs.counts import LineCounts
from tests.support.certificates import make_certificates


class Loop:
    status = Status(1)
    succeeded_at = 12.0
    failures = 3


def test_the_gateway_tells_of_itself_and_of_its_machine(tmp_path: Path) -> None:
    state, lines = State(tmp_path / "state.db"), LineCounts()
    state.apply(Desired(), "{}")
    state.apply(Desired(), "{}")
    lines.count(logging.LogRecord("gateway", logging.ERROR, "", 1, "tick.failed", (), None))
    (tmp_path / "pki").mkdir()
    server = make_certificates(tmp_path / "pki").server
    file, absent = tmp_path / "tls.pem", tmp_path / "absent.pem"
    # HAProxy's copy has the private key in it, too.
    file.write_bytes(server.cert_file.read_bytes() + server.key_file.read_bytes())
    vitals = Vitals(tmp_path, Loop(), state, lines, {"listen": file, "admin": absent})
    sample = vitals.sample()
    assert (sample.reconciled, sample.failed_ticks) == (12.0, 3)
    assert (sample.generation, sample.observed_generation) == (2, 1)
    assert sample.log_lines == {("error", "tick.failed"): 1}
    assert list(sample.certificate_ends) == ["listen"]
    assert sample.certificate_ends["listen"] > time.time()
    assert sample.disk is not None
    assert sample.disk[0] >= sample.disk[1] > 0
    assert sample.memory is not None
    assert sample.memory.total > sample.memory.free > 0
    assert abs(sample.started - time.time()) < 60
    state.close()
    with pytest.raises(StoreError):
        state.desired()
    later = vitals.sample()
    assert (later.state_errors, later.generation) == (1, 2), "the last number that was read"
