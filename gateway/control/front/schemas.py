"""The parts of the OpenAPI document: JSON Schemas of bodies, headers and parameters. Pure.

The schemas are those of any model's bodies, or of one model's, by its signature. They describe what
`gateway.codec.json_request` takes; that a shape fits its data is more than a schema can say.
Dialect: JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gateway.codec.non_finite import TEXTS as NON_FINITE
from runtimes.base import ANY, Datatype, Signature, TensorSpec

Schema = Mapping[str, Any]

_MAX_RANK = 16
_JSON_TYPES: Mapping[str, str] = {"b": "boolean", "O": "string"}


def ref(name: str) -> Schema:
    """Return a reference to one of `components`."""
    return {"$ref": f"#/components/schemas/{name}"}


def components() -> dict[str, Schema]:
    """Return the schemas that every document has, by name."""
    text, size = {"type": "string"}, {"type": "integer", "minimum": 0}
    shape = {"type": "array", "items": size, "maxItems": _MAX_RANK}
    return {
        "Error": _object({"error": text}, ["error"]),
        "OpenAIError": _object({"error": _object({"message": text, "type": text}, ["message"])}, ["error"]),
        "Parameters": _parameters({}),
        "RequestParameters": _parameters(
            {
                "timeout": _described(
                    size, "How long the caller waits for the answer, in microseconds; 0 is without end."
                ),
                "binary_data_output": _described({"type": "boolean"}, "Give all outputs as raw bytes."),
            }
        ),
        "InputParameters": _parameters(
            {
                "binary_data_size": _described(
                    size, "In place of `data`: bytes of this tensor behind the JSON."
                )
            }
        ),
        "OutputParameters": _parameters(
            {
                "binary_data": _described(
                    {"type": "boolean"}, "Give this output as raw bytes behind the JSON."
                ),
                "classification": _described(
                    size, "Give this many of the largest values, each as `VALUE:INDEX:LABEL`."
                ),
            }
        ),
        "Datatype": {"type": "string", "enum": [datatype.value for datatype in Datatype]},
        "Shape": shape,
        "Data": _nested({"type": ["number", "boolean", "string", "null"]}, "Data"),
        **{_data_name(datatype): _nested(_element(datatype), _data_name(datatype)) for datatype in Datatype},
        "InputTensor": _input(text, ref("Datatype"), ref("Shape"), ref("Data")),
        "RequestedOutput": _requested(text),
        "InferenceRequest": _request({"type": "array", "minItems": 1, "items": ref("InputTensor")}, text),
        "OutputTensor": _object(
            {
                "name": text,
                "datatype": ref("Datatype"),
                "shape": ref("Shape"),
                "parameters": ref("Parameters"),
                "data": _described(
                    {"type": "array", "items": {"type": ["number", "boolean", "string", "null"]}},
                    'Row by row. NaN is null, the infinities are "Infinity" and "-Infinity".',
                ),
            },
            ["name", "datatype", "shape"],
        ),
        "InferenceResponse": _object(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "parameters": ref("Parameters"),
                "outputs": {"type": "array", "items": ref("OutputTensor")},
            },
            ["model_name", "outputs"],
        ),
        **_of_predictions(),
        "TensorMetadata": _object(
            {
                "name": text,
                "datatype": ref("Datatype"),
                "shape": _described(
                    {"type": "array", "items": {"type": "integer", "minimum": -1}},
                    "-1 is any length; [-1] alone may be any shape.",
                ),
            },
            ["name", "datatype", "shape"],
        ),
        "ModelMetadata": _object(
            {
                "name": text,
                "versions": {"type": "array", "items": text},
                "platform": text,
                "inputs": {"type": "array", "items": ref("TensorMetadata")},
                "outputs": {"type": "array", "items": ref("TensorMetadata")},
            },
            ["name", "platform", "inputs", "outputs"],
        ),
        "ModelReady": _object({"name": text, "ready": {"type": "boolean"}}, ["name", "ready"]),
        "ModelConfiguration": _object({"name": text, "platform": text}, ["name", "platform"]),
        "ServerMetadata": _object(
            {"name": text, "version": text, "extensions": {"type": "array", "items": text}},
            ["name", "version", "extensions"],
        ),
        "ServerLive": _object({"live": {"type": "boolean"}}, ["live"]),
        "NotReady": _object(
            {"error": text, "live": {"type": "boolean"}, "ready": {"type": "boolean"}},
            ["error", "live", "ready"],
        ),
        "ServerReady": _object(
            {"live": {"type": "boolean"}, "ready": {"type": "boolean"}}, ["live", "ready"]
        ),
        "RepositoryIndexRequest": _object(
            {"ready": _described({"type": "boolean"}, "List only what is ready.")}
        ),
        "RepositoryIndex": {
            "type": "array",
            "items": _object(
                {
                    "name": text,
                    "version": text,
                    "state": {"type": "string", "enum": ["READY", "LOADING", "UNAVAILABLE"]},
                    "reason": text,
                },
                ["name", "state", "reason"],
            ),
        },
        "Statistics": _object(
            {"model_stats": {"type": "array", "items": {"type": "object"}}}, ["model_stats"]
        ),
    }


def _of_predictions() -> dict[str, Schema]:
    """Return the schemas of calls as people write them; what a row holds is more than a schema can say."""
    text = {"type": "string"}
    rows = _described({"type": "array"}, "Each row is an object by the names of the inputs, or a list.")
    names = _described({"type": ["array", "null"], "items": text}, "The outputs to give.")
    return {
        "PredictRequest": {
            "description": "One of `rows`, `instances`, `dataframe_records`, `dataframe_split` and `inputs`; "
            "or one row, or a list of rows.",
            "type": ["object", "array"],
            "properties": {
                "rows": rows,
                "instances": rows,
                "dataframe_records": rows,
                "dataframe_split": _object({"columns": {"type": "array"}, "data": rows}, ["data"]),
                "inputs": _described(
                    {"type": ["object", "array"]},
                    "A list of values for each input, or a list of rows.",
                ),
                "outputs": names,
            },
        },
        "PredictResponse": _object(
            {
                "model_name": text,
                "model_version": text,
                "predictions": _described({}, "For each row a value, or an object by the names of outputs."),
            },
            ["model_name", "model_version", "predictions"],
        ),
        "Predictions": _object(
            {
                "predictions": _described({}, "The values of the first output, for each row."),
                "outputs": _described({}, "The same, where a call of TensorFlow Serving has `inputs`."),
            }
        ),
    }


def request_of(signature: Signature) -> Schema:
    """Return the schema of a call on one model, all in JSON."""
    inputs = [
        _input({"const": spec.name}, {"const": datatype.value}, _shape(spec), ref(_data_name(datatype)))
        for spec in signature.all_inputs
        for datatype in _datatypes(spec)
    ]
    each = inputs[0] if len(inputs) == 1 else {"anyOf": inputs}
    tensors = {
        "type": "array",
        "minItems": len(signature.inputs),
        "maxItems": len(signature.all_inputs),
        "items": each,
    }
    names = [spec.name for spec in signature.all_outputs]
    return _request(tensors, {"enum": names} if names else {"type": "string"})


def headers() -> dict[str, Any]:
    """Return the headers of answers, by name."""
    descriptions: Mapping[str, tuple[str, Schema]] = {
        "X-Request-Id": ("The call's id, as in the logs.", {"type": "string"}),
        "ModelKit-Digest": (
            "The digest of the kit that answered.",
            {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        ),
        "ModelKit-Version": ("Its tag, or the first 12 digits of its digest.", {"type": "string"}),
        "ModelKit-Role": (
            "Whether the stable version answered or the canary.",
            {"type": "string", "enum": ["stable", "canary"]},
        ),
        "Inference-Header-Content-Length": (
            "How many bytes of the body are JSON, where raw tensors follow it.",
            {"type": "integer", "minimum": 0},
        ),
        "Content-Encoding": (
            "How the body is compressed, if `Accept-Encoding` asked for it.",
            {"type": "string", "enum": ["gzip", "deflate"]},
        ),
        "Allow": ("The methods that the path takes.", {"type": "string"}),
        "Retry-After": ("After how many seconds to ask again.", {"type": "integer", "minimum": 0}),
    }
    return {name: {"description": text, "schema": schema} for name, (text, schema) in descriptions.items()}


def parameters(models: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of paths and headers, by name; `models` are the examples of a model's name."""
    model: dict[str, Any] = {"type": "string"}
    if models:
        model["examples"] = list(models)
    descriptions: Mapping[str, tuple[str, bool, str, Schema]] = {
        "model": ("path", True, "A model's name in the config.", model),
        "version": ("path", True, "A tag, a digest, or its first 12 digits.", {"type": "string"}),
        "X-Request-Timeout": (
            "header",
            False,
            "How long the caller waits for the answer: seconds, or a number with us, ms, s, m or h.",
            {"type": "string", "pattern": r"^(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,9})?(us|ms|s|m|h)?$"},
        ),
        "Inference-Header-Content-Length": (
            "header",
            False,
            "How many bytes of the body are JSON, where raw tensors follow it; 0 where all of it is the data "
            "of the model's only input.",
            {"type": "integer", "minimum": 0},
        ),
        "Content-Encoding": (
            "header",
            False,
            "How the body is compressed.",
            {"type": "string", "enum": ["gzip", "deflate", "identity", ""]},
        ),
    }
    return {
        name: {"name": name, "in": place, "required": required, "description": text, "schema": schema}
        for name, (place, required, text, schema) in descriptions.items()
    }


