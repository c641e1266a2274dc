"""Classifiers of images, which take pixels as the model's own image processor makes them.

The input is `pixel_values`, FP32 of shape [images, channels, height, width], scaled and normalised as
`preprocessor_config.json` says. Outputs are those of a classifier of texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.encoders.loading import load_module
from runtimes.encoders.model import TransformersModel
from runtimes.encoders.sequence_classifier import Classes, class_outputs
from runtimes.hugging_face.directory import HuggingFaceModel
from runtimes.torch_tensors import to_torch

PIXELS = "pixel_values"
_MAX_IMAGES = 32


def image_signature(source: HuggingFaceModel) -> Signature:
    """Return the inputs and outputs, by the directory's files."""
    config = source.config
    channels, size = config.get("num_channels"), config.get("image_size")
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    shape = (-1, *(value if isinstance(value, int) else -1 for value in (channels, height, width)))
    return Signature((TensorSpec(PIXELS, Datatype.FP32.value, shape),), class_outputs(source))


def load_image_classification(source: HuggingFaceModel, device: str) -> TransformersModel:
    """Load the model. Raises LoadError."""
    module = load_module(source, "AutoModelForImageClassification", device)
    classes = Classes(module.config)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        pixels = inputs[PIXELS]
        logits = np.empty((len(pixels), classes.count), np.float32)
        for start in range(0, len(pixels), _MAX_IMAGES):
            rows = slice(start, start + _MAX_IMAGES)
            logits[rows] = module(pixel_values=to_torch(pixels[rows], device)).logits.float().cpu().numpy()
        return classes(logits)

    return TransformersModel(image_signature(source), device, run)
