"""The unpickler of known pickles: it finds what is on the list, and makes nothing else.

It is Python's own in its written form, `pickle._Unpickler`, with each operation that could run something
replaced. What an operation may do is said where it stands; the list says what for each name.
"""

from __future__ import annotations

import pickle
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtimes.pickles import arrays
from runtimes.pickles.calls import Pending, call, check_key, has_state
from runtimes.pickles.finished import check_finished
from runtimes.pickles.known import Use
from runtimes.pickles.objects import check_state, must_have_state, set_state
from runtimes.pickles.references import Reference, reference
from runtimes.pickles.refusals import Refused
from runtimes.pickles.stream import Budget, Stream, opened

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_OPERATION = 64  # bytes: about what an empty list takes, or a place in the memo
_UFUNCS = ("numpy.core._ufunc_reconstruct", "numpy._core._ufunc_reconstruct")


def load(path: Path) -> Any:
    """Load a known pickle of any compression.

    Raises Refused for one that is none, LoadError for a damaged one and for one whose library is missing or
    too old or new, and whatever the library's own classes raise when they are given their state.
    """
    with opened(path) as (stream, budget):
        unpickler = Unpickler(stream, budget)
        value = unpickler.load()
        if not stream.is_at_end:
            raise Refused("something follows its pickle, such as another one; write one object to a file")
        if type(value) in (Reference, Pending):
            raise Refused(f"it holds {_shown(value)}, and no instance of a class")
        unpickler.check()
        return value


_PythonUnpickler: Any = pickle._Unpickler  # typeshed has it as the one in C, without its methods


class _Operations(dict[int, Any]):
    """The operations of an unpickler; each that is looked up is accounted for, as it makes an object."""

    def __init__(self, operations: dict[int, Any], budget: Budget) -> None:
        super().__init__(operations)
        self._budget = budget

    def __getitem__(self, code: int) -> Any:
        self._budget.take(_OPERATION)
        return super().__getitem__(code)


class Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """An unpickler of one pickle in a stream; `check` judges what it made."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, stream: Stream, budget: Budget) -> None:
        super().__init__(stream)
        self._stream = stream
        self._budget = budget
        self._memo: dict[int, Any] = self.memo
        # Objects without their state, by identity, each with its name. They are held, so that no identity
        # comes twice.
        self._stateless: dict[int, tuple[object, str]] = {}
        self._made: list[object] = []
        # Of this one alone, in place of that of the class.
        self.__dict__["dispatch"] = _Operations(type(self).dispatch, budget)

    def check(self) -> None:
        """Check what was made as far as code in C would believe it. Raises Refused."""
        for _, name in self._stateless.values():
            if must_have_state(name):
                raise Refused(f"a {name} has no state")
        # What was made first holds what was made later.
        for thing in reversed(self._made):
            check_finished(thing)

    def find_class(self, module: str, name: str, /) -> Any:
        """Return the value that a name stands for, or a reference to be used as the list says."""
        target = reference(module, name, self.proto)
        return target.target() if target.use is Use.VALUE else target

    def persistent_load(self, pid: Any, /) -> Any:  # noqa: ARG002
        raise Refused("it refers to objects outside of the file")

    # Calls and instances.

    def _call(self, target: object, arguments: object) -> object:
        """Do what REDUCE does: call what may be called."""
        if type(target) is not Reference or type(arguments) is not tuple:
            raise Refused(f"it calls {_shown(target)}")
        if target.name == "copyreg._reconstructor":
            return self._reconstruct(arguments)
        if target.name == "copyreg.__newobj__":
            return self._instance(arguments[0] if arguments else None, arguments[1:])
        if target.name in _UFUNCS:
            return self._ufunc(arguments)
        made = call(target, arguments, self._budget)
        return self._remember(made, target.name)

    def _instance(self, target: object, arguments: object) -> object:
        """Do what NEWOBJ does: make an instance without its constructor."""
        if type(target) is not Reference or type(arguments) is not tuple:
            raise Refused(f"it makes an instance of {_shown(target)}")
        if target.use is Use.CALL:
            return self._call(target, arguments)
        if target.use is not Use.STATE or arguments:
            raise Refused(f"it makes an instance of {target.name} with arguments or out of turn")
        if target.name == WRAPPER:
            return Pending(self._array_of_joblib)
        class_ = target.target()
        return self._remember(class_.__new__(class_), target.name)

    def _reconstruct(self, arguments: tuple[Any, ...]) -> object:
        """Do what copyreg does for protocols 0 and 1, for plain classes and those of dicts."""
        if len(arguments) != 3:
            raise Refused("an instance has an unknown form")
        target, base, state = arguments
        if base is object and state is None:
            return self._instance(target, ())
        if getattr(base, "name", None) == "builtins.dict" and type(state) is dict:
            made = self._instance(target, ())
            if isinstance(made, dict):
                dict.update(made, state)
                return made
        raise Refused("an instance has an unknown form")

    def _ufunc(self, arguments: tuple[Any, ...]) -> object:
        """Do what older releases of numpy do to find a function by its module and name."""
        if len(arguments) != 2 or not all(type(argument) is str for argument in arguments):
            raise Refused("a function of numpy has an unknown form")
        function = self.find_class(*arguments)
        if not isinstance(function, np.ufunc):
            raise Refused(f"{_shown(function)} is no function of numpy")
        return function

    def _remember(self, made: object, name: str) -> object:
        if type(made) is not Pending and has_state(made):
            self._stateless[id(made)] = made, name
            self._made.append(made)
        return made

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._instance(self.stack[-1], arguments)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        if keywords != {} or type(keywords) is not dict:
            raise Refused("it makes an instance with named arguments")
        self.stack[-1] = self._instance(self.stack[-1], arguments)

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def load_inst(self) -> None:
        module = self.readline()[:-1].decode("ascii")
        name = self.readline()[:-1].decode("ascii")
        arguments = tuple(self.pop_mark())
        self.append(self._call(self.find_class(module, name), arguments))

    dispatch[pickle.INST[0]] = load_inst

    def load_obj(self) -> None:
        target, *arguments = self.pop_mark()
        self.append(self._call(target, tuple(arguments)))

    dispatch[pickle.OBJ[0]] = load_obj

    def load_refused(self) -> None:
        raise Refused("it has an operation that no library writes")

    for _operation in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[_operation[0]] = load_refused

    # States.

    def load_build(self) -> None:
        """Give an instance its state, once; never a class, a function, a module or a value."""
        state = self.stack.pop()
        made = self.stack[-1]
        if type(made) is Pending:
            value = made.make(state)
            self.stack[-1] = value
            for key in made.memo_keys:
                self._memo[key] = value
            return
        _, name = self._stateless.pop(id(made), (None, None))
        if name is None:
            raise Refused(f"it sets attributes of {_shown(made)}")
        check_state(made, name, state)
        set_state(made, name, state)

    dispatch[pickle.BUILD[0]] = load_build

    def _array_of_joblib(self, state: Any) -> object:
        """Read an array, which follows its wrapper (joblib: NumpyArrayWrapper.read_array)."""
        if type(state) is not dict or getattr(state.get("subclass"), "name", None) != "numpy.ndarray":
            raise Refused("an array is of a class that is not known")
        dtype, shape = state.get("dtype"), arrays.shape_of(state.get("shape"))
        if isinstance(dtype, np.dtype) and dtype.kind == "O":
            return self._objects(shape)
        dtype = arrays.plain_dtype(dtype)
        if state.get("numpy_array_alignment_bytes") is not None:
            self._stream.skip(self._stream.read(1)[0])
        is_fortran = state.get("order") == "F"
        return self._stream_array(dtype, shape, is_fortran=is_fortran)

    def _stream_array(self, dtype: np.dtype[Any], shape: tuple[int, ...], *, is_fortran: bool) -> object:
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        raw = self._stream.read(size)
        self._budget.take(size)
        array = arrays.array_of_bytes(raw, dtype, shape, is_fortran=is_fortran)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))

    def _objects(self, shape: tuple[int, ...]) -> object:
        """Read an array of objects, which is a pickle of its own within the other."""
        inner = type(self)(self._stream, self._budget)
        array = inner.load()
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise Refused("an array of objects has another shape than it says")
        self._stateless.update(inner._stateless)
        self._made += inner._made
        return array

    # Memo and containers.

    def load_put(self) -> None:
        self._keep(int(self.readline()[:-1]))

    def load_binput(self) -> None:
        self._keep(self.read(1)[0])

    def load_long_binput(self) -> None:
        self._keep(int.from_bytes(self.read(4), "little"))

    def load_memoize(self) -> None:
        self._keep(len(self._memo))

    def _keep(self, key: int) -> None:
        value = self.stack[-1]
        if type(value) is Pending:
            value.memo_keys.append(key)
        self._memo[key] = value

    dispatch[pickle.PUT[0]] = load_put
    dispatch[pickle.BINPUT[0]] = load_binput
    dispatch[pickle.LONG_BINPUT[0]] = load_long_binput
    dispatch[pickle.MEMOIZE[0]] = load_memoize

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(items)

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Refused(f"it appends to {_shown(target)}")
        target.extend(items)

    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._update(items)

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused(f"it sets items of {_shown(target)}")
        self._fill(target, items)

    def _fill(self, target: dict[Any, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                check_key(key)
            if type(target) is type(value) is defaultdict:
                # Python frees them by recursion in C.
                raise Refused("a dict with defaults holds another")
            target[key] = value

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        made: dict[Any, Any] = {}
        self._fill(made, items)
        self.append(made)

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise Refused(f"it adds to {_shown(target)}")
        target.update(self._add(items))

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(self._add(items))

    def _add(self, items: list[Any]) -> frozenset[Any]:
        for item in items:
            check_key(item)
        return frozenset(items)

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > sys.maxsize:
            raise Refused("it has more bytes than there are")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _shown(target: object) -> str:
    if type(target) is Reference:
        return f"the class or function {target.name}"
    if isinstance(target, type):
        return f"the class {target.__name__}"
    return f"a {type(target).__name__}"
