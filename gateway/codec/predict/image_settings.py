"""What a kit says about the images that its model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

CHANNELS: Mapping[str, int] = {"RGB": 3, "BGR": 3, "L": 1}
"""How many channels an image has, by their names."""
_MAX_SIDE = 8192
_LAYOUTS = ("NCHW", "NHWC")
_RESIZES = ("stretch", "crop", "pad")


class UnusableImageSettings(ValueError):
    """What a kit says about images cannot be read; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How an image becomes a tensor, as far as a kit says it; None where the input's shape is to say it."""

    size: tuple[int, int] | None = None
    """Height and width."""
    channels: str | None = None
    """`RGB`, `BGR` or `L` (grey)."""
    layout: str | None = None
    """`NCHW` or `NHWC`."""
    scale: float | None = None
    """What a value from 0 to 255 is multiplied by."""
    mean: tuple[float, ...] | None = None
    """What is taken off each channel, once scaled."""
    std: tuple[float, ...] | None = None
    """What each channel is divided by then."""
    resize: str = "stretch"
    """`stretch` to the size, `crop` the middle of what is wider or higher, or `pad` with black."""

    @classmethod
    def of(cls, document: Any) -> ImageSettings:
        """Read the settings of a Kitfile.

        Raises:
            UnusableImageSettings: naming the member that is wrong.
        """
        if not isinstance(document, dict):
            raise UnusableImageSettings("must be an object")
        names = {field.name for field in fields(cls)}
        unknown = sorted(set(document) - names)
        if unknown:
            raise UnusableImageSettings(f"{unknown[0]!r} is none of {', '.join(sorted(names))}")
        values = {name: _setting(name, value) for name, value in document.items() if value is not None}
        return cls(**values)


def _setting(name: str, value: Any) -> Any:
    """Return one setting as it is kept."""
    words: Mapping[str, tuple[str, ...]] = {
        "channels": tuple(CHANNELS),
        "layout": _LAYOUTS,
        "resize": _RESIZES,
    }
    if name in words:
        if value not in words[name]:
            raise UnusableImageSettings(f"{name} must be one of {', '.join(words[name])}, not {value!r}")
        return value
    if name == "size":
        sides = [value, value] if type(value) is int else value
        if not isinstance(sides, list) or len(sides) != 2 or not all(type(side) is int for side in sides):
            raise UnusableImageSettings("size must be [HEIGHT, WIDTH]")
        if not all(0 < side <= _MAX_SIDE for side in sides):
            raise UnusableImageSettings(f"size must be from 1 to {_MAX_SIDE}")
        return tuple(sides)
    numbers = value if isinstance(value, list) and name != "scale" else [value]
    if not numbers or not all(map(_is_number, numbers)):
        raise UnusableImageSettings(
            f"{name} must be {'a number' if name == 'scale' else 'a list of numbers'}"
        )
    if name == "std" and 0 in numbers:
        raise UnusableImageSettings("std must not be 0")
    return float(numbers[0]) if name == "scale" else tuple(map(float, numbers))


def _is_number(value: Any) -> bool:
    """Tell whether a value is a finite number that a float can be."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False
