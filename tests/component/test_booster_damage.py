"""Damaged files of XGBoost, LightGBM and CatBoost: each is refused with a reason, or answers."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtimes.boosters import catboost
from runtimes.errors import LoadError
from runtimes.trial import Trial
from tests.support.boosters import FRAME, catboost_model, lightgbm_model, xgboost_model

FILES = 200
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NUMBERS = (0, 1, -1, 2, 3, 5, 100, 65_536, 2**31 - 1, -(2**31), 2**40, 2**63, "1e400", "nan")


def damaged(whole: bytes, seed: int, *, is_text: bool) -> bytes:
    """Return the bytes cut, with bits flipped, with bytes put in or left out, or with another number."""
    choice = random.Random(seed)
    data = bytearray(whole)
    place = choice.randrange(len(data))
    match choice.choice(["cut", "flip", "flips", "insert", "delete", "number", "number", "number"]):
        case "cut":
            del data[place:]
        case "flip":
            data[place] ^= 1 << choice.randrange(8)
        case "flips":
            for _ in range(10):
                data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
        case "insert":
            data[place:place] = choice.randbytes(choice.choice([1, 4, 16]))
        case "delete":
            del data[place : place + choice.choice([1, 4, 16])]
        case _ if is_text:
            match = choice.choice(list(_NUMBER.finditer(whole)))
            data[match.start() : match.end()] = str(choice.choice(_NUMBERS)).encode()
        case _:
            size = choice.choice([1, 2, 4, 8])
            number = choice.choice([0, 1, 255, 2**31 - 1, 2**32 - 1, 2**63]) & (1 << 8 * size) - 1
            data[place : place + size] = number.to_bytes(size, choice.choice(["little", "big"]))
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "make", "rehearsal"),
    [
        ("model.json", xgboost_model, "tests.support.boosters:rehearse_xgboost"),
        ("model.ubj", xgboost_model, "tests.support.boosters:rehearse_xgboost"),
        ("model.txt", lightgbm_model, "tests.support.boosters:rehearse_lightgbm"),
    ],
)
def test_what_is_checked_before_it_is_loaded_ends_no_process(
    tmp_path: Path, file: str, make: Callable[..., Any], rehearsal: str
) -> None:
    """The workers load these files themselves; here one child loads all, and must live."""
    make(tmp_path / file, FRAME)
    whole = (tmp_path / file).read_bytes()
    refusals = {}
    with Trial("The library", rehearsal, 16 << 30) as trial:
        for path in _damaged_files(tmp_path, file, whole):
            try:
                trial.check(path)
            except LoadError as error:
                refusals[path] = str(error)
            assert trial.is_alive, refusals[path]
    _check(refusals)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", ["model.cbm", "model.json"])
def test_what_catboost_cannot_load_ends_a_trial_and_no_more(tmp_path: Path, file: str) -> None:
    """A worker starts a trial for each file; here the next one starts where a file ended the last."""
    catboost_model(tmp_path / file, FRAME)
    whole = (tmp_path / file).read_bytes()
    refusals, trial = {}, catboost.trial()
    try:
        for path in _damaged_files(tmp_path, file, whole):
            if not trial.is_alive:
                trial = catboost.trial()
            try:
                trial.check(path)
            except LoadError as error:
                refusals[path] = str(error)
            else:
                # What passed the trial can be loaded.
                catboost.rehearse(path)
    finally:
        trial.close()
    _check(refusals)


def test_a_crash_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.cbm").write_bytes(b"CBM1")
    with (
        Trial("CatBoost", "tests.support.boosters:rehearse_a_crash", 1 << 40) as trial,
        pytest.raises(LoadError, match=r"CatBoost crashed \(SIGSEGV\) when it loaded .*m\.cbm.* damaged"),
    ):
        trial.check(tmp_path / "m.cbm")


def test_a_trial_whose_parent_has_died_ends_by_itself() -> None:
    command = [sys.executable, "-m", "runtimes.trial", "time:sleep", str(1 << 40)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        child.stdin.write(b'{"request": 3600, "seconds": 0.1}\n')
        child.stdin.close()
        assert child.wait(30) == -signal.SIGALRM


def _check(refusals: Mapping[Path, str]) -> None:
    """Check that a good part was refused, each by its name and in a sentence."""
    assert len(refusals) > FILES // 3
    for path, reason in refusals.items():
        assert str(path) in reason
        assert "Stack trace" not in reason


def _damaged_files(directory: Path, file: str, whole: bytes) -> Iterator[Path]:
    for seed in range(FILES):
        path = directory / f"damaged-{seed}-{file}"
        path.write_bytes(damaged(whole, seed, is_text=not file.endswith((".ubj", ".cbm"))))
        yield path
        path.unlink()
