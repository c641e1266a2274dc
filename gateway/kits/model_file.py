"""Which file of an unpacked kit is its model, and what to write in the config where that is not clear."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import UnsafeArchive
from gateway.kits.hints import hints_of
from gateway.kits.library import UnpackedKit
from gateway.kits.parents import model_of
from gateway.kits.paths import safe_path
from gateway.wording import listed
from runtimes.errors import LoadError, ModelError, NoRuntime, SeveralModels
from runtimes.formats import Format, identify
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


def choose_file(
    kit: UnpackedKit, hint: str | None, allow_code: bool, file: str | None, allow_pickles: bool = True
) -> Choice:
    """Choose the model's file and runtime among the files of a kit; see `kits.model.choose_runtime`.

    Raises:
        ModelError: where none can be chosen, or several could.
    """
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
    raise LoadError(f"there is no file {file!r} among the model's; there are {listed(paths, _MAX_SHOWN)}")


def _main_file(kit: UnpackedKit, error: SeveralModels) -> Path | None:
    """Return the one of several files that is no helper of the model, such as a draft model, by its part."""
    hints = hints_of(kit.kit)
    helpers = {kit.path / name for name in (hints.projector, hints.draft, *hints.adapters) if name}
    paths = [path for path in map(Path, error.paths) if helpers.isdisjoint({path, *path.parents})]
    return paths[0] if len(paths) == 1 else None


def _several(kit: UnpackedKit, error: SeveralModels) -> NoRuntime:
    names = [str(Path(path).relative_to(kit.path)) for path in error.paths]
    return NoRuntime(
        f"the kit has several models: {listed(names, _MAX_SHOWN)}; choose one beside `kit` in "
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


def is_servable(kit: UnpackedKit, hint: str | None, file: str | None, *, allow_code: bool) -> bool:
    """Tell whether the kit could be served if the policy allowed pickles, and code where that is asked."""
    try:
        choose_file(kit, hint, allow_code, file)
    except ModelError:
        return False
    return True
