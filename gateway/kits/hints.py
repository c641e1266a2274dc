"""What a kit hints of its language model: parameters, prompts, templates, and the files beside its weights.

Kitfiles have no fields for these. They are read from `model.parameters`, which is free form, and from type,
name and file name of the model's parts (see `uses`). Other formats say it by the media types of layers.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import InvalidKitfile, UnsafeArchive
from gateway.kits.kit import Kit
from gateway.kits.language_parameters import language_parameters
from gateway.kits.layer import GO_TEMPLATE, MODEL_ROLES
from gateway.kits.parents import model_of
from gateway.kits.paths import safe_path
from gateway.kits.uses import FILE_NAMES, Use, use_of_words

_ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class ModelHints:
    """What a kit hints of its language model; paths are within the kit, and may be directories.

    Nothing of it is checked: a path may lead to no file, and a parameter may have any form.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """`model.parameters` of the Kitfile, {} where that is no object."""
    system_prompt: str | None = None
    """The first message of each chat, as a parameter states it."""
    system_prompt_file: str | None = None
    """The file with that message: one of the Kitfile's prompts. A parameter counts first."""
    chat_template: str | None = None
    """A file with a Jinja template."""
    projector: str | None = None
    """The file that turns images or sound into the model's input (llama.cpp calls it mmproj)."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters: GGUF files, or directories with an adapter_config.json."""
    draft: str | None = None
    """A small model that guesses ahead."""
    notes: tuple[str, ...] = ()
    """What the kit has that cannot be used, in sentences for people."""


def hints_of(kit: Kit) -> ModelHints:
    """Return what a kit and its parents hint of its language model; what the child states counts first.

    Raises:
        InvalidKitfile: where two parts of one kit are for the same use, or a part's path is unsafe.
    """
    model = model_of(kit)
    parameters = model.parameters if model is not None and isinstance(model.parameters, dict) else {}
    uses: dict[Use, tuple[str, ...]] = {}
    for link in kit.chain:
        # A child's template takes the place of its parent's, but its adapters come on top of the parent's.
        for use, paths in _uses(link).items():
            if use is Use.ADAPTER:
                uses[use] = (*paths, *uses.get(use, ()))
            else:
                uses.setdefault(use, paths)
    return ModelHints(
        parameters=parameters,
        system_prompt=language_parameters(parameters)[0].values.get("system_prompt"),
        system_prompt_file=_prompt_file(kit),
        chat_template=_first(uses, Use.CHAT_TEMPLATE),
        projector=_first(uses, Use.PROJECTOR),
        adapters=uses.get(Use.ADAPTER, ()),
        draft=_first(uses, Use.DRAFT),
        notes=_notes(kit),
    )


def part_paths(kit: Kit) -> tuple[str, ...]:
    """Return the paths of the model and its parts, the parents' before the child's, each once.

    Raises:
        InvalidKitfile: where one is unsafe.
    """
    return tuple(dict.fromkeys(path for link in reversed(kit.chain) for path, _, _ in _parts(link)))


def _prompt_file(kit: Kit) -> str | None:
    path = kit.system_prompt.path if kit.system_prompt is not None else None
    return _safe(kit, "prompts", path) or None


def _notes(kit: Kit) -> tuple[str, ...]:
    layers = (layer for link in kit.chain for layer in link.layers)
    if any(layer.descriptor.media_type == GO_TEMPLATE for layer in layers):
        return ("its chat template is one of Ollama (a Go template), so that in the model's file is used",)
    return ()


def _uses(kit: Kit) -> dict[Use, tuple[str, ...]]:
    """Return the paths of what the parts of one kit are for, by use."""
    uses: dict[Use, dict[str, None]] = {}
    others: list[str] = []
    for path, words, use in _parts(kit):
        stated = use or use_of_words(words)
        if posixpath.basename(path) == _ADAPTER_CONFIG:
            uses.setdefault(Use.ADAPTER, {})[posixpath.dirname(path)] = None
        elif stated is not None:
            uses.setdefault(stated, {})[path] = None
        else:
            others.append(path)
    for use, paths in uses.items():
        if len(paths) > 1 and use is not Use.ADAPTER:
            raise InvalidKitfile(
                f"{kit.reference}: its parts {' and '.join(paths)} are both its {use.value[0]}; "
                "give one of them another type, and pack the kit again"
            )
    # Where several files have such a name, it says nothing.
    for use, pattern in FILE_NAMES:
        matches = dict.fromkeys(path for path in others if pattern.fullmatch(posixpath.basename(path)))
        if use not in uses and len(matches) == 1:
            uses[use] = matches
    return {use: tuple(paths) for use, paths in uses.items()}


def _parts(kit: Kit) -> Iterator[tuple[str, tuple[str | None, ...], Use | None]]:
    """Yield each part of the model: its path, its type and name, and the use that its layer states."""
    entries = kit.kitfile.model.parts if kit.kitfile.model is not None else ()
    seen = set()
    for part in entries:
        if path := _safe(kit, "model.parts", part.path):
            seen.add(path)
            yield path, (part.type, part.name), None
    for layer in kit.layers:
        # A kit without a Kitfile has layers alone.
        if layer.role in MODEL_ROLES:
            path = _safe(kit, "layers", layer.path)
            if path and path not in seen:
                yield path, (), layer.use


def _safe(kit: Kit, section: str, path: str | None) -> str:
    try:
        return safe_path(path or "")
    except UnsafeArchive as error:
        raise InvalidKitfile(f"{kit.reference}: {section}: {error}") from error


def _first(uses: Mapping[Use, tuple[str, ...]], use: Use) -> str | None:
    return next(iter(uses.get(use, ())), None)
