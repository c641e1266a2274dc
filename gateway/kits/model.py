"""The runtime for an unpacked kit; errors of the runtimes are raised with the kit's name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import UnsafeArchive, UnusableModel
from gateway.kits.hints import hints_of
from gateway.kits.library import UnpackedKit
from gateway.kits.parents import model_of
from gateway.kits.paths import safe_path
from runtimes import select
from runtimes.base import LoadedModel, Resources, Signature
from runtimes.engines.base import DEFAULT_OPTIONS, EngineOptions, EngineRuntime
from runtimes.errors import LoadError, ModelError, NoRuntime, SeveralModels, UnsafeFormat
from runtimes.formats import Format, Hazard, identify
from runtimes.pickles.scan import scan
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
    that can be served. `allow_code` says whether the policy allows the kit formats that run code,
    `allow_pickles` whether it allows pickles of known libraries. Where a file that runs code is chosen, its
    imports are logged, as a record of what was trusted.

    Raises:
        UnusableModel: where no runtime fits, or only files that run code and the policy does not allow that,
            or where several files could be the model.
    """
    with naming(kit):
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
    kit: UnpackedKit, choice: Choice, resources: Resources, options: EngineOptions = DEFAULT_OPTIONS
) -> LoadedModel:
    """Load the chosen file; `options` are for the engine of a language model.

    Raises:
        UnusableModel: where its engine refuses it, or computes on CPUs although GPUs are reserved for it.
    """
    with naming(kit):
        if isinstance(choice.runtime, EngineRuntime):
            model: LoadedModel = choice.runtime.start(choice.path, resources, options)
        else:
            model = choice.runtime.load(choice.path, resources)
        if resources.gpus > 0 and model.device == "cpu":
            model.close()
            raise LoadError(
                f"the model asks for {resources.gpus:g} {'GPU' if resources.gpus == 1 else 'GPUs'}, and the "
                f"runtime {choice.runtime.name} computes on CPUs; set `gpus: 0`, or use a "
                "format whose runtime takes GPUs"
            )
        return model


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
