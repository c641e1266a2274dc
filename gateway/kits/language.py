"""What a kit and the config say of a language model, merged: the config counts first.

Of the kit, its Kitfile's `model.parameters` count (`language_parameters`), one of its prompts, and parts of
its model (`hints`), its parents' too. What is new there is another digest, and so another version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.errors import InvalidKitfile, UnsafeArchive
from gateway.kits.adapters import adapters
from gateway.kits.hints import hints_of
from gateway.kits.kit import Kit
from gateway.kits.language_parameters import LanguageParameters, language_parameters
from gateway.kits.library import UnpackedKit
from gateway.kits.paths import safe_path
from gateway.serving import (
    ENGINE_BOUNDS,
    MAX_PROMPT,
    NO_GENERATION,
    SAMPLING_BOUNDS,
    Generation,
    Serving,
    is_template,
)
from runtimes.engines.base import DEFAULT_OPTIONS, EngineOptions, EngineRuntime
from runtimes.select import Choice

_SKILL = "SKILL.md"


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """How a language model is loaded, and what its calls have that do not say it themselves."""

    options: EngineOptions = DEFAULT_OPTIONS
    generation: Generation = NO_GENERATION
    taken: Mapping[str, str] = field(default_factory=dict)
    """The setting that a parameter of the Kitfile makes, by the parameter's name there."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Why a parameter, or a prompt, makes none."""


def language_model(kit: UnpackedKit, choice: Choice, serving: Serving) -> LanguageModel:
    """Return how a kit's language model is run; another model's parameters are not read.

    Raises:
        InvalidKitfile: where the Kitfile has a value that cannot be meant, or names a file that is not there.
        UnusableModel: where an adapter does not fit the model.
    """
    if not isinstance(choice.runtime, EngineRuntime):
        return LanguageModel()
    hints = hints_of(kit.kit)
    configured = _configured(serving)
    parameters = _parameters(kit.kit, configured)
    ignored = dict(parameters.ignored)
    values = {**parameters.values, **configured}
    if "chat_template" not in configured:
        values |= _chat_template(kit, values.get("chat_template"), hints.chat_template)
    if "system_prompt" not in values:
        values |= _system_prompt(kit, hints.system_prompt_file, ignored)
    options = EngineOptions(
        **{name: values[name] for name in (*ENGINE_BOUNDS, "task", "chat_template") if name in values},
        projector=None if hints.projector is None else _file(kit, "the projector", hints.projector),
        draft=None if hints.draft is None else _file(kit, "the draft model", hints.draft),
        adapters=adapters(kit, choice, hints.adapters),
    )
    sampling = ((name, values[name]) for name in SAMPLING_BOUNDS if name in values)
    generation = Generation(tuple(sampling), values.get("stop", ()), values.get("system_prompt"))
    return LanguageModel(options, generation, parameters.taken, ignored)


def _configured(serving: Serving) -> dict[str, Any]:
    """Return the settings that the config has, by their names in there."""
    generation = serving.generation
    values = {
        **asdict(serving.engine),
        **dict(generation.sampling),
        "stop": generation.stop or None,
        "system_prompt": generation.system_prompt,
    }
    return {name: value for name, value in values.items() if value is not None}


def _parameters(kit: Kit, configured: Mapping[str, Any]) -> LanguageParameters:
    """Return what the parameters of a kit and its parents say besides the config.

    Setting by setting, the child counts first, with its files too.
    """
    settled = dict.fromkeys(configured, "the config")
    values: dict[str, Any] = {}
    taken: dict[str, str] = {}
    ignored: dict[str, str] = {}
    for link in kit.chain:
        hints = hints_of(replace(link, parents=()))
        own, faults = language_parameters(hints.parameters, settled)
        if faults:
            raise InvalidKitfile(
                f"{link.reference}: {'; '.join(faults)}; mend the Kitfile and pack the kit again, or set it "
                "in the config, in `engine` or `generation` of the model"
            )
        values |= own.values
        taken |= own.taken
        ignored |= {name: reason for name, reason in own.ignored.items() if name not in taken}
        files = {"chat_template": hints.chat_template, "system_prompt": hints.system_prompt_file}
        for name in (*own.values, *(name for name, path in files.items() if path is not None)):
            settled.setdefault(name, f"its child {link.reference.label}")
    return LanguageParameters(values, taken, ignored)


def _chat_template(kit: UnpackedKit, parameter: str | None, part: str | None) -> dict[str, str]:
    """Return the chat template of a kit: the text of a parameter, or of the file that it or a part names."""
    if parameter is not None and is_template(parameter):
        return {"chat_template": parameter}
    path = parameter or part
    if path is None:
        return {}
    text = _text(kit, "the chat template", path)
    if not is_template(text):
        raise InvalidKitfile(
            f"{kit.kit.reference}: the chat template {path!r} is no Jinja template, which has {{{{ … }}}} or "
            "{% … %} in it"
        )
    return {"chat_template": text}


def _system_prompt(kit: UnpackedKit, path: str | None, ignored: dict[str, str]) -> dict[str, str]:
    if path is None:
        return {}
    if (kit.path / path).is_dir():
        is_skill = (kit.path / path / _SKILL).is_file()
        ignored[path] = "a skill is no system prompt" if is_skill else "a directory is no system prompt"
        return {}
    text = _text(kit, "the system prompt", path).strip()
    return {"system_prompt": text} if text else {}


def _text(kit: UnpackedKit, use: str, path: str) -> str:
    """Read a text file of a kit. Raises InvalidKitfile where it is none."""
    file = _file(kit, use, path)
    if file.stat().st_size > 4 * MAX_PROMPT:
        raise InvalidKitfile(f"{kit.kit.reference}: {use} {path!r} is larger than {4 * MAX_PROMPT:,} bytes")
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidKitfile(f"{kit.kit.reference}: {use} {path!r} is no text in UTF-8") from error
    if len(text) > MAX_PROMPT:
        raise InvalidKitfile(
            f"{kit.kit.reference}: {use} {path!r} has {len(text):,} characters, and may have {MAX_PROMPT:,}"
        )
    return text


def _file(kit: UnpackedKit, use: str, name: str) -> Path:
    """Return where a file of the kit is. Raises InvalidKitfile where it is not there."""
    try:
        path = kit.path / safe_path(name)
    except UnsafeArchive as error:
        raise InvalidKitfile(f"{kit.kit.reference}: {use} {name!r}: {error}") from error
    if not path.is_file():
        raise InvalidKitfile(
            f"{kit.kit.reference}: {use} {name[:100]!r} is no file of the kit; pack it as a part of the model"
        )
    return path
