"""The runtime for an unpacked kit; errors of the runtimes are raised with the kit's name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gateway.errors import UnsafeArchive, UnusableModel
from gateway.kits.hints import hints_of
from gateway.kits.library import UnpackedKit
from gateway.kits.mlflow import mlflow_model
from gateway.kits.parents import model_of
from gateway.kits.paths import safe_path
from runtimes import select
from runtimes.base import LoadedModel, Resources, Signature
from runtimes.engines.base import DEFAULT_OPTIONS, EngineOptions, EngineRuntime
from runtimes.errors import LoadError, ModelError, NoRuntime, SeveralModels, UnsafeFormat
from runtimes.formats import Format, Hazard, identify
from runtimes.pickles.scan import scan
from runtimes.python.runtime import DEFAULT_OPTIONS as PYTHON_OPTIONS
from runtimes.python.runtime import NAME as PYTHON
from runtimes.python.runtime import PythonOptions, PythonRuntime
from runtimes.select import Choice, choose

# What repositories have beside the form of a model that can be served: its weights, or another framework's.
_OTHER_FORMS = frozenset(
    {
        Format.SAFETENSORS,
        Format.TORCH_PICKLE,
        Format.GGUF,
        Format.KERAS,
        Format.HDF5,
        Format.SAVED_MODEL,
        Format.GRAPH_DEF,
        Format.TFLITE,
    }
)
# What is named as the model by mistake, beside the model.
_DOCUMENTS = frozenset({Format.TEXT, Format.JSON})
_MAX_SHOWN = 12  # files of a kit
_PICKLE_ADVICE = "let the policy allow pickles of known libraries with `pickles: known`"

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
            return _choose_entry(kit, kit.entry.path, allow_code)
        if hint == PYTHON:
            raise NoRuntime(_no_entry(file))
        try:
            choice = _choose(kit, hint, allow_code, file, allow_pickles)
        except UnsafeFormat as error:
            if not allow_pickles and _is_servable(kit, hint, file, allow_code=allow_code):
                raise UnsafeFormat(f"{error}; or {_PICKLE_ADVICE}") from error
            if not allow_code and _is_servable(kit, hint, file, allow_code=True):
                raise UnsafeFormat(f"{error}; or {_code_advice(kit)}") from error
            raise
        if choice.format.hazard is Hazard.CODE:
            path = str(choice.path.relative_to(kit.path))
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
    with naming(kit):
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
            model = choice.runtime.start(choice.path, resources, _python_options(kit, resources, python))
        else:
            model = _loaded(kit, choice, resources)
        if resources.gpus > 0 and model.device == "cpu":
            model.close()
            raise LoadError(
                f"the model asks for {resources.gpus:g} {'GPU' if resources.gpus == 1 else 'GPUs'}, and the "
                f"runtime {choice.runtime.name} computes on CPUs; set `gpus: 0`, or use a "
                "format whose runtime takes GPUs"
            )
        return model


def _choose_entry(kit: UnpackedKit, entry: str, allow_code: bool) -> Choice:
    """Return the choice of a kit's entry. Raises UnsafeFormat where the policy does not allow code."""
    if not allow_code:
        raise UnsafeFormat(
            f"{entry} is Python that serves the kit, and is run: so it is served only where the policy "
            "allows that "
            f"to this kit. {_capitalised(_code_advice(kit))}{_alone_advice(kit)}"
        )
    path = kit.path / entry
    if not path.is_file():
        raise LoadError(f"its entry should be at {entry!r}, and no layer has that; pack the kit again")
    log.warning("code allowed", extra={"kit": str(kit.kit.reference), "path": entry, "imports": ""})
    return Choice(PythonRuntime(), path, Format.PYTHON)


def _no_entry(file: str | None) -> str:
    beside = "" if file is None else f" beside `file: {file}`"
    return (
        f"there is no entry for the runtime {PYTHON!r}{beside}: put a `kitserve.py` at the root of a code "
        "layer of the "
        "kit, or name the file as `model.parameters.entry` in the Kitfile"
    )


def _alone_advice(kit: UnpackedKit) -> str:
    """Return how to serve the model beside an entry without it; "" where there is none that can be."""
    try:
        choice = _choose(kit, None, allow_code=False, file=None, allow_pickles=kit.verdict.pickles)
    except ModelError:
        return ""
    name = choice.path.relative_to(kit.path)
    file = f"`file: {name}` or " if choice.path.is_file() else ""
    return (
        f"; or, to serve the model beside it without its processing, write {file}`runtime: "
        f"{choice.runtime.name}` "
        "beside `kit` in the config"
    )


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _python_options(kit: UnpackedKit, resources: Resources, options: PythonOptions) -> PythonOptions:
    """Return the options of an entry with what the kit and its verdict say."""

    def load_model() -> LoadedModel:
        choice = _choose(kit, None, kit.verdict.code, None, kit.verdict.pickles)
        if isinstance(choice.runtime, EngineRuntime):
            raise LoadError(
                "preprocess and postprocess are for models of tensors, and this is a language model"
            )
        return choice.runtime.load(choice.path, resources)

    assert kit.entry is not None
    return replace(
        options,
        class_name=kit.entry.class_name,
        root=kit.path,
        model_path=kit.model_path,
        load_model=load_model,
        sources=kit.verdict.requirements,
        environments=kit.environments,
    )


