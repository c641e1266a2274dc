"""The resident memory of processes."""

import os
import signal
import subprocess
import sys

from gateway.metrics.memory import family_resident_bytes, resident_bytes

CHILD = "import time; block = bytearray(40_000_000); print(1, flush=True); time.sleep(60)"


def test_the_memory_of_a_family_is_that_of_all_its_processes() -> None:
    alone = family_resident_bytes()
    starter = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            assert family_resident_bytes() - alone > 40_000_000
            assert resident_bytes(child.pid) < 40_000_000
        finally:
            os.killpg(child.pid, signal.SIGKILL)


def test_a_process_that_is_gone_has_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
        assert resident_bytes(child.pid) == 0
