"""What a version tells of itself: metadata, Triton's model configuration, and what its callers see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.contract import Description
from gateway.engine.limits import Batching
from gateway.kits.kit import Kit
from gateway.kits.parents import model_of
from gateway.worker.labels import Labels
from runtimes.base import Datatype, Signature, TensorSpec

_SHOWN = 100
_LONGEST = 200
_LONGEST_TEXT = 2000
_MICROSECONDS = 1_000_000


def metadata(model: str, version: str, platform: str, signature: Signature) -> bytes:
    """Write a model's metadata; an unknown rank is written as [-1]."""
    return orjson.dumps(
        {
            "name": model,
            "versions": [version],
            "platform": platform,
            "inputs": [_spec(spec) for spec in signature.inputs],
            "outputs": [_spec(spec) for spec in signature.outputs],
        }
    )


def configuration(model: str, platform: str, signature: Signature, batching: Batching | None = None) -> bytes:
    """Write a model's configuration (Triton, `docs/protocol/extension_model_configuration.md`).

    Where calls are batched, the dimensions are those of one row. Else `max_batch_size` is 0, and they are
    all of a tensor's, the batch's too if it has one.
    """
    first = 0 if batching is None else 1
    document: dict[str, Any] = {
        "name": model,
        "platform": platform,
        "max_batch_size": 0 if batching is None else batching.max_batch_size,
        "input": [_field(spec, first) for spec in signature.inputs],
        "output": [_field(spec, first) for spec in signature.outputs],
    }
    if batching is not None:
        delay = round(batching.max_delay * _MICROSECONDS)
        document["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    return orjson.dumps(document)


def describe(kit: Kit, platform: str, signature: Signature, labels: Labels) -> Description:
    """Say what callers need to know of a kit's model; long texts and lists are cut."""
    model, package = model_of(kit), kit.kitfile.package
    about = package.description or (model and model.description) or ""
    license_ = (model and model.license) or package.license or ""
    shown = {output: tuple(label[:_LONGEST] for label in names[:_SHOWN]) for output, names in labels.items()}
    return Description(platform, signature, about[:_LONGEST_TEXT], license_[:_LONGEST], shown)


def _spec(spec: TensorSpec) -> Mapping[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": _dimensions(spec)}


def _field(spec: TensorSpec, first: int) -> Mapping[str, Any]:
    datatype = "STRING" if spec.datatype == Datatype.BYTES else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": _dimensions(spec)[first:]}


def _dimensions(spec: TensorSpec) -> tuple[int, ...]:
    return (-1,) if spec.shape is None else spec.shape
