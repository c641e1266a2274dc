"""What the parts of a language model are for besides its weights, by the words and file names that say so."""

import re
from collections.abc import Iterable
from enum import Enum

_SEPARATORS = re.compile(r"[\s._-]+")


class Use(Enum):
    """What a part is for, and the words that say so, as its type or its name."""

    CHAT_TEMPLATE = ("chat_template", "chat_template_jinja", "template")
    PROJECTOR = ("mmproj", "projector", "multimodal_projector", "vision_projector")
    ADAPTER = ("adapter", "lora", "lora_adapter", "peft_adapter")
    DRAFT = ("draft", "draft_model", "speculative_draft")


FILE_NAMES = (
    (Use.CHAT_TEMPLATE, re.compile(r"chat_template\.jinja")),
    (Use.CHAT_TEMPLATE, re.compile(r".+\.jinja")),
    (Use.PROJECTOR, re.compile(r"(?:.*[-_.])?mmproj(?:[-_.].*)?\.gguf|.+\.mmproj")),
)
"""The names of files that are for a use, the surest first; a name says less than a type."""


def use_of_words(words: Iterable[str | None]) -> Use | None:
    """Return the use that the first of these words says, None where none does."""
    normal = [normal_word(word) for word in words if word]
    return next((use for word in normal for use in Use if word in use.value), None)


def use_of_file(name: str) -> Use | None:
    """Return the use that a file's name suggests, None where it suggests none."""
    return next((use for use, pattern in FILE_NAMES if pattern.fullmatch(name)), None)


def normal_word(text: str) -> str:
    """Return a word of a Kitfile in one spelling: "Chat-Template" is "chat_template"."""
    return _SEPARATORS.sub("_", text.strip().casefold())
