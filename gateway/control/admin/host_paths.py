"""Documents for callers who are not to know what is where on this machine. Pure."""

from __future__ import annotations

import re
from typing import Any

# A path begins after a space, a quote, a bracket, "=", ":", "," or ";"; "//" follows the ":" of a URL. A
# space is in a path where a "/" comes after the next word.
_END = r"\s'\"`)\]}>:,;"
_PATH = re.compile(rf"(?<![^\s'\"`(\[{{<=:,;])/(?![/\s])(?:[^{_END}]| (?=[^{_END}/]+/))*")
_SHOWN = "…/"


def without_paths(value: Any) -> Any:
    """Return a document in which each absolute path in a text is its last part alone: `…/model.onnx`."""
    if isinstance(value, str):
        return _PATH.sub(lambda match: _SHOWN + match[0].rstrip("/").rpartition("/")[2], value)
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, dict):
        return {without_paths(name): without_paths(item) for name, item in value.items()}
    return value
