"""How an unpacked kit is served by its entry: where the policy allows it, and with which options."""

from __future__ import annotations

import logging
from dataclasses import replace

from gateway.kits.entry import PythonEntry
from gateway.kits.library import UnpackedKit
from gateway.kits.model_file import choose_file
from gateway.kits.trust import code_advice
from runtimes.base import LoadedModel, Resources
from runtimes.engines.base import EngineRuntime
from runtimes.errors import LoadError, ModelError, NoRuntime, UnsafeFormat
from runtimes.formats import Format
from runtimes.python.runtime import NAME, PythonOptions, PythonRuntime
from runtimes.select import Choice

log = logging.getLogger(__name__)


def choose_entry(kit: UnpackedKit, entry: PythonEntry, allow_code: bool) -> Choice:
    """Return the choice of a kit's entry. Raises UnsafeFormat where the policy does not allow code."""
    if not allow_code:
        advice = code_advice(kit.kit)
        raise UnsafeFormat(
            f"{entry.path} is Python that serves the kit, and is run: so it is served only where the policy "
            f"allows that to this kit. {advice[:1].upper()}{advice[1:]}{_alone_advice(kit)}"
        )
    path = kit.path / entry.path
    if not path.is_file():
        raise LoadError(f"its entry should be at {entry.path!r}, and no layer has that; pack the kit again")
    log.warning("code allowed", extra={"kit": str(kit.kit.reference), "path": entry.path, "imports": ""})
    return Choice(PythonRuntime(), path, Format.PYTHON)


def no_entry(file: str | None) -> NoRuntime:
    """Return the error for a kit that has no entry, or not this file, where the config wants one."""
    beside = "" if file is None else f" beside `file: {file}`"
    return NoRuntime(
        f"there is no entry for the runtime {NAME!r}{beside}: put a `kitserve.py` at the root of a code "
        "layer of the kit, or name the file as `model.parameters.entry` in the Kitfile"
    )


def _alone_advice(kit: UnpackedKit) -> str:
    """Return how to serve the model beside an entry without it; "" where there is none that can be."""
    try:
        choice = choose_file(kit, None, allow_code=False, file=None, allow_pickles=kit.verdict.pickles)
    except ModelError:
        return ""
    name = choice.path.relative_to(kit.path)
    file = f"`file: {name}` or " if choice.path.is_file() else ""
    return (
        f"; or, to serve the model beside it without its processing, write {file}`runtime: "
        f"{choice.runtime.name}` beside `kit` in the config"
    )


def python_options(kit: UnpackedKit, resources: Resources, options: PythonOptions) -> PythonOptions:
    """Return the options of an entry with what the kit and its verdict say."""

    def load_model() -> LoadedModel:
        choice = choose_file(kit, None, kit.verdict.code, None, kit.verdict.pickles)
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
