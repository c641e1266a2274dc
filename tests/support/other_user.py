"""What another user of the machine can do: a function, run by a child that is `nobody`."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

T = TypeVar("T")


def as_nobody(function: Callable[[], T]) -> T | OSError:
    """Run a function as nobody, without root's rights; returns its result, or the OSError that it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        result: object = AssertionError("the function raised no OSError")
        try:
            result = function()
        except OSError as error:
            result = error
        finally:
            os.write(writer, pickle.dumps(result))
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        outcome = pickle.load(file)
    os.waitpid(child, 0)
    if isinstance(outcome, AssertionError):
        raise outcome
    result_of_child: T | OSError = outcome
    return result_of_child


@contextmanager
def shared_directory() -> Iterator[Path]:
    """A directory that every user may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="kt-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
