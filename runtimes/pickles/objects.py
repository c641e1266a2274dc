"""The states that a known pickle gives to its objects: what is checked of them before they are believed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from runtimes.boosters import lightgbm_file, ubjson, xgboost_file
from runtimes.pickles import neighbors, trees
from runtimes.pickles.references import Reference
from runtimes.pickles.refusals import Refused

# Attributes by which a model of models names the method that it calls, and the methods that they may name.
_METHOD_ATTRIBUTES = frozenset(
    {"stack_method", "stack_method_", "chain_method", "chain_method_", "response_method", "_response_method"}
)
_METHODS = frozenset(
    {"auto", "decision_function", "predict", "predict_log_proba", "predict_proba", "transform"}
)


def must_have_state(name: str) -> bool:
    """Tell whether an object is no object before it has its state: its code in C reads what is not there."""
    is_in_c = name in _STATES and not name.startswith("numpy.")
    return is_in_c or name.endswith(".newObj")


def check_state(made: object, name: str, state: object) -> None:
    """Check the state of an object that `name` made, or that is an instance of it. Raises Refused."""
    check = _STATES.get(name)
    if check is not None:
        check(made, state)
    elif name.endswith(".newObj"):
        neighbors.check_state(made, state)


def set_state(made: Any, name: str, state: Any) -> None:
    """Give an object that `name` made its state, by its class's own method where it has one."""
    class_ = type(made)
    if type(state) is dict:
        check_attributes(class_, state)
    elif name not in _STATES and not name.endswith(_IN_C):
        # Methods in Python take whatever has pairs for attributes.
        raise Refused(f"a {class_.__name__} has a state that is no dict")
    if hasattr(class_, "__setstate__"):
        made.__setstate__(state)
    else:
        attributes = vars(made)
        for key, value in state.items():
            attributes[sys.intern(key)] = value


def check_attributes(class_: type, state: dict[Any, Any]) -> None:
    """Refuse attributes that hide a method, or name one that predicts nothing."""
    for key, value in state.items():
        if type(key) is not str or (key.startswith("__") and key.endswith("__")):
            raise Refused(f"a {class_.__name__} has the attribute {key!r:.40}")
        if type(value) is Reference:
            raise Refused(f"the attribute {key} of a {class_.__name__} is the class or function {value.name}")
        if _is_method(class_, key):
            raise Refused(f"the attribute {key} of a {class_.__name__} hides its method")
        if key in _METHOD_ATTRIBUTES:
            _check_method(class_, key, value)


def _is_method(class_: type, name: str) -> bool:
    """Tell whether a class finds something to call by a name, which an attribute would come before."""
    for parent in class_.__mro__:
        if name in vars(parent):
            kind = type(vars(parent)[name])
            return hasattr(kind, "__get__") and not hasattr(kind, "__set__")
    return False


def _check_method(class_: type, key: str, value: object) -> None:
    names = value if isinstance(value, list | tuple) else (value,)
    if not all(name is None or (type(name) is str and name in _METHODS) for name in names):
        raise Refused(f"the attribute {key} of a {class_.__name__} names a method that predicts nothing")


def _xgboost(_: object, state: object) -> None:
    """A Booster frees the pointer in its state, and reads its model from a buffer."""
    if type(state) is not dict or type(state.get("handle")) is not bytearray:
        raise Refused("a Booster of XGBoost has no model")
    with _refusing("XGBoost"):
        xgboost_file.checked(ubjson.loads(bytes(state["handle"]))["Model"])


def _lightgbm(_: object, state: object) -> None:
    """A Booster frees the pointer in its state, and reads its model from a text."""
    model = None
    if type(state) is dict:
        model = state.get("_handle", state.get("handle"))
    if type(model) is not str or not model.startswith("tree\n"):
        raise Refused("a Booster of LightGBM has no model")
    with _refusing("LightGBM"):
        lightgbm_file.parse(model.encode())


@contextmanager
def _refusing(engine: str) -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise Refused(f"a Booster of {engine} has a damaged model: {error}") from error


def _catboost(_: object, state: object) -> None:
    if type(state) is not dict or type(state.get("__model")) is not bytes:
        raise Refused("a model of CatBoost has no model")


def _random(_: object, state: object) -> None:
    """The state of random numbers: Mersenne Twister reads its key at a position (numpy: mt19937.h)."""
    parts = state if isinstance(state, tuple) else (state,)
    for part in parts:
        if isinstance(part, dict):
            inner = part.get("state")
            if isinstance(inner, dict) and "pos" in inner:
                key, position = inner.get("key"), inner["pos"]
                is_key = isinstance(key, np.ndarray) and key.shape == (624,) and key.dtype.kind in "iu"
                if not is_key or type(position) is not int or not 0 <= position <= 624:
                    raise Refused("random numbers have a state that is none")
            elif "buffer_pos" in part:
                position = part["buffer_pos"]
                if type(position) is not int or not 0 <= position <= 4:
                    raise Refused("random numbers have a state that is none")
        elif isinstance(part, tuple):
            raise Refused("random numbers have a state of an older form")
        elif part is not None and type(part) is not np.random.SeedSequence:
            raise Refused("random numbers have a state that is none")


def _seeds(_: object, state: object) -> None:
    """Check that a sequence of seeds holds none, as they are freed by recursion in C."""
    plain = (int, list, tuple, np.ndarray, np.integer, dict, type(None))
    if type(state) is not tuple or not all(isinstance(part, plain) for part in state):
        raise Refused("random numbers have a state that is none")


_SEEDS = "numpy.random.bit_generator.__pyx_unpickle_SeedSequence"
_IN_C = (".newObj", ".__pyx_unpickle_NDArrayBacked")
_CATBOOST = ("CatBoost", "CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker")
_RANDOM = ("__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor")
_STATES: Mapping[str, Callable[[object, object], None]] = MappingProxyType(
    {
        "lightgbm.basic.Booster": _lightgbm,
        _SEEDS: _seeds,
        "sklearn.tree._tree.Tree": trees.check_state,
        "xgboost.core.Booster": _xgboost,
        **{f"catboost.core.{name}": _catboost for name in _CATBOOST},
        **{f"numpy.random._pickle.{name}": _random for name in _RANDOM},
    }
)
