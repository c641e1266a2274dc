"""The runtime for an unpacked kit; errors of the runtimes are raised with the kit's name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import UnusableModel
from gateway.kits.entry_runtime import choose_entry, no_entry, python_options
from gateway.kits.library import UnpackedKit
from gateway.kits.mlflow import mlflow_model
from gateway.kits.model_file import choose_file, is_servable
from gateway.kits.trust import PICKLE_ADVICE, code_advice
from gateway.wording import counted
from runtimes import select
from runtimes.base import CodeRuntime, LoadedModel, Resources, Signature
from runtimes.engines.base import DEFAULT_OPTIONS, EngineOptions, EngineRuntime
from runtimes.errors import LoadError, ModelError, UnsafeFormat
from runtimes.formats import Hazard
from runtimes.python.runtime import DEFAULT_OPTIONS as PYTHON_OPTIONS
from runtimes.python.runtime import NAME as PYTHON
from runtimes.python.runtime import PythonOptions, PythonRuntime
from runtimes.select import Choice
from runtimes.signature import CPU_ADVICE

log = logging.getLogger(__name__)


def choose_runtime(
    kit: UnpackedKit,
    hint: str | None,
    allow_code: bool = False,
    file: str | None = None,
    *,
    allow_pickles: bool = True,
) -> Choice:
    """Choose the kit's model file and runtime; `hint` is the name of the only runtime that may be chosen.

    `file` is the only file that may be, as a path within the kit. Without it, that is what the Kitfile's
    model.path names; and where that is weights or a model that nothing here runs, the one model of the kit
    that can be served. A kit with an entry is served by that, unless `hint` or `file` name something else.
    `allow_code` says whether the policy allows the kit formats that run code, `allow_pickles` whether it
    allows pickles of known libraries. Where a file that runs code is chosen, its imports are logged, as a
    record of what was trusted.

    Raises:
        UnusableModel: where no runtime fits, or only files that run code and the policy does not allow that,
            or where several files could be the model.
    """
    with naming(kit):
        if kit.entry is not None and hint in (None, PYTHON) and file in (None, kit.entry.path):
            return choose_entry(kit, kit.entry, allow_code)
        if hint == PYTHON:
            raise no_entry(file)
        try:
            choice = choose_file(kit, hint, allow_code, file, allow_pickles)
        except UnsafeFormat as error:
            if not allow_pickles and is_servable(kit, hint, file, allow_code=allow_code):
                raise UnsafeFormat(f"{error}; or {PICKLE_ADVICE}") from error
            if not allow_code and is_servable(kit, hint, file, allow_code=True):
                raise UnsafeFormat(f"{error}; or {code_advice(kit.kit)}") from error
            raise
        if choice.format.hazard is Hazard.CODE:
            path = str(choice.path.relative_to(kit.path))
            from runtimes.pickles.scan import scan

            imports = scan([choice.path])
            log.warning(
                "code allowed", extra={"kit": str(kit.kit.reference), "path": path, "imports": str(imports)}
            )
        return choice


def check(kit: UnpackedKit, choice: Choice) -> Signature | None:
    """Check the chosen file as `load` would, as far as that can be done without its engine.

    Returns:
        The signature in the file; None where it has none until it is loaded.

    Raises:
        UnusableModel: where it cannot be served.
    """
    with naming(kit), _advising(kit, choice):
        select.check(choice)
        return choice.runtime.signature(choice.path)


def load(
    kit: UnpackedKit,
    choice: Choice,
    resources: Resources,
    options: EngineOptions = DEFAULT_OPTIONS,
    python: PythonOptions = PYTHON_OPTIONS,
) -> LoadedModel:
    """Load the chosen file.

    `options` are for the engine of a language model, and `python` for an entry; what the kit decides of those
    is added here.

    Raises:
        UnusableModel: where its engine refuses it, or computes on CPUs although GPUs are reserved for it.
    """
    with naming(kit):
        if isinstance(choice.runtime, EngineRuntime):
            model: LoadedModel = choice.runtime.start(choice.path, resources, options)
        elif isinstance(choice.runtime, PythonRuntime):
            model = choice.runtime.start(choice.path, resources, python_options(kit, resources, python))
        else:
            model = _loaded(kit, choice, resources)
        if resources.gpus > 0 and model.device == "cpu":
            model.close()
            raise LoadError(
                f"the model asks for {counted(resources.gpus, 'GPU')}, and the "
                f"runtime {choice.runtime.name} computes on CPUs; {CPU_ADVICE}, or use a "
                "format whose runtime takes GPUs"
            )
        return model


def _loaded(kit: UnpackedKit, choice: Choice, resources: Resources) -> LoadedModel:
    """Load the file; where that fails, say what MLflow says that it was made with."""
    try:
        with _advising(kit, choice):
            return choice.runtime.load(choice.path, resources)
    except LoadError as error:
        mlflow = mlflow_model(kit, choice)
        if mlflow is None or not mlflow.maker or mlflow.maker in str(error):
            raise
        raise LoadError(f"{error} (its MLmodel says that it was made with {mlflow.maker})") from error


@contextmanager
def _advising(kit: UnpackedKit, choice: Choice) -> Iterator[None]:
    """Say how a program is allowed what is not on the lists, where its runtime could load it then."""
    try:
        yield
    except UnsafeFormat as error:
        if kit.verdict.code or not isinstance(choice.runtime, CodeRuntime):
            raise
        raise UnsafeFormat(f"{error}; or {code_advice(kit.kit)}") from error


@contextmanager
def naming(kit: UnpackedKit) -> Iterator[None]:
    """Raise errors about a model as UnusableModel, with the kit's reference."""
    try:
        yield
    except ModelError as error:
        # Paths are shown within the kit, as the node's directories tell a user nothing.
        text = str(error).replace(f"{kit.path}/", "").replace(str(kit.path), "the kit")
        raise UnusableModel(f"{kit.kit.reference}: {text}") from error
