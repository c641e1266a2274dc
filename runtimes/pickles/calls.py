"""The calls that a known pickle may make, each with the arguments that its library writes and no others."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from runtimes.pickles import arrays
from runtimes.pickles.known import Use
from runtimes.pickles.references import Reference, class_of
from runtimes.pickles.refusals import Refused
from runtimes.pickles.stream import Budget

_MAX_KEY_DEPTH = 16  # tuples within tuples: Python hashes them by recursion in C, without a bound
_MAX_KEY_ITEMS = 1000  # those within a key, each as often as it occurs
_FRACTION = re.compile(r"-?[0-9]{1,1000}(?:/[0-9]{1,1000})?")
_KEYS = (str, bytes, int, float, bool, complex, type(None))
_KEY_MODULES = frozenset({"datetime", "decimal", "fractions", "uuid"})
_FACTORIES: Mapping[str, Callable[[], object]] = MappingProxyType(
    {
        "builtins.dict": dict,
        "builtins.list": list,
        "builtins.set": set,
        "builtins.str": str,
        "collections.OrderedDict": collections.OrderedDict,
    }
)


@dataclass(eq=False, slots=True)
class Pending:
    """An array, datatype or wrapper that is made when its state is known; `make` takes the state."""

    make: Callable[[Any], object]
    memo_keys: list[int] = field(default_factory=list)


def check_key(key: object) -> None:
    """Refuse a key of a dict or set whose hash or comparison runs anything but Python's own."""
    if type(key) in _KEYS:
        return
    layer, count = [key], 0
    for _ in range(_MAX_KEY_DEPTH + 1):
        count += len(layer)
        if count > _MAX_KEY_ITEMS:
            break
        layer = [item for part in layer for item in _items_of_key(part)]
        if not layer:
            return
    raise Refused(f"a {type(key).__name__} is the key of a dict or in a set")


def _items_of_key(key: object) -> Iterable[object]:
    """Return what is hashed with a key. Raises Refused."""
    class_ = type(key)
    if class_ in _KEYS or class_.__module__ in _KEY_MODULES:
        return ()
    if isinstance(key, np.generic) and not isinstance(key, np.void | np.object_):
        return ()
    if isinstance(key, tuple) and class_.__hash__ is tuple.__hash__:
        return key
    # These keep the hash of what they hold, which was checked, or cannot be changed by a pickle.
    is_type = any(key is type_ for type_ in (int, float, bool, object))
    if is_type or class_ is frozenset or isinstance(key, np.dtype | np.ufunc):
        return ()
    raise Refused(f"a {class_.__name__} is the key of a dict or in a set")


def has_state(made: object) -> bool:
    """Tell whether a pickle may give a state to what a call made.

    Numbers, dates and arrays are whole without one. Others may use them by then: the hash of a key, the
    memory of an array.
    """
    return not isinstance(made, np.ndarray | np.generic) and type(made).__module__ not in _KEY_MODULES


def call(target: Reference, arguments: tuple[Any, ...], budget: Budget) -> object:
    """Call what is named. Raises Refused where it may not be called so."""
    if target.name in _MAKERS:
        return _MAKERS[target.name](arguments)
    if target.name in _COUNTED:
        return _COUNTED[target.name](arguments, budget)
    if target.use is Use.REBUILD:
        class_ = class_of(arguments[0] if arguments else None, target.package)
        if target.name.endswith("_SeedSequence") and arguments[2:] != (None,):
            raise Refused("random numbers have a state that is none")
        return target.target()(class_, *_values(arguments[1:]))
    if target.use is not Use.CALL:
        raise Refused(f"it calls {target.name}")
    return target.target()(*_values(arguments))


