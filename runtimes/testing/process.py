"""What a runtime promises to the process that it works in: its threads, its memory, and that it lives on."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runtimes.base import Array, Runtime
from runtimes.testing.child import STEP_SECONDS, Job

_DAMAGES = 200
_CRASHES = 5
_CHILD_SECONDS = 600
_LEAST_LEAK_BYTES = 8 * 2**20
# Limits of threads that a caller's environment may set, and so hide what a runtime does by itself.
_LIMITS = ("OMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "VECLIB_", "TF_NUM_", "GOTO_")


class ProcessContract:
    """Each promise is proved in a child process. Inherit it beside `TensorContract`, once for each format."""

    damages: ClassVar[int] = _DAMAGES
    """How many damaged files are tried in every run: fewer where loading is slow; 200 are tried in a soak."""
    may_run_code: ClassVar[bool] = False
    """Whether the sample is a file that runs code, and this is allowed."""

    @pytest.fixture
    def model_root(self, model_path: Path) -> Path:
        """What `runtimes.select.choose` is given: the file, or the directory that has all of the model's."""
        return model_path

    @pytest.fixture
    def large_model_path(self, model_path: Path) -> Path:
        """Give a model for which a leak shows; one of some MB shows most. It takes the sample's inputs."""
        return model_path

    @pytest.fixture
    def job(
        self,
        runtime: Runtime,
        model_path: Path,
        model_root: Path,
        inputs: dict[str, Array],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Job:
        scratch = tmp_path_factory.mktemp("child")
        runtime_class = (type(runtime).__module__, type(runtime).__qualname__)
        return Job(
            task="",
            runtime=runtime_class,
            model_path=model_path,
            root=model_root,
            inputs=inputs,
            report=scratch / "report",
            scratch=scratch,
            may_run_code=self.may_run_code,
        )

    def test_computes_with_the_threads_that_it_is_given(self, job: Job) -> None:
        (facts,) = _done(replace(job, task="threads"))
        assert is_one_core(facts["threads"], facts["wall"]), f"with one core, threads computed: {facts}"

    def test_frees_the_memory_of_models_that_are_closed(self, job: Job, large_model_path: Path) -> None:
        warm, last = _done(replace(job, task="memory", model_path=large_model_path))
        grown = last["bytes"] - warm["bytes"]
        limit = max(_LEAST_LEAK_BYTES, 3 * large_model_path.stat().st_size)
        assert grown < limit, f"ten models that were closed left {grown / 2**20:.1f} MiB"

    def test_damaged_files_are_refused_or_served(self, job: Job) -> None:
        assert_no_faults(replace(job, task="damage"), range(-1, self.damages))

    @pytest.mark.soak
    def test_more_damaged_files_are_refused_or_served(self, job: Job) -> None:
        assert_no_faults(replace(job, task="damage"), range(-1, max(_DAMAGES, 10 * self.damages)))


def is_one_core(threads: Sequence[float], wall: float) -> bool:
    """Tell whether threads that computed for these seconds, the busiest first, took one core.

    Threads that hand the work to each other take one, too. On a machine that is busy otherwise, more than one
    cannot always be told.
    """
    busiest, total = threads[0], sum(threads)
    return total - busiest < 0.25 * total or total < 1.2 * wall


def assert_no_faults(job: Job, seeds: Sequence[int]) -> None:
    """Fail with what went wrong, file by file."""
    if faults := _faults(job, seeds):
        pytest.fail("\n".join(faults), pytrace=False)


def _done(job: Job) -> list[dict[str, Any]]:
    """Return what the child reports of a job that it must live through."""
    code, text = _run(job)
    assert code == 0, f"{_ended(code)}: {text}"
    return list(_report(job))


def _faults(job: Job, seeds: Sequence[int]) -> list[str]:
    """Return what went wrong with damaged files, each with its seed.

    A child that dies is followed by another one, which goes on after the file that the first died of.
    """
    left = list(seeds)
    faults: list[str] = []
    crashes = 0
    while left and crashes < _CRASHES:
        code, text = _run(replace(job, seeds=tuple(left)))
        lines = list(_report(job))
        job.report.unlink()
        last = lines[-1]["seed"]
        faults += [f"seed {line['seed']}: {line['text']}" for line in lines if line["outcome"] == "wrong"]
        if lines[0]["seed"] == -1 and lines[1]["outcome"] != "served":
            return [f"the sample itself is not served: {lines[1]['text']}"]
        if code == 0:
            break
        crashes += 1
        faults.append(f"seed {last}: {_ended(code)}: {text}")
        left = left[left.index(last) + 1 :]
    return faults


def _run(job: Job) -> tuple[int, str]:
    """Run a job in a child; return its exit status and the end of what it wrote."""
    file = job.scratch / "job"
    file.write_bytes(pickle.dumps(job))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_LIMITS)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    program = "from runtimes.testing.child import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=_CHILD_SECONDS,
        check=False,
    )
    return done.returncode, done.stderr.decode(errors="replace")[-2000:]


def _report(job: Job) -> Iterator[dict[str, Any]]:
    for line in job.report.read_text().splitlines():
        yield json.loads(line)


def _ended(code: int) -> str:
    if code < 0:
        return f"the process was killed by {signal.Signals(-code).name}"
    return f"the process ended with {code}, perhaps after {STEP_SECONDS} s on one file"
