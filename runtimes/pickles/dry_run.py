"""Whether a pickle is a known one: it is followed to its end, and nothing is imported or made.

That it is decides what a file is called and whether it is chosen. Loading it enforces the same rules again.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtimes.errors import LoadError
from runtimes.pickles.calls import Pending, call
from runtimes.pickles.known import Use
from runtimes.pickles.references import Reference, reference
from runtimes.pickles.refusals import Refused
from runtimes.pickles.stream import Budget, Stream, opened
from runtimes.pickles.unpickler import WRAPPER, Unpickler

_LARGE = 64 * 1024  # bytes of an array or text that are passed over
# What is made even so: the bytes and datatypes by which the length of joblib's arrays is known.
_REAL = frozenset({"_codecs.encode", "numpy.dtype"})


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a pickle imports, as far as it was followed, and why it is no known one: "" where it is."""

    imports: tuple[str, ...]
    versions: tuple[str, ...]
    """The releases of scikit-learn that made its estimators."""
    refusal: str

    @property
    def is_known(self) -> bool:
        """Whether every name is on the list, and used as the list says."""
        return not self.refusal


def dry_run(path: Path) -> DryRun:
    """Follow a pickle of any compression to its end, or to the first thing that no known one does."""
    names: set[str] = set()
    versions: set[str] = set()
    refusal = ""
    try:
        with opened(path) as (stream, budget):
            if type(_Follower(stream, budget, names, versions).load()) is Reference:
                refusal = "it holds a class or function, and no instance of a class"
            if not stream.is_at_end:
                refusal = "something follows its pickle"
    except LoadError as error:
        refusal = str(error)
    except Exception as error:
        # What a damaged pickle raises depends on where the damage is.
        refusal = f"it is damaged: {error!r}"
    return DryRun(tuple(sorted(names)), tuple(sorted(versions)), refusal)


class _Made:
    """A placeholder for whatever a pickle makes."""


class _Follower(Unpickler):
    """An unpickler that imports and makes nothing."""

    dispatch: ClassVar[dict[int, Any]] = dict(Unpickler.dispatch)

    def __init__(self, stream: Stream, budget: Budget, names: set[str], versions: set[str]) -> None:
        super().__init__(stream, budget)
        self._names = names
        self._versions = versions

    def find_class(self, module: str, name: str, /) -> Any:
        target = reference(module, name, self.proto)
        self._names.add(target.name)
        return target

    def _call(self, target: object, arguments: object) -> object:
        if type(target) is not Reference or type(arguments) is not tuple:
            raise Refused("it calls what it made")
        if target.name == "copyreg._reconstructor":
            return self._instance(arguments[0] if arguments else None, ())
        if target.name in _REAL:
            return call(target, arguments, self._budget)
        if target.use not in (Use.CALL, Use.REBUILD):
            raise Refused(f"it calls {target.name}")
        return _Made()

    def _instance(self, target: object, arguments: object) -> object:  # noqa: ARG002
        if type(target) is not Reference or target.use not in (Use.STATE, Use.CALL):
            raise Refused("it makes an instance of what is no known class")
        return Pending(self._array_of_joblib) if target.name == WRAPPER else _Made()

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if type(made) is Pending:
            self.stack.append(state)
            super().load_build()
        elif type(made) is not _Made:
            raise Refused("it sets attributes of what is no instance")

    dispatch[pickle.BUILD[0]] = load_build

    def _stream_array(self, dtype: np.dtype[Any], shape: tuple[int, ...], *, is_fortran: bool) -> object:  # noqa: ARG002
        self._stream.skip(math.prod(shape) * dtype.itemsize)
        return _Made()

    def _objects(self, shape: tuple[int, ...]) -> object:  # noqa: ARG002
        _Follower(self._stream, self._budget, self._names, self._versions).load()
        return _Made()

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not _Made:
            super()._extend(items)

    def _update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not _Made:
            super()._update(items)

    def _fill(self, target: dict[Any, Any], items: list[Any]) -> None:
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if type(key) is str)
        version = target.get("_sklearn_version")
        if type(version) is str:
            self._versions.add(version)

    def _add(self, items: list[Any]) -> frozenset[Any]:  # noqa: ARG002
        return frozenset()

    def load_binbytes(self) -> None:
        self._pass(int.from_bytes(self.read(4), "little"))

    def load_binbytes8(self) -> None:
        self._pass(int.from_bytes(self.read(8), "little"))

    def _pass(self, size: int) -> None:
        """Pass over bytes; large ones stand outside of the frames of a pickle."""
        frame = self._unframer.current_frame
        if size < _LARGE or (frame is not None and frame.tell() < len(frame.getbuffer())):
            self.append(self.read(size))
        else:
            self._stream.skip(size)
            self.append(b"")

    dispatch[pickle.BINBYTES[0]] = load_binbytes
    dispatch[pickle.BINBYTES8[0]] = load_binbytes8
    dispatch[pickle.BYTEARRAY8[0]] = load_binbytes8