def _values(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    for argument in arguments:
        if isinstance(argument, Reference | Pending):
            raise Refused("a class is an argument of a call that takes values")
    return arguments


def _refuse_call() -> NoReturn:
    raise Refused("a type of Python is called with what no library calls it with")


def _encode(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    """Return bytes, which protocols 0 to 2 write as text in Latin-1."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in ("latin1", "latin-1"):
        _refuse_call()
    budget.take(len(arguments[0]))
    return arguments[0].encode("latin-1")


def _bytes(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    return _encode(arguments, budget) if arguments else b""


def _bytearray(arguments: tuple[Any, ...], budget: Budget) -> bytearray:
    if len(arguments) == 1 and type(arguments[0]) is bytes:
        budget.take(len(arguments[0]))
        return bytearray(arguments[0])
    return bytearray(_bytes(arguments, budget))


def _items(arguments: tuple[Any, ...], budget: Budget) -> Iterable[Any]:
    """Return the items of a container that is made of one list or tuple, or of none."""
    if not arguments:
        return ()
    if len(arguments) != 1 or type(arguments[0]) not in (list, tuple):
        _refuse_call()
    budget.take(8 * len(arguments[0]))
    items: Iterable[Any] = arguments[0]
    return items


def _set(arguments: tuple[Any, ...], budget: Budget) -> set[Any]:
    items = _items(arguments, budget)
    for item in items:
        check_key(item)
    return set(items)


def _ordered(arguments: tuple[Any, ...], budget: Budget) -> collections.OrderedDict[Any, Any]:
    ordered: collections.OrderedDict[Any, Any] = collections.OrderedDict()
    for item in _items(arguments, budget):
        if type(item) not in (list, tuple) or len(item) != 2:
            _refuse_call()
        check_key(item[0])
        ordered[item[0]] = item[1]
    return ordered


def _default(arguments: tuple[Any, ...]) -> collections.defaultdict[Any, Any]:
    factory = arguments[0] if len(arguments) == 1 else None
    if type(factory) is Reference and factory.name in _FACTORIES:
        return collections.defaultdict(_FACTORIES[factory.name])
    if factory is None or factory in (int, float, bool):
        return collections.defaultdict(factory)
    _refuse_call()


def _counter(arguments: tuple[Any, ...], budget: Budget) -> collections.Counter[Any]:
    if len(arguments) != 1 or type(arguments[0]) is not dict:
        _refuse_call()
    budget.take(8 * len(arguments[0]))
    return collections.Counter(arguments[0])


def _dtype(arguments: tuple[Any, ...]) -> Pending:
    code = arguments[0] if arguments else None
    return Pending(lambda state: arrays.dtype_of(code, state))


def _array(arguments: tuple[Any, ...], budget: Budget) -> Pending:
    if [getattr(argument, "name", None) for argument in arguments[:1]] != ["numpy.ndarray"]:
        raise Refused("an array is of a class that is not known")

    def make(state: Any) -> object:
        array = arrays.array_of(state)
        budget.take(array.nbytes)
        return array

    return Pending(make)


def _masked_array(arguments: tuple[Any, ...], budget: Budget) -> Pending:
    names = [getattr(argument, "name", "") for argument in arguments[:2]]
    if names not in (
        ["numpy.ma.MaskedArray", "numpy.ndarray"],
        ["numpy.ma.core.MaskedArray", "numpy.ndarray"],
    ):
        raise Refused("an array is of a class that is not known")

    def make(state: Any) -> object:
        array = arrays.masked_array(state)
        budget.take(2 * array.nbytes)
        return array

    return Pending(make)


def _buffer(arguments: tuple[Any, ...], budget: Budget) -> object:
    if len(arguments) != 4:
        raise Refused("an array has an unknown form")
    raw, dtype, shape, order = arguments
    array = arrays.array_of_bytes(
        raw, arrays.plain_dtype(dtype), arrays.shape_of(shape), is_fortran=order == "F"
    )
    budget.take(array.nbytes)
    return array


def _fraction(arguments: tuple[Any, ...]) -> object:
    """Make a fraction of its digits; of an exponent, Python would make a number of so many digits."""
    is_text = len(arguments) == 1 and type(arguments[0]) is str and _FRACTION.fullmatch(arguments[0])
    if not is_text and not (len(arguments) == 2 and all(type(part) is int for part in arguments)):
        _refuse_call()
    return Reference("fractions.Fraction", Use.CALL).target()(*arguments)


def _slice(arguments: tuple[Any, ...]) -> object:
    """Make a slice of plain values: Python frees slices within slices by recursion in C."""
    if not all(isinstance(part, str | int | float | np.number | None) for part in arguments):
        _refuse_call()
    return slice(*arguments)


def _checked_array(arguments: tuple[Any, ...]) -> Pending:
    """Make the function by which HistGradientBoosting checks numbers beside categories."""
    function = import_module("sklearn.utils.validation").check_array
    if len(arguments) != 1 or arguments[0] is not function:
        raise Refused("it makes a function of another function")

    def make(state: Any) -> object:
        is_whole = type(state) is tuple and len(state) == 4 and state[0] is function
        if not is_whole or state[1] != () or type(state[2]) is not dict or state[3] not in (None, {}):
            raise Refused("a check of arrays has an unknown form")
        for value in state[2].values():
            if not isinstance(value, str | int | float | type | list | tuple | None):
                raise Refused("a check of arrays has an unknown form")
        return partial(function, **state[2])

    return Pending(make)


def _scalar(arguments: tuple[Any, ...]) -> object:
    if len(arguments) != 2:
        raise Refused("a number has an unknown form")
    return arrays.scalar(*arguments)


def _bit_generator(arguments: tuple[Any, ...]) -> object:
    (argument,) = arguments
    if type(argument) is str:
        argument = Reference(_BIT_GENERATORS.get(argument, argument), Use.CLASS)
    class_ = class_of(argument, "numpy")
    if not issubclass(class_, np.random.BitGenerator):
        raise Refused("a generator of random numbers is of a class that is not known")
    return class_()


_BIT_GENERATORS = {
    "MT19937": "numpy.random._mt19937.MT19937",
    "PCG64": "numpy.random._pcg64.PCG64",
    "PCG64DXSM": "numpy.random._pcg64.PCG64DXSM",
    "Philox": "numpy.random._philox.Philox",
    "SFC64": "numpy.random._sfc64.SFC64",
}


def _generator(class_: Callable[[Any], object]) -> Callable[[tuple[Any, ...]], object]:
    def make(arguments: tuple[Any, ...]) -> object:
        # The second argument is the function that makes the first of a name.
        first = arguments[0] if arguments else None
        names = [getattr(argument, "name", None) for argument in arguments[1:]]
        if names not in ([], ["numpy.random._pickle.__bit_generator_ctor"]):
            raise Refused("a generator of random numbers has an unknown form")
        if not isinstance(first, np.random.BitGenerator):
            first = _bit_generator((first,))
        return class_(first)

    return make


def _tree(arguments: tuple[Any, ...], budget: Budget) -> object:
    """Make a decision tree: its counts are believed by code in C (sklearn/tree/_tree.pyx)."""
    if len(arguments) != 3:
        raise Refused("a decision tree has an unknown form")
    features, classes, outputs = arguments
    if not isinstance(features, int | np.integer) or not isinstance(outputs, int | np.integer):
        raise Refused("a decision tree has an unknown form")
    is_array = isinstance(classes, np.ndarray) and classes.shape == (outputs,) and classes.dtype.kind in "iu"
    if not is_array or not 0 <= features < 2**31 or not outputs or classes.min() < 1:
        raise Refused("a decision tree has other classes than outputs")
    budget.take(8 * int(outputs))
    return Reference("sklearn.tree._tree.Tree", Use.CALL).target()(features, classes, outputs)


def _index(arguments: tuple[Any, ...]) -> object:
    class_ = class_of(arguments[0] if arguments else None, "pandas")
    fields = arguments[1] if len(arguments) == 2 else None
    if type(fields) is not dict or not all(type(name) is str for name in fields):
        raise Refused("an index of pandas has an unknown form")
    target = Reference("pandas.core.indexes.base._new_Index", Use.REBUILD).target()
    return target(class_, dict(zip(fields, _values(tuple(fields.values())), strict=True)))


_NUMPY_ROOTS = ("numpy.core", "numpy._core")
_MAKERS: Mapping[str, Callable[[tuple[Any, ...]], object]] = MappingProxyType(
    {
        "builtins.slice": _slice,
        "collections.defaultdict": _default,
        "fractions.Fraction": _fraction,
        "functools.partial": _checked_array,
        "numpy.dtype": _dtype,
        "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
        "numpy.random._pickle.__generator_ctor": _generator(np.random.Generator),
        "numpy.random._pickle.__randomstate_ctor": _generator(np.random.RandomState),
        "pandas.core.indexes.base._new_Index": _index,
        **{f"{root}.multiarray.scalar": _scalar for root in _NUMPY_ROOTS},
    }
)
# Those that make as many bytes as they are given.
_COUNTED: Mapping[str, Callable[[tuple[Any, ...], Budget], object]] = MappingProxyType(
    {
        "_codecs.encode": _encode,
        "builtins.bytearray": _bytearray,
        "builtins.bytes": _bytes,
        "builtins.dict": lambda arguments, budget: dict(_ordered(arguments, budget)),
        "builtins.frozenset": lambda arguments, budget: frozenset(_set(arguments, budget)),
        "builtins.list": lambda arguments, budget: list(_items(arguments, budget)),
        "builtins.set": _set,
        "builtins.tuple": lambda arguments, budget: tuple(_items(arguments, budget)),
        "collections.Counter": _counter,
        "collections.OrderedDict": _ordered,
        "collections.deque": lambda arguments, budget: collections.deque(_items(arguments[:1], budget)),
        "numpy.ma.core._mareconstruct": _masked_array,
        "sklearn.tree._tree.Tree": _tree,
        **{f"{root}.multiarray._reconstruct": _array for root in _NUMPY_ROOTS},
        **{f"{root}.numeric._frombuffer": _buffer for root in _NUMPY_ROOTS},
    }
)