def _loaded(kit: UnpackedKit, choice: Choice, resources: Resources) -> LoadedModel:
    """Load the file; where that fails, say what MLflow says that it was made with."""
    try:
        return choice.runtime.load(choice.path, resources)
    except LoadError as error:
        mlflow = mlflow_model(kit, choice)
        if mlflow is None or not mlflow.maker or mlflow.maker in str(error):
            raise
        raise LoadError(f"{error} (its MLmodel says that it was made with {mlflow.maker})") from error


def _choose(
    kit: UnpackedKit, hint: str | None, allow_code: bool, file: str | None, allow_pickles: bool = True
) -> Choice:
    model = model_of(kit.kit)
    framework = None if model is None else model.format or model.framework
    path = kit.model_path if file is None else _path_of(kit, file)
    try:
        return choose(path, hint, framework=framework, allow_code=allow_code, allow_pickles=allow_pickles)
    except SeveralModels as error:
        main = _main_file(kit, error)
        if main is None:
            raise _several(kit, error) from error
        return choose(main, hint, framework=framework, allow_code=allow_code, allow_pickles=allow_pickles)
    except ModelError as refusal:
        if file is None and path.is_file() and identify(path) in _OTHER_FORMS:
            try:
                return choose(kit.path, hint, framework=framework, allow_pickles=allow_pickles)
            except SeveralModels as error:
                raise _several(kit, error) from error
            except ModelError:
                pass
        elif file is None and path.is_file() and identify(path) in _DOCUMENTS:
            raise _with_advice(kit, refusal, hint, framework) from refusal
        raise


def _path_of(kit: UnpackedKit, file: str) -> Path:
    """Return where the file of the kit that a config names is. Raises LoadError where it is not there."""
    try:
        path = kit.path / safe_path(file)
    except UnsafeArchive as error:
        raise LoadError(f"`file` is no path within the kit: {error}") from error
    if path.is_file():
        return path
    paths = sorted(str(path.relative_to(kit.path)) for path in kit.path.rglob("*") if path.is_file())
    others = f" and {len(paths) - _MAX_SHOWN} more" if len(paths) > _MAX_SHOWN else ""
    raise LoadError(
        f"there is no file {file!r} among the model's; there are {', '.join(paths[:_MAX_SHOWN])}{others}"
    )


def _main_file(kit: UnpackedKit, error: SeveralModels) -> Path | None:
    """Return the one of several files that is no helper of the model, such as a draft model, by its part."""
    hints = hints_of(kit.kit)
    helpers = {kit.path / name for name in (hints.projector, hints.draft, *hints.adapters) if name}
    paths = [path for path in map(Path, error.paths) if helpers.isdisjoint({path, *path.parents})]
    return paths[0] if len(paths) == 1 else None


def _several(kit: UnpackedKit, error: SeveralModels) -> NoRuntime:
    names = [str(Path(path).relative_to(kit.path)) for path in error.paths]
    others = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return NoRuntime(
        f"the kit has several models: {', '.join(names[:_MAX_SHOWN])}{others}; choose one beside `kit` in "
        f"the config, such as `file: {names[0]}`, or as model.path in the Kitfile"
    )


def _with_advice(
    kit: UnpackedKit, refusal: ModelError, hint: str | None, framework: str | None
) -> ModelError:
    """Return the error for a file that is no model, with the name of the kit's one model if there is one."""
    try:
        name = choose(kit.path, hint, framework=framework).path.relative_to(kit.path)
    except ModelError:
        return refusal
    return NoRuntime(f"{refusal}; {name} can be served: write `file: {name}` beside `kit` in the config")


def _is_servable(kit: UnpackedKit, hint: str | None, file: str | None, *, allow_code: bool) -> bool:
    """Tell whether the kit could be served if the policy allowed pickles, and code where that is asked."""
    try:
        _choose(kit, hint, allow_code, file)
    except ModelError:
        return False
    return True


def _code_advice(kit: UnpackedKit) -> str:
    digests = " and ".join(str(link.digest) for link in kit.kit.chain)
    return (
        "let the policy allow this kit to run code: sign it and set `allow_code: signed`, or list its digest "
        f"there, {digests}"
    )


@contextmanager
def naming(kit: UnpackedKit) -> Iterator[None]:
    """Raise errors about a model as UnusableModel, with the kit's reference."""
    try:
        yield
    except ModelError as error:
        # Paths are shown within the kit, as the node's directories tell a user nothing.
        text = str(error).replace(f"{kit.path}/", "").replace(str(kit.path), "the kit")
        raise UnusableModel(f"{kit.kit.reference}: {text}") from error
