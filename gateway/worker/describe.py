"""Descriptions of a version's model: the protocol's metadata, Triton's configuration, and our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from gateway.contract import Description
from gateway.foreign_text import foreign_text
from gateway.kits.kit import Kit
from gateway.kits.parents import model_of
from gateway.serving import Batching
from gateway.worker.labels import Labels
from runtimes.base import ANY, Datatype, Signature, TensorSpec
from runtimes.engines.task import Task

_MAX_LABELS = 100
_MAX_NAME = 200
_MAX_TEXT = 2000
_MICROSECONDS = 1_000_000


def proven(signature: Signature) -> Signature:
    """Return the signature with datatypes that a call was answered with in place of those that are unknown.

    Others may be taken, too; but programs that read the metadata to make a call need one that is.
    """
    inputs = tuple(
        replace(spec, datatype=spec.usual.value) if spec.datatype == ANY else spec
        for spec in signature.inputs
    )
    return replace(signature, inputs=inputs)


def metadata(model: str, version: str, platform: str, signature: Signature) -> bytes:
    """Write a model's metadata; an unknown rank is written as [-1], an unknown datatype as "ANY".

    Clients of the protocol read a datatype as any string. Inputs that may be left out are listed last, which
    the protocol cannot say; Triton's configuration does. So are outputs that only calls get which name them.
    """
    return orjson.dumps(
        {
            "name": model,
            "versions": [version],
            "platform": platform,
            "inputs": [_spec(spec) for spec in signature.all_inputs],
            "outputs": [_spec(spec) for spec in signature.all_outputs],
        }
    )


def configuration(model: str, platform: str, signature: Signature, batching: Batching | None = None) -> bytes:
    """Write a model's configuration (Triton, `docs/protocol/extension_model_configuration.md`).

    Where calls are batched, the dimensions are those of one row. Else `max_batch_size` is 0, and all
    dimensions of a tensor are written, with a batch axis if it has one.
    """
    first_axis = 0 if batching is None else 1
    document: dict[str, Any] = {
        "name": model,
        "platform": platform,
        "max_batch_size": 0 if batching is None else batching.max_batch_size,
        "input": [
            *(_field(spec, first_axis) for spec in signature.inputs),
            *({**_field(spec, 0), "optional": True} for spec in signature.optional),
        ],
        "output": [_field(spec, first_axis) for spec in signature.all_outputs],
    }
    if batching is not None:
        delay = round(batching.max_delay * _MICROSECONDS)
        document["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    return orjson.dumps(document)


def describe(
    kit: Kit,
    platform: str,
    signature: Signature,
    labels: Labels,
    tasks: Iterable[Task] = (),
    example: str = "",
    takes_images: bool = False,
) -> Description:
    """Return what callers need to know of a kit's model; long texts and lists are cut.

    `example` is the JSON of a call of the Open Inference Protocol.
    """
    model, package = model_of(kit), kit.kitfile.package
    about = package.description or (model and model.description) or ""
    license_ = (model and model.license) or package.license or ""
    first_labels = {
        output: tuple(foreign_text(label, _MAX_NAME) for label in names[:_MAX_LABELS])
        for output, names in labels.items()
    }
    return Description(
        platform,
        signature,
        foreign_text(about, _MAX_TEXT, keeps_lines=True),
        foreign_text(license_, _MAX_NAME),
        first_labels,
        tuple(sorted(task.value for task in tasks)),
        example,
        takes_images=takes_images,
    )


def _spec(spec: TensorSpec) -> Mapping[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": _dimensions(spec)}


def _field(spec: TensorSpec, first_axis: int) -> Mapping[str, Any]:
    # Triton's words: TYPE_INVALID is where nothing is stated.
    datatype = {Datatype.BYTES.value: "STRING", ANY: "INVALID"}.get(spec.datatype, spec.datatype)
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": _dimensions(spec)[first_axis:]}


def _dimensions(spec: TensorSpec) -> tuple[int, ...]:
    return (-1,) if spec.shape is None else spec.shape
