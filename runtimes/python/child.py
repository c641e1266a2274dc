"""The kit's Python in its own process: it loads the class of the entry, and answers calls on it.

The worker's side is `runtimes.python.process`. What it reads first, on its standard input, are the options;
all else are frames (`runtimes.python.frames`) on the Unix socket that it listens on. It answers one call at a
time:

    worker    {"method": NAME, "outputs": [NAME, …]} and the method's inputs
    child     {} and the outputs, or {"error": KIND, "message": TEXT}

Before the first call it says by itself how loading went: {"methods": {NAME: …}}, or an error. The kind is
`input` where the caller's tensors are wrong, else `failure`. This module runs in the kit's environment, so it
imports the standard library and numpy alone.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from runtimes.containment.seccomp import Sockets
from runtimes.engines.child import begin, enclose
from runtimes.python import frames
from runtimes.python.annotations import Method, WrongClass, method_of
from runtimes.python.values import WrongAnswer, WrongInput, call

INPUT, FAILURE = "input", "failure"
"""Whose fault an error is: the caller's, or the kit's."""
INPUT_ERROR = "InputError"
"""An exception of a class with this name says that the caller's values are wrong."""

PREDICT, PREPROCESS, POSTPROCESS = "predict", "preprocess", "postprocess"
"""The methods that are called."""
MODULE = "kitserve"
"""What the entry is called among the modules of the process, where its own name is none."""

_BACKLOG = 128
_MESSAGE_LETTERS = 300


def main() -> None:
    """Load the entry and answer calls until the worker closes the connection."""
    options = begin()
    directory = Path(options["socket"]).parent
    for variable in ("HOME", "TMPDIR"):
        private = directory / variable.lower()
        private.mkdir(mode=0o700)
        os.environ[variable] = str(private)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    # It stays open: that somebody listens tells other workers that the directory is in use.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(options["socket"])
    listener.listen(_BACKLOG)
    connection, _ = listener.accept()
    kit = (Path(options["root"]), Path(options["entry"]), Path(options["model_path"]))
    enclose(directory, kit, Sockets.NONE, is_python=True)
    try:
        methods = _reported(connection, lambda: _load(options))
        if methods is not None:
            _answer_calls(connection, methods)
    except (EOFError, OSError):
        # The worker has ended, or is done with this process.
        pass
    sys.stdout.flush()
    os._exit(0)


def _reported(connection: socket.socket, load: Callable[[], dict[str, Method]]) -> dict[str, Method] | None:
    """Load the class and tell the worker how that went; return None where it did not."""
    try:
        methods = load()
    except WrongClass as error:
        frames.send(connection, {"error": FAILURE, "message": _shown(str(error))}, {})
        return None
    except BaseException as error:
        traceback.print_exc()
        frames.send(connection, {"error": FAILURE, "message": _described(error)}, {})
        return None
    frames.send(connection, {"methods": {name: method.document for name, method in methods.items()}}, {})
    return methods


def _answer_calls(connection: socket.socket, methods: Mapping[str, Method]) -> None:
    while True:
        try:
            header, tensors = frames.receive(connection)
        except ValueError as error:
            frames.send(connection, {"error": INPUT, "message": _shown(str(error))}, {})
            continue
        try:
            outputs = call(methods[header["method"]], tensors, header["outputs"])
            frames.send(connection, {}, outputs)
        except (EOFError, OSError) as error:
            if _is_of_connection(error, connection):
                raise
            _send_failure(connection, error)
        except BaseException as error:
            _send_failure(connection, error)


def _send_failure(connection: socket.socket, error: BaseException) -> None:
    if isinstance(error, WrongInput):
        kind, message = INPUT, _shown(str(error))
    elif isinstance(error, WrongAnswer | frames.BrokenFrame):
        kind, message = FAILURE, _shown(str(error))
    elif any(base.__name__ == INPUT_ERROR for base in type(error).__mro__):
        kind, message = INPUT, _shown(str(error)) or "the model refuses the values"
    else:
        traceback.print_exception(error)
        kind, message = FAILURE, _described(error)
    frames.send(connection, {"error": kind, "message": message}, {})


