"""What a kit hints of its language model: parameters, prompts, templates, and the files beside its weights.

Kitfiles have no fields for these. They are read from `model.parameters`, which is free form, and from the
type, name and file name of the model's parts: any of the words below says what a part is for.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gateway.errors import InvalidKitfile, UnsafeArchive
from gateway.kits.kit import Kit
from gateway.kits.kitfile import SYSTEM_PROMPTS, normal_word
from gateway.kits.parents import model_of
from gateway.kits.paths import safe_path

_ADAPTER_CONFIG = "adapter_config.json"


class _Use(Enum):
    """What a part is for besides being a part; the words that say so, as its type or its name."""

    CHAT_TEMPLATE = ("chat_template", "chat_template_jinja", "template")
    PROJECTOR = ("mmproj", "projector", "multimodal_projector", "vision_projector")
    ADAPTER = ("adapter", "lora", "lora_adapter", "peft_adapter")
    DRAFT = ("draft", "draft_model", "speculative_draft")


# The beginning or the whole of file names; a name of a file says less than a type, so these are few.
_FILE_NAMES = (
    (re.compile(r"chat_template\.jinja"), _Use.CHAT_TEMPLATE),
    (re.compile(r"(?:.*[-_.])?mmproj(?:[-_.].*)?\.gguf"), _Use.PROJECTOR),
)


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


def hints_of(kit: Kit) -> ModelHints:
    """Return what a kit and its parents hint of its language model; what the child states counts first.

    Raises:
        InvalidKitfile: where two parts of one kit are for the same use, or a part's path is unsafe.
    """
    model = model_of(kit)
    parameters = model.parameters if model is not None and isinstance(model.parameters, dict) else {}
    prompts = (parameters.get(name) for name in SYSTEM_PROMPTS)
    uses: dict[_Use, tuple[str, ...]] = {}
    for link in kit.chain:
        # A child's template takes the place of its parent's, but its adapters come on top of the parent's.
        for use, paths in _uses(link).items():
            if use is _Use.ADAPTER:
                uses[use] = (*paths, *uses.get(use, ()))
            else:
                uses.setdefault(use, paths)
    return ModelHints(
        parameters=parameters,
        system_prompt=next((text for text in prompts if isinstance(text, str) and text), None),
        system_prompt_file=_prompt_file(kit),
        chat_template=_first(uses, _Use.CHAT_TEMPLATE),
        projector=_first(uses, _Use.PROJECTOR),
        adapters=uses.get(_Use.ADAPTER, ()),
        draft=_first(uses, _Use.DRAFT),
    )


def _prompt_file(kit: Kit) -> str | None:
    path = kit.system_prompt.path if kit.system_prompt is not None else None
    return _safe(kit, "prompts", path) or None


def _uses(kit: Kit) -> dict[_Use, tuple[str, ...]]:
    uses: dict[_Use, tuple[str, ...]] = {}
    for path, use in _parts(kit):
        paths = dict.fromkeys((*uses.get(use, ()), path))
        if len(paths) > 1 and use is not _Use.ADAPTER:
            raise InvalidKitfile(
                f"{kit.reference}: its parts {' and '.join(paths)} both seem to be its {use.value[0]}; "
                "give one of them another type, and pack the kit again"
            )
        uses[use] = tuple(paths)
    return uses


def _parts(kit: Kit) -> Iterator[tuple[str, _Use]]:
    """Yield each part of the model that has a use, with its path."""
    for part in kit.kitfile.model.parts if kit.kitfile.model is not None else ():
        path = _safe(kit, "model.parts", part.path)
        if not path:
            continue
        if posixpath.basename(path) == _ADAPTER_CONFIG:
            yield posixpath.dirname(path), _Use.ADAPTER
        elif use := _use_of((part.type, part.name), posixpath.basename(path)):
            yield path, use


def _safe(kit: Kit, section: str, path: str | None) -> str:
    try:
        return safe_path(path or "")
    except UnsafeArchive as error:
        raise InvalidKitfile(f"{kit.reference}: {section}: {error}") from error


def _use_of(words: Iterable[str | None], file: str) -> _Use | None:
    for word in filter(None, words):
        for use in _Use:
            if normal_word(word) in use.value:
                return use
    return next((use for pattern, use in _FILE_NAMES if pattern.fullmatch(file)), None)


def _first(uses: Mapping[_Use, tuple[str, ...]], use: _Use) -> str | None:
    return next(iter(uses.get(use, ())), None)
