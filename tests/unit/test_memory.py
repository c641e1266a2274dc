"""The resident memory of processes."""

import os
import signal
import subprocess
import sys

from gateway.gpus.devices import Gpu, Gpus
from gateway.metrics.memory import family_gpu_bytes, family_resident_bytes, resident_bytes

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


def test_the_gpu_memory_of_a_family_is_what_is_told_of_its_processes() -> None:
    def gpus(**processes: int) -> Gpus:
        return Gpus((Gpu(0, "GPU-0", processes={int(name[1:]): size for name, size in processes.items()}),))

    assert family_gpu_bytes(Gpus()) is None
    assert family_gpu_bytes(gpus(p1=5)) is None
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        own = {f"p{os.getpid()}": 7, f"p{child.pid}": 11, "p1": 13}
        assert family_gpu_bytes(gpus(**own)) == 18
        child.kill()
