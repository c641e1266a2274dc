"""The choice of a model's file and of its runtime: by content, never by name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from runtimes.base import CheckingRuntime, CodeRuntime, DelegatingRuntime, Runtime
from runtimes.errors import LoadError, NoRuntime, SeveralModels, UnsafeFormat
from runtimes.formats import Format, Hazard, identify
from runtimes.gguf_kinds import candidates
from runtimes.hugging_face import directory as hugging_face
from runtimes.mlflow import flavors as mlflow
from runtimes.refusals import DAMAGED, OTHERS, sentence

GROUP = "kitserve.runtimes"

_MAX_FILES = 1_000

# Known without package metadata, too, as in a checkout that is not installed.
_BUILT_IN = (
    EntryPoint("onnx", "runtimes.onnx:OnnxRuntime", GROUP),
    EntryPoint("torchscript", "runtimes.torchscript:TorchScriptRuntime", GROUP),
    EntryPoint("torch-export", "runtimes.torch_export:TorchExportRuntime", GROUP),
    EntryPoint("sklearn", "runtimes.sklearn.runtime:SklearnRuntime", GROUP),
    EntryPoint("xgboost", "runtimes.boosters.xgboost:XgboostRuntime", GROUP),
    EntryPoint("lightgbm", "runtimes.boosters.lightgbm:LightgbmRuntime", GROUP),
    EntryPoint("catboost", "runtimes.boosters.catboost:CatboostRuntime", GROUP),
    EntryPoint("skops", "runtimes.skops.runtime:SkopsRuntime", GROUP),
    EntryPoint("openvino", "runtimes.openvino.runtime:OpenVinoRuntime", GROUP),
    EntryPoint("tensorflow", "runtimes.tensorflow.saved_model:TensorFlowRuntime", GROUP),
    EntryPoint("keras", "runtimes.tensorflow.keras_model:KerasRuntime", GROUP),
    EntryPoint("gguf", "runtimes.gguf:GgufRuntime", GROUP),
    EntryPoint("transformers", "runtimes.transformers:TransformersRuntime", GROUP),
    EntryPoint(
        "transformers-generation", "runtimes.transformers_generation:TransformersGenerationRuntime", GROUP
    ),
    EntryPoint("python", "runtimes.python.runtime:PythonRuntime", GROUP),
    EntryPoint("vllm", "runtimes.transformers_generation:VllmRuntime", GROUP),
)

_HUGGING_FACE = (Format.HUGGING_FACE, Format.HUGGING_FACE_GENERATION)
# Forms whose engine is an extra, which nobody needs where the kit has another form.
_OF_EXTRAS = (
    Format.OPENVINO,
    Format.SAVED_MODEL,
    Format.KERAS,
    Format.SKOPS,
    Format.XGBOOST,
    Format.LIGHTGBM,
    Format.CATBOOST,
)

_ADVICE = {
    Format.KNOWN_PICKLE: "save it with skops, or export the model to ONNX (skl2onnx for scikit-learn)",
    Format.PICKLE: "export the model to ONNX (skl2onnx for scikit-learn)",
    Format.TORCH_PICKLE: "it has weights but no program, so it cannot be served at all: save a "
    "model of transformers as safetensors (save_pretrained), and any other with torch.export.save or "
    "torch.jit.save, or export it to ONNX",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The runtime that reads `path`, a file of `format`."""

    runtime: Runtime
    path: Path
    format: Format


def installed() -> dict[str, Runtime]:
    """Return every runtime by name, built-in ones first. Raises NoRuntime for a broken plugin."""
    entries: dict[str, EntryPoint] = {entry.name: entry for entry in _BUILT_IN}
    for entry in entry_points(group=GROUP):
        first = entries.setdefault(entry.name, entry)
        if first.value != entry.value:
            raise NoRuntime(
                f"two runtimes are called {entry.name!r}: {first.value} and {entry.value}; uninstall one"
            )
    return {name: _instance(entry) for name, entry in entries.items()}


def built_in_modules() -> list[str]:
    """Return the modules of the runtimes that are here; they import their engines only to load a model."""
    return [entry.module for entry in _BUILT_IN]


def names() -> list[str]:
    """Return the name of every runtime, built-in ones first; nothing is imported for that."""
    return list(dict.fromkeys(entry.name for entry in (*_BUILT_IN, *entry_points(group=GROUP))))


