"""Which entry of an index is meant: one by its labels, or the one that fits the machine.

KitOps gives each ModelKit of an index labels of any name (`kit index add --label quantization=q4_0`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from gateway.errors import InvalidReference

_AUTO = "auto"
_SAFE = "/:+"
_MAX_LABELS = 32
_MAX_TEXT = 2048  # characters of all of them


@dataclass(frozen=True, slots=True)
class Variant:
    """The labels that the entry has, sorted by name; none for AUTO: the largest that fits.

    Raises InvalidReference for what cannot be labels.
    """

    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) > _MAX_LABELS:
            raise InvalidReference(f"a variant has at most {_MAX_LABELS} labels, and this {len(self.labels)}")
        if not all(name for name, _ in self.labels):
            raise InvalidReference("a label of a variant has no name; write NAME=VALUE")
        if len(str(self)) > _MAX_TEXT:
            raise InvalidReference(f"the labels of a variant have more than {_MAX_TEXT} characters")

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> "Variant":
        """Return the variant with these labels, at least one."""
        if not labels:
            raise InvalidReference("a variant has a label at least, such as quantization=q4_0, or is auto")
        return cls(tuple(sorted(labels.items())))

    @classmethod
    def of_arguments(cls, arguments: Iterable[str]) -> "Variant":
        """Return the variant of words "NAME=VALUE", as kit takes them, or of the word "auto" alone."""
        words = list(arguments)
        if words == [_AUTO]:
            return AUTO
        labels: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or not name:
                raise InvalidReference(f"{word[:80]!r} is no label; write NAME=VALUE, or auto alone")
            if labels.setdefault(name, value) != value:
                raise InvalidReference(f"the label {name!r} has two values, {labels[name]!r} and {value!r}")
        return cls.of(labels)

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Read what `str` wrote."""
        if text == _AUTO:
            return AUTO
        labels: dict[str, str] = {}
        for word in text.split(","):
            name, equals, value = word.partition("=")
            if not equals or unquote(name) in labels:
                raise InvalidReference(f"{text[:80]!r} is no variant; write NAME=VALUE,NAME=VALUE, or auto")
            labels[unquote(name)] = unquote(value)
        return cls.of(labels)

    @property
    def is_auto(self) -> bool:
        """Whether the machine decides."""
        return not self.labels

    def __str__(self) -> str:
        if self.is_auto:
            return _AUTO
        return ",".join(f"{quote(name, _SAFE)}={quote(value, _SAFE)}" for name, value in self.labels)


AUTO = Variant()
"""The largest entry that fits the memory that is free."""