def _is_of_connection(error: BaseException, connection: socket.socket) -> bool:
    """Tell whether an error is of the connection to the worker, and not one of the kit's own."""
    if isinstance(error, ConnectionError | EOFError):
        try:
            return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
    return False


def _load(options: Mapping[str, Any]) -> dict[str, Method]:
    """Import the entry, make its object, have it load the model, and return its methods.

    Raises:
        WrongClass: the file has no class that can be served.
    """
    entry = Path(options["entry"])
    os.chdir(entry.parent)
    sys.path.insert(0, str(entry.parent))
    model = _class_in(_module(entry), entry.name, options["class_name"])
    if _needed_arguments(model):
        raise WrongClass(f"{model.__name__}.__init__ takes arguments; it is made without any, so use `load`")
    owner = model()
    if callable(getattr(owner, "load", None)):
        owner.load(Path(options["model_path"]))
    names = [name for name in (PREDICT, PREPROCESS, POSTPROCESS) if hasattr(owner, name)]
    methods = {name: method_of(owner, name, options["stated"] if name == PREDICT else {}) for name in names}
    for method in methods.values():
        if method.takes_dict and not method.inputs and method.name != POSTPROCESS:
            raise WrongClass(
                f"{model.__name__}.{method.name} takes a dict, and nothing says what is in it: annotate its "
                f'parameters, or write `inputs = {{"age": "FP32"}}` in the class'
            )
    return methods


def _module(entry: Path) -> ModuleType:
    name = entry.stem if entry.stem.isidentifier() else MODULE
    spec = importlib.util.spec_from_file_location(name, entry)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        traceback.print_exc()
        raise WrongClass(
            f"{entry.name} needs the module {error.name!r}, which its environment does not have; list its "
            "package in requirements.txt"
        ) from error
    except SyntaxError as error:
        raise WrongClass(f"{entry.name}, line {error.lineno}: {error.msg}") from error
    return module


def _class_in(module: ModuleType, file: str, class_name: str) -> type:
    """Return the class that is named, or the only one of the file that can be served."""
    if class_name:
        named = getattr(module, class_name, None)
        if not isinstance(named, type):
            raise WrongClass(f"{file} has no class {class_name!r}, which the Kitfile names")
        if not _has_methods(named):
            raise WrongClass(f"{class_name} in {file} has no method `predict`, `preprocess` or `postprocess`")
        return _checked(named)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and _has_methods(value)
    ]
    # A base class is none of its own where a class in the same file extends it.
    classes = [one for one in classes if not any(one in other.__mro__[1:] for other in classes)]
    if not classes:
        raise WrongClass(f"{file} has no class with a method `predict`, or `preprocess` and `postprocess`")
    if len(classes) > 1:
        names = ", ".join(one.__name__ for one in classes)
        raise WrongClass(
            f"{file} has several classes that could be served: {names}; name one in the Kitfile, such as "
            f"`model.parameters.entry: {file}:{classes[0].__name__}`"
        )
    return _checked(classes[0])


def _has_methods(value: type) -> bool:
    return any(hasattr(value, name) for name in (PREDICT, PREPROCESS, POSTPROCESS))


def _checked(value: type) -> type:
    if hasattr(value, PREDICT) and (hasattr(value, PREPROCESS) or hasattr(value, POSTPROCESS)):
        raise WrongClass(
            f"{value.__name__} has `predict` beside `preprocess` or `postprocess`: a class with `predict` "
            "is the model itself; the others are around a model that Kitserve runs. Leave one of them out"
        )
    return value


def _needed_arguments(value: type) -> bool:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    flexible = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(one.default is one.empty and one.kind not in flexible for one in parameters)


def _described(error: BaseException) -> str:
    return _shown(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _shown(text: str) -> str:
    """Return a text for people: on one line, and not too long."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(line.split())
    return line if len(line) <= _MESSAGE_LETTERS else line[: _MESSAGE_LETTERS - 2] + " …"
