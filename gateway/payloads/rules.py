"""Which calls of a model are recorded, and what of them: read from the config, obeyed by workers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

SAMPLE = 0.01
MAX_BODY = 64 * 1024
MAX_BYTES = 256 * 1024 * 1024
_POINTER = re.compile(r"(request|answer)((?:/(?:[^/~]|~[01])*)*)")
_TENSOR = re.compile(r"(inputs|outputs)\.(.+)")
_OPTIONAL = "?"
ANY = "*"
"""In a path, each member of a list or an object; as a tensor's name, each tensor."""


class Side(StrEnum):
    """The two bodies of a call."""

    REQUEST = "request"
    ANSWER = "answer"


class Keep(StrEnum):
    """Which bodies of a call are recorded."""

    REQUEST = "request"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is never recorded: a whole body, a tensor's values, or a field of a JSON body."""

    text: str
    """As the config has it."""
    side: Side
    tensor: str = ""
    """The tensor's name; "" where no tensor is meant."""
    path: tuple[str, ...] = ()
    """The members that lead to the field; () where no field is meant."""
    is_optional: bool = False
    """Whether a body without it is recorded all the same."""

    @property
    def is_whole(self) -> bool:
        """Whether the whole body is meant."""
        return not self.tensor and not self.path


def read_redaction(text: str) -> Redaction:
    """Read `request`, `answer`, `inputs.NAME`, `outputs.NAME`, or a path as `request/messages/*/content`.

    A `?` at the end says that a body may be without it. In a path, `~1` stands for `/` and `~0` for `~`, as
    in RFC 6901, and `*` for each member.

    Raises:
        ValueError: when it is none of these.
    """
    is_optional = text.endswith(_OPTIONAL)
    rule = text.removesuffix(_OPTIONAL)
    if match := _TENSOR.fullmatch(rule):
        side = Side.REQUEST if match[1] == "inputs" else Side.ANSWER
        return Redaction(text, side, tensor=match[2], is_optional=is_optional)
    match = _POINTER.fullmatch(rule)
    if match is None or match[2] == "/":
        raise ValueError(
            f"{text!r} is none of request, answer, inputs.NAME, outputs.NAME, "
            "or a path such as request/messages/*/content"
        )
    members = match[2].split("/")[1:]
    path = tuple(member.replace("~1", "/").replace("~0", "~") for member in members)
    return Redaction(text, Side(match[1]), path=path, is_optional=is_optional)


@dataclass(frozen=True, slots=True)
class PayloadRules:
    """What is recorded of a model's calls; the defaults are those of the config."""

    sample: float = SAMPLE
    """The share of the calls that is recorded."""
    keep: Keep = Keep.BOTH
    max_body: int = MAX_BODY
    """How many bytes a body may have in a record; a larger one is left out of it."""
    max_bytes: int = MAX_BYTES
    """How many bytes all files of the model may have."""
    redact: tuple[str, ...] = ()

    def redactions(self, side: Side) -> tuple[Redaction, ...]:
        """Return what is left out of one of the bodies."""
        return tuple(rule for rule in map(read_redaction, self.redact) if rule.side is side)