def _request(inputs: Schema, output_name: Schema) -> Schema:
    return _object(
        {
            "id": _described({"type": "string"}, "The answer has the same."),
            "parameters": ref("RequestParameters"),
            "inputs": inputs,
            "outputs": _described(
                {"type": ["array", "null"], "items": _requested(output_name)},
                "The outputs to give; all, where this is absent.",
            ),
        },
        ["inputs"],
    )


def _requested(name: Schema) -> Schema:
    return _object({"name": name, "parameters": ref("OutputParameters")}, ["name"])


def _input(name: Schema, datatype: Schema, shape: Schema, data: Schema) -> Schema:
    members = {
        "name": name,
        "shape": shape,
        "datatype": datatype,
        "parameters": ref("InputParameters"),
        "data": data,
    }
    return _object(members, ["name", "shape", "datatype", "data"])


def _datatypes(spec: TensorSpec) -> Sequence[Datatype]:
    """Return the datatypes that a tensor may have: all of numbers where its model does not say."""
    if spec.datatype == ANY:
        return [datatype for datatype in Datatype if datatype is not Datatype.BYTES]
    return (Datatype(spec.datatype),)


def _shape(spec: TensorSpec) -> Schema:
    if spec.shape is None:
        return ref("Shape")
    sizes = [{"type": "integer", "minimum": 0} if size < 0 else {"const": size} for size in spec.shape]
    rank = len(sizes)
    return {"type": "array", "minItems": rank, "maxItems": rank} | ({"prefixItems": sizes} if sizes else {})


def _element(datatype: Datatype) -> Schema:
    kind = datatype.numpy.kind
    if kind in "fV":
        return {"anyOf": [{"type": ["number", "null"]}, {"enum": sorted(NON_FINITE)}]}
    if kind in _JSON_TYPES:
        return {"type": _JSON_TYPES[kind]}
    limits = np.iinfo(datatype.numpy)
    return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}


def _data_name(datatype: Datatype) -> str:
    return f"{datatype}Data"


def _nested(element: Schema, own_name: str) -> Schema:
    return {
        "description": "Row by row, flat or as lists in lists.",
        "type": "array",
        "items": {"anyOf": [element, ref(own_name)]},
    }


def _parameters(properties: Mapping[str, Schema]) -> Schema:
    """Return the schema of parameters; unknown ones change nothing, but must have plain values."""
    others = {"type": ["string", "number", "boolean"]}
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": others}


def _object(members: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    return {"type": "object", "properties": members} | ({"required": list(required)} if required else {})


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}
