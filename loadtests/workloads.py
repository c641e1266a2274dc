"""The workloads: a model, and the form in which its tensor is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loadtests.models import Maker, flowers, image, text

Form = Literal["json", "binary"]


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload. With `alone`, the bare model is measured too, in a loop of one process."""

    name: str
    title: str
    model: Maker
    form: Form = "json"
    alone: bool = False


TINY = Workload("tiny", "a tiny model (iris), JSON", flowers)
COMPUTE = Workload("compute", "an LSTM over 160 tokens, JSON", text, alone=True)
IMAGE_JSON = Workload("image-json", "a convolutional net, 3x224x224 as JSON (1.2 MB)", image)
IMAGE_BINARY = Workload(
    "image-binary", "the same, 3x224x224 as a binary tensor (0.6 MB)", image, "binary", alone=True
)

WORKLOADS = (TINY, COMPUTE, IMAGE_JSON, IMAGE_BINARY)