def choose(
    model_path: Path,
    hint: str | None = None,
    runtimes: Mapping[str, Runtime] | None = None,
    *,
    framework: str | None = None,
    allow_code: bool = False,
    allow_pickles: bool = True,
) -> Choice:
    """Choose the model file at or below `model_path`, and the runtime that reads it.

    `hint` is the name of the only runtime that may be chosen, which then leaves the model to no other.
    `framework` is free text from the packager: it only decides between several files or runtimes that fit.
    `runtimes` defaults to `installed()`; the first one that reads a format gets it. At most 1,000 files are
    read. Another form of a model is preferred to a directory of Hugging Face's: it is an export, made to be
    served.

    A pickle of known libraries is chosen only where nothing else fits, and with `allow_pickles` or
    `allow_code`. A file that runs code when it is loaded is chosen only with `allow_code`, and only where
    no other fits. Raises NoRuntime where no file fits, SeveralModels where several do, UnsafeFormat where
    every file that could be a model would run code, and LoadError where a file cannot be read.
    """
    available = installed() if runtimes is None else runtimes
    if hint is not None and hint not in available:
        raise NoRuntime(f"there is no runtime {hint!r}; installed are {', '.join(available)}")
    own, refusals = mlflow.without_wrappings({path: _identify(path) for path in _files(model_path)})
    formats = hugging_face.with_directories(own)
    usable = available if hint is None else {hint: _alone(available[hint])}
    readable = [
        Choice(runtime, path, format_)
        for path, format_ in formats.items()
        for runtime in usable.values()
        if format_ in runtime.formats
    ]
    refused = {Hazard.CODE} if allow_pickles else {Hazard.CODE, Hazard.KNOWN_PICKLE}
    if allow_code:
        refused = set()
    choices = _least_hazardous([choice for choice in readable if choice.format.hazard not in refused])
    damaged = sentence(formats, DAMAGED)
    if choices and choices[0].format.hazard is Hazard.KNOWN_PICKLE and damaged is not None:
        # The pickle is beside the model, such as its scaler.
        raise NoRuntime(damaged)
    choices = _without_companions(choices)
    if len({choice.path for choice in choices}) > 1:
        choices = [choice for choice in choices if _fits_framework(choice, framework)] or choices
        choices = [choice for choice in choices if choice.format not in _OF_EXTRAS] or choices
        choices = [choice for choice in choices if choice.format not in _HUGGING_FACE] or choices
    files = {choice.path for choice in choices}
    if len(files) > 1:
        listed = ", ".join(sorted(str(path.relative_to(model_path)) for path in files))
        text = f"{model_path} has several models: {listed}; set the Kitfile's model.path to one"
        raise SeveralModels(text, tuple(sorted(map(str, files))))
    if not choices and refusals:
        raise refusals[0]
    if not choices:
        raise _refusal(model_path, formats, hint, available, refused)
    choice = next((choice for choice in choices if _fits_framework(choice, framework)), choices[0])
    if _may_run(choice.format.hazard, allow_code) and isinstance(choice.runtime, CodeRuntime):
        return replace(choice, runtime=choice.runtime.with_code())
    return choice


def _may_run(hazard: Hazard, allow_code: bool) -> bool:
    """Tell whether the runtime is to load what it would refuse; known pickles need nothing of that."""
    return hazard is Hazard.CODE or (hazard is Hazard.PROGRAM and allow_code)


def check(choice: Choice) -> None:
    """Raise what loading the file would raise, as far as that is known without its engine."""
    if isinstance(choice.runtime, CheckingRuntime):
        choice.runtime.check(choice.path)
    else:
        choice.runtime.signature(choice.path)


def _identify(path: Path) -> Format:
    """Return the format of a file; of a pickle, whether it is one of known libraries alone."""
    format_ = identify(path)
    if format_ is not Format.PICKLE:
        return format_
    # Imported here, as few kits have a pickle.
    from runtimes.pickles.dry_run import dry_run

    return Format.KNOWN_PICKLE if dry_run(path).is_known else format_


def _least_hazardous(choices: list[Choice]) -> list[Choice]:
    """Return the choices of data and programs, or else of known pickles, or else of code."""
    data = [choice for choice in choices if choice.format.hazard not in (Hazard.CODE, Hazard.KNOWN_PICKLE)]
    return data or [choice for choice in choices if choice.format.hazard is Hazard.KNOWN_PICKLE] or choices


def _alone(runtime: Runtime) -> Runtime:
    """Return the runtime as it is used where the config names it."""
    return runtime.alone() if isinstance(runtime, DelegatingRuntime) else runtime


