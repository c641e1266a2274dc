"""The Open Inference Protocol's inference request: a body becomes a call on a model.

Specification: open-inference-protocol, `specification/protocol/inference_rest.md`, and Triton's extensions
for binary tensors, classification and parameters. Beyond them, numbers are checked strictly: 1.5 is no
INT64, true is no FP32, and a shape must fit its data. Floats may be missing, see `non_finite`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, compress
from typing import Any

import numpy as np
import orjson

from gateway.codec.call import IN_BINARY, IN_JSON, Call, RequestedOutput
from gateway.codec.elements import ELEMENTS, FLOAT_ELEMENTS, FLOATS, Elements, type_names
from gateway.codec.json_structure import SMALL_BYTES, check_objects, structure_of
from gateway.codec.non_finite import TEXTS, are_numbers, parse_json, to_floats
from gateway.codec.raw_request import RawInput
from gateway.codec.tensors import from_bytes
from gateway.wire.body import BodyReader
from gateway.wording import counted
from runtimes.base import Array, Signature
from runtimes.errors import InputError

try:
    from gateway.codec.large_json import LargeBodies
except ImportError:  # simdjson has no wheel for this Python or this machine
    LargeBodies = None  # type: ignore[assignment, misc]

_MAX_RANK = 16
_MAX_DIGITS = 18
# From this size on simdjson is faster, see `loadtests.codec`.
_LARGE_BYTES = 1024
# The types of elements that strings are made of where they may be missing.
_TEXT_ELEMENTS = frozenset({str, type(None)})
_SCALARS = (str, int, float, bool)
_NO_PARAMETERS: Mapping[str, Any] = {}
_NOTHING = BodyReader(())


class Decoder:
    """Reads the inference requests of one model."""

    def __init__(self, signature: Signature) -> None:
        self._raw = RawInput(signature)
        self._may_be_missing = frozenset(spec.name for spec in signature.all_inputs if spec.may_be_missing)
        # Other elements than numbers are objects in Python either way, and then orjson is quicker.
        numbers = all(ELEMENTS[spec.usual].kind in "fViu" for spec in signature.inputs)
        self._large = LargeBodies() if numbers and LargeBodies is not None else None

    def __call__(self, pieces: Sequence[bytes | memoryview], json_size: bytes = b"") -> Call:
        """Read a body that came in `pieces`.

        `json_size` is the header `Inference-Header-Content-Length`: how many bytes of the body are JSON, with
        raw tensors after them. It is empty where all is JSON, and 0 where all is the only input's raw data.

        Raises:
            InputError: naming the field that is wrong.
        """
        if not json_size:
            text = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            return _decode(self._document(text), _NOTHING, self._may_be_missing)
        body = BodyReader(pieces)
        size = int(json_size) if json_size.isdigit() and len(json_size) <= _MAX_DIGITS else body.left + 1
        if size > body.left:
            raise InputError(
                f"Inference-Header-Content-Length must be a number from 0 to the body's {body.left} bytes, "
                f"not {json_size.decode('latin-1')!r}"
            )
        if size == 0:
            return Call("", self._raw(body), others=IN_BINARY)
        call = _decode(self._document(body.take(size)), body, self._may_be_missing)
        if body.left:
            raise InputError(f"{body.left} bytes follow the data of the last input")
        return call

    def _document(self, text: bytes | memoryview) -> Any:
        """Return what a text says; the data of its tensors are lists, or flat arrays."""
        structure = structure_of(text) if len(text) >= SMALL_BYTES else None
        if len(text) >= _LARGE_BYTES and self._large is not None:
            if structure is not None:
                check_objects(structure.array_bytes)
            document = self._large(text)
            if document is not None:
                return document
        if structure is not None:
            check_objects(structure.object_bytes)
        try:
            return parse_json(text)
        except orjson.JSONDecodeError as error:
            raise InputError(f"the body is not JSON: {error}") from None


def _decode(document: Any, raw: BodyReader, may_be_missing: Collection[str]) -> Call:
    if type(document) is not dict:
        raise InputError("the body must be a JSON object with `inputs`")
    tensors = document.get("inputs")
    if type(tensors) is not list or not tensors:
        raise InputError("`inputs` must be a list of one tensor or more")
    inputs: dict[str, Array] = {}
    for position, tensor in enumerate(tensors):
        name, array = _decode_tensor(tensor, position, raw, may_be_missing)
        if name in inputs:
            raise InputError(f"input {name!r} is there twice")
        inputs[name] = array
    request_id = document.get("id", "")
    if type(request_id) is not str:
        raise InputError("`id` must be a string")
    others, timeout_us = _of_request(document) if "parameters" in document else (IN_JSON, 0)
    requested = document.get("outputs")
    outputs = {} if requested is None else _outputs(requested, others)
    return Call(request_id, inputs, outputs, others, timeout_us)


def _decode_tensor(
    tensor: Any, position: int, raw: BodyReader, may_be_missing: Collection[str]
) -> tuple[str, Array]:
    if type(tensor) is not dict:
        raise InputError(f"inputs[{position}] must be an object")
    name = tensor.get("name")
    if type(name) is not str:
        raise InputError(f"inputs[{position}].name must be a string")
    datatype = tensor.get("datatype")
    elements = ELEMENTS.get(datatype) if type(datatype) is str else None
    if elements is None:
        raise InputError(f"input {name!r}: datatype {datatype!r} is none of {', '.join(ELEMENTS)}")
    shape: Any = tensor.get("shape")
    count = _count(shape) if type(shape) is list and len(shape) <= _MAX_RANK else -1
    if count < 0:
        raise InputError(
            f"input {name!r}: shape must be a list of at most {_MAX_RANK} whole numbers from 0 up"
        )
    if "parameters" in tensor and (size := _binary_size(name, tensor)) is not None:
        if size > raw.left:
            raise InputError(
                f"input {name!r}: binary_data_size is {size}, but {raw.left} bytes of the body are left; "
                "is Inference-Header-Content-Length right?"
            )
        array = from_bytes(name, elements.datatype, shape, raw.take(size))
    else:
        data = tensor.get("data")
        if type(data) is list:
            array = _array(name, data, elements, name in may_be_missing)
        elif type(data) is np.ndarray:
            array = _cast(name, data, elements)
        else:
            raise InputError(f"input {name!r}: data must be a list, or parameters.binary_data_size be there")
        if array.size != count:
            raise InputError(
                f"input {name!r}: shape {shape} needs {counted(count, 'element')}, data has {array.size:,}"
            )
    try:
        return name, array.reshape(shape)
    except ValueError:
        # numpy multiplies the other sizes even where one of them is 0
        raise InputError(f"input {name!r}: shape {shape} is too large") from None


def _binary_size(name: str, tensor: Mapping[str, Any]) -> int | None:
    where = f"input {name!r}"
    parameters = _parameters(tensor, where)
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InputError(f"{where}: binary_data_size must be a whole number from 0 up")
    if "data" in tensor:
        raise InputError(f"{where} has both data and binary_data_size; send one of them")
    return size


def _count(shape: list[Any]) -> int:
    """Return how many elements a shape has, -1 where it is no shape."""
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            return -1
        count *= size
    return count


def _array(name: str, data: list[Any], elements: Elements, may_be_missing: bool) -> Array:
    flat, types = _flat(name, data)
    kind = elements.kind
    if not types <= elements.accepted:
        if kind == "O" and may_be_missing and types <= _TEXT_ELEMENTS:
            texts = np.empty(len(flat), dtype=object)
            texts[:] = [None if item is None else item.encode() for item in flat]
            return texts
        if kind not in "fV" or not types <= FLOAT_ELEMENTS or (str in types and not are_numbers(flat)):
            raise _refusal(name, data, flat, elements)
        return to_floats(flat, elements.dtype)
    if kind in "iu" and flat:
        _check_range(name, min(flat), max(flat), elements)
    elif kind == "O":
        array = np.empty(len(flat), dtype=object)
        array[:] = [item.encode() for item in flat]
        return array
    return to_floats(flat, elements.dtype) if kind == "V" else np.array(flat, elements.dtype)


def _refusal(name: str, data: list[Any], flat: list[Any], elements: Elements) -> InputError:
    """Return the error for elements of other types; it says where the first of them is."""
    is_wrong = [not _is_element(element, elements) for element in flat]
    wrong = {type(element) for element in compress(flat, is_wrong)}
    place = _place(data, is_wrong.index(True))
    advice = f"; only {FLOATS} have missing values (null, NaN)" if type(None) in wrong else ""
    names = type_names(wrong)
    return InputError(f"input {name!r}: {elements.datatype} cannot be made of {names} ({place}){advice}")


def _is_element(element: Any, elements: Elements) -> bool:
    if type(element) in elements.accepted:
        return True
    return elements.kind in "fV" and (element is None or (type(element) is str and element in TEXTS))


def _place(data: list[Any], position: int) -> str:
    """Return where in nested lists the element is that has this position among all of them."""
    sizes = []
    inner: Any = data
    while type(inner) is list:
        sizes.append(len(inner))
        inner = inner[0]
    place = ""
    for size in reversed(sizes):
        position, index = divmod(position, size)
        place = f"[{index}]{place}"
    return f"data{place}"


def _cast(name: str, numbers: Array, elements: Elements) -> Array:
    """Convert numbers of 8 bytes, which are of the right kind already, to the datatype."""
    if elements.kind in "iu" and numbers.dtype != elements.dtype and numbers.size:
        _check_range(name, numbers.min(), numbers.max(), elements)
    return numbers.astype(elements.dtype, copy=False)


def _flat(name: str, data: list[Any]) -> tuple[list[Any], set[type]]:
    """Return the elements of nested lists, and their types; lists side by side must have one length."""
    while list in (types := set(map(type, data))):
        if len(types) > 1 or len(set(map(len, data))) > 1:
            raise InputError(f"input {name!r}: data is ragged")
        data = list(chain.from_iterable(data))
    return data, types


def _check_range(name: str, minimum: Any, maximum: Any, elements: Elements) -> None:
    if minimum < elements.minimum or maximum > elements.maximum:
        raise InputError(
            f"input {name!r}: a value is outside {elements.datatype} "
            f"({elements.minimum} to {elements.maximum})"
        )


def _of_request(document: Mapping[str, Any]) -> tuple[RequestedOutput, int]:
    """Return how outputs are answered that are not named, and how many microseconds the caller waits."""
    where = "the request"
    parameters = _parameters(document, where)
    others = IN_BINARY if _flag(parameters, "binary_data_output", False, where) else IN_JSON
    return others, _whole(parameters, "timeout", where)


def _outputs(requested: Any, others: RequestedOutput) -> dict[str, RequestedOutput]:
    if type(requested) is not list:
        raise InputError("`outputs` must be a list")
    outputs: dict[str, RequestedOutput] = {}
    for output in requested:
        name = output.get("name") if type(output) is dict else None
        if type(name) is not str:
            raise InputError("each of `outputs` must be an object with a `name`")
        if name in outputs:
            raise InputError(f"output {name!r} is asked for twice")
        outputs[name] = _requested_output(name, output, others) if "parameters" in output else others
    return outputs


def _requested_output(name: str, output: Mapping[str, Any], others: RequestedOutput) -> RequestedOutput:
    where = f"output {name!r}"
    parameters = _parameters(output, where)
    classes = _whole(parameters, "classification", where)
    return RequestedOutput(_flag(parameters, "binary_data", others.binary, where), classes)


def _parameters(holder: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return the parameters of a request, an input or an output; unknown ones are ignored."""
    parameters = holder.get("parameters")
    if parameters is None:
        return _NO_PARAMETERS
    if type(parameters) is not dict:
        raise InputError(f"{where}: parameters must be an object")
    for key, value in parameters.items():
        if type(value) not in _SCALARS:
            raise InputError(f"{where}: parameter {key!r} must be a string, a number or a boolean")
    if "shared_memory_region" in parameters:
        raise InputError(f"{where}: shared memory is not supported; send data with the request")
    return parameters


def _flag(parameters: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise InputError(f"{where}: parameter {key!r} must be true or false")
    return value


def _whole(parameters: Mapping[str, Any], key: str, where: str) -> int:
    value = parameters.get(key, 0)
    if type(value) is not int or value < 0:
        raise InputError(f"{where}: {key} must be a whole number from 0 up")
    return value
