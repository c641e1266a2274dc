"""The paths of calls as people write them, and whose clients call each."""

from __future__ import annotations

import re
from enum import Enum, auto

KSERVE_PATH = "^/v1/models/[^/:]+(/versions/[^/]+)?:predict$"
"""What KServe's clients, of its first protocol, and those of TensorFlow Serving call."""
INVOCATIONS_PATH = "^(/models/[^/]+(/versions/[^/]+)?)?/invocations$"
"""What clients of MLflow and SageMaker call: with the model in the path, or without one."""
_PREDICT = re.compile("/v2/models/[^/]+(/versions/[^/]+)?/predict")
_KSERVE = re.compile(KSERVE_PATH)
_INVOCATIONS = re.compile(INVOCATIONS_PATH)


class Style(Enum):
    """How predictions are written: for the clients of which server."""

    NAMED = auto()
    """Kitserve's own: outputs and classes by name."""
    KSERVE = auto()
    """The values of the first output, as KServe and TensorFlow Serving give them."""
    MLFLOW = auto()
    """The same, as MLflow gives them."""


def style_of(path: str) -> Style | None:
    """Return how the calls of a path are answered, None where it is no path of predictions."""
    if _PREDICT.fullmatch(path):
        return Style.NAMED
    if _KSERVE.match(path):
        return Style.KSERVE
    return Style.MLFLOW if _INVOCATIONS.match(path) else None