def _files(model_path: Path) -> Iterator[Path]:
    if not model_path.is_dir():
        if not model_path.is_file():
            raise LoadError(
                f"{model_path} does not exist or is no regular file; check the Kitfile's model.path"
            )
        yield model_path
        return
    count = 0
    for directory, _, names in os.walk(model_path):
        for name in sorted(names):
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file():
                continue
            count += 1
            if count > _MAX_FILES:
                raise NoRuntime(
                    f"{model_path} has over {_MAX_FILES} files; set the Kitfile's model.path to the model"
                )
            yield path


def _without_companions(choices: list[Choice]) -> list[Choice]:
    """Return the choices without GGUF files that are no model of their own, where there is another file."""
    files = {choice.path for choice in choices}
    ggufs = {choice.path for choice in choices if choice.format is Format.GGUF}
    if len(files) == 1 or not ggufs:
        return choices
    models = candidates(ggufs)
    return [choice for choice in choices if choice.path not in ggufs or choice.path in models] or choices


def _fits_framework(choice: Choice, framework: str | None) -> bool:
    names = (choice.runtime.name, choice.format.title, choice.format.name)
    normalized = _normalized(framework or "")
    return bool(normalized) and any(normalized == _normalized(name) for name in names)


def _normalized(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def _refusal(
    model_path: Path,
    formats: Mapping[Path, Format],
    hint: str | None,
    available: Mapping[str, Runtime],
    refused: Collection[Hazard],
) -> NoRuntime | UnsafeFormat:
    readers: dict[Format, str] = {}
    for name, runtime in available.items():
        for format_ in runtime.formats:
            readers.setdefault(format_, name)
    if hint is not None:
        for path, format_ in formats.items():
            if format_ in readers and format_.hazard not in refused:
                reader = readers[format_]
                return NoRuntime(
                    f"runtime {hint!r} does not read {path}: it is {format_.title}, for {reader!r}"
                )
    damaged = sentence(formats, DAMAGED)
    if damaged is not None:
        return NoRuntime(damaged)
    reason = hugging_face.refusal(formats)
    if reason is not None:
        return reason
    code = [path for path, format_ in formats.items() if format_.hazard is Hazard.CODE]
    if code:
        # First the files that could be served if code were allowed.
        code.sort(key=lambda path: formats[path] not in readers)
        return _code_refusal(code, formats[code[0]])
    pickles = [path for path, format_ in formats.items() if format_.hazard in refused]
    if pickles:
        return UnsafeFormat(
            f"{pickles[0]} is a {Format.KNOWN_PICKLE.title}, and the policy allows no pickles; "
            f"{_ADVICE[Format.KNOWN_PICKLE]}"
        )
    titles = ", ".join(sorted({format_.title for format_ in formats.values()})) or "no file"
    supported = ", ".join(f"{format_.title} ({name})" for format_, name in readers.items())
    other = sentence(formats, OTHERS)
    if other is not None:
        return NoRuntime(f"{other} (found {titles}; supported are {supported})")
    return NoRuntime(f"no runtime reads {model_path}: found {titles}; supported are {supported}")


def _code_refusal(paths: Sequence[Path], format_: Format) -> UnsafeFormat:
    """Return the error for files that run code, with their imports; the first has this format."""
    from runtimes.pickles.dry_run import dry_run
    from runtimes.pickles.scan import scan

    path, *others = paths
    also = f" (as do {len(others)} more, such as {others[0].name})" if others else ""
    reason = (
        f"It is no pickle of known libraries: {dry_run(path).refusal}. " if format_ is Format.PICKLE else ""
    )
    imports = scan(paths)
    if any(name.startswith("__main__.") for name in imports.imports):
        reason += (
            "What is in __main__ was defined in a script or a notebook, and is found nowhere else: "
            "write it into a kitserve.py of the kit (docs/python.md). "
        )
    return UnsafeFormat(
        f"{path} is a {format_.title}, which runs code when it is loaded{also}: it imports {imports}. "
        f"{reason}It is not served in this form; {_ADVICE[format_]}"
    )


def _instance(entry: EntryPoint) -> Runtime:
    try:
        module, _, name = entry.value.partition(":")
        runtime: object = getattr(import_module(module), name)()
    except Exception as error:
        raise NoRuntime(
            f"runtime {entry.name!r} ({entry.value}) is broken: {error!r}; repair or uninstall it"
        ) from error
    if not isinstance(runtime, Runtime) or runtime.name != entry.name:
        raise NoRuntime(f"runtime {entry.name!r} ({entry.value}) is not a Runtime of that name; uninstall it")
    return runtime
