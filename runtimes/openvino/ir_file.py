"""The signature of an OpenVINO IR file, and what it needs of the file beside it, read without OpenVINO.

The IR is XML, see https://docs.openvino.ai: `net/layers/layer` are the operations, and `net/edges/edge` says
which port of a layer feeds which. Parameters are the inputs and Results the outputs. The layers of a loop's
body are deeper in the tree, and none of the signature. Weights are in the file of that name with .bin.

The XML is read as a stream, within bounds; a document type, and with it every entity, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from runtimes.base import Datatype, Signature, TensorSpec
from runtimes.errors import LoadError

_MAX_BYTES = 128 * 1024 * 1024
_MAX_ELEMENTS = 4_000_000
_MAX_DEPTH = 64
_MAX_TENSORS = 10_000
_MAX_DIGITS = 100
_READ_BYTES = 1024 * 1024

# By the precision of a port, and by the element type of a Parameter.
_DATATYPES: Mapping[str, Datatype] = {
    "BOOL": Datatype.BOOL,
    "BOOLEAN": Datatype.BOOL,
    "U8": Datatype.UINT8,
    "U16": Datatype.UINT16,
    "U32": Datatype.UINT32,
    "U64": Datatype.UINT64,
    "I8": Datatype.INT8,
    "I16": Datatype.INT16,
    "I32": Datatype.INT32,
    "I64": Datatype.INT64,
    "F16": Datatype.FP16,
    "FP16": Datatype.FP16,
    "BF16": Datatype.BF16,
    "F32": Datatype.FP32,
    "FP32": Datatype.FP32,
    "F64": Datatype.FP64,
    "FP64": Datatype.FP64,
    "STRING": Datatype.BYTES,
}
# What OpenVINO makes of the outputs of version 10: these integers are INT32, and all else is FP32.
_INTEGERS_10 = frozenset({Datatype.INT32, Datatype.INT64, Datatype.UINT32, Datatype.UINT64})
_COMMA = re.compile(r"(?<!\\),")
_SIZE = re.compile(r"[0-9]+")
_PLACE = re.compile(r"[0-9]{1,18}")

_Place = tuple[str, str]
"""The ids of a layer and of a port of it."""


@dataclass(frozen=True, slots=True)
class IrFile:
    """What an IR file declares."""

    signature: Signature
    """Outputs of one name are one, as they are one tensor."""
    inputs: tuple[str, ...]
    """The name of each Parameter layer, in the order of the inputs."""
    outputs: tuple[tuple[str, str], ...]
    """The name of each Result layer, and of its output."""
    weight_bytes: int
    """How long the file with the weights has to be at least."""


@dataclass(slots=True)
class _Port:
    names: str
    precision: str
    dims: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Layer:
    id: str
    name: str
    type: str
    output_names: str
    data: Mapping[str, str] = field(default_factory=dict)
    inputs: list[_Port] = field(default_factory=list)
    outputs: dict[str, _Port] = field(default_factory=dict)


class _Malformed(Exception):
    """The XML is no IR that can be served; the text goes behind the file's path."""


def weights_of(path: Path) -> Path:
    """Return where the weights of an IR file are."""
    return path.with_suffix(".bin")


def external_files(path: Path) -> frozenset[str]:
    """Return the file with the weights, by its name beside the IR file at `path`. Raises LoadError."""
    return frozenset({weights_of(path).name} if read(path).weight_bytes else ())


def read(path: Path) -> IrFile:
    """Return what the IR file at `path` declares.

    Raises:
        LoadError: where it is damaged, too large or too old, or has custom operations or a datatype that the
            protocol lacks.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        with path.open("rb") as file:
            while file.tell() < _MAX_BYTES and (data := file.read(_READ_BYTES)):
                parser.Parse(data)
            parser.Parse(b"", True)
        return reader.file()
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise LoadError(f"{path} is no whole OpenVINO IR: {error}; convert the model again") from error
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    except _Malformed as error:
        raise LoadError(f"{path} {error}") from error


def check_weights(path: Path, file: IrFile) -> None:
    """Raise LoadError where the weights beside the IR file at `path` are missing or cut short."""
    weights = weights_of(path)
    if not file.weight_bytes:
        return
    if weights.is_symlink() or not weights.is_file():
        raise LoadError(f"{weights} is missing, which has the weights of {path.name}; pack both files")
    size = weights.stat().st_size
    if size < file.weight_bytes:
        raise LoadError(
            f"{weights} has {size} bytes, and {path.name} needs {file.weight_bytes} of it: copy it again, "
            "then pack the kit"
        )


class _Reader:
    """Handles the events of the parser."""

    def __init__(self) -> None:
        self._version = ""
        self._path: list[str] = []
        self._count = 0
        self._layer: _Layer | None = None
        self._port: _Port | None = None
        self._ports: dict[_Place, _Port] = {}
        self._layers: dict[str, tuple[str, int]] = {}  # name and number of outputs, by id
        self._sources: dict[str, _Place] = {}  # what feeds a layer, by its id
        self._parameters: list[_Layer] = []
        self._results: list[_Layer] = []
        self._weight_bytes = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        self._count += 1
        if self._count > _MAX_ELEMENTS or len(self._path) > _MAX_DEPTH:
            raise _Malformed("has more elements, or deeper ones, than a graph has")
        if tag == "layer":
            self._check_layer(attributes)
        elif tag == "data":
            self._note_weights(attributes)
        match self._path:
            case ["net"]:
                self._version = attributes.get("version", "")
                if self._version not in ("10", "11"):
                    raise _Malformed(
                        f"is an OpenVINO IR of version {self._version[:20]!r}, and 10 and 11 are served; "
                        "convert the model with OpenVINO 2022.1 or later"
                    )
            case ["net", "layers", "layer"]:
                self._layer = _Layer(
                    attributes.get("id", ""),
                    attributes.get("name", ""),
                    attributes.get("type", ""),
                    attributes.get("output_names", ""),
                )
            case ["net", "layers", "layer", "data"] if self._layer is not None:
                self._layer.data = attributes
            case ["net", "layers", "layer", "input" | "output" as side, "port"] if self._layer is not None:
                port = _Port(attributes.get("names", ""), attributes.get("precision", ""))
                if side == "output":
                    self._layer.outputs[attributes.get("id", "")] = port
                else:
                    self._layer.inputs.append(port)
                self._port = port
            case ["net", "layers", "layer", "input" | "output", "port", "dim"] if self._port is not None:
                self._port.dims.append("")
            case ["net", "edges", "edge"]:
                source = attributes.get("from-layer", ""), attributes.get("from-port", "")
                self._sources[attributes.get("to-layer", "")] = source

    def text(self, data: str) -> None:
        if self._port is not None and self._port.dims and self._path[-1] == "dim":
            self._port.dims[-1] += data
            if len(self._port.dims[-1]) > _MAX_DIGITS:
                raise _Malformed("has a dimension that is no number; convert the model again")

    def end(self, tag: str) -> None:
        if self._path == ["net", "layers", "layer"] and self._layer is not None:
            layer = self._layer
            self._layers[layer.id] = layer.name, len(layer.outputs)
            self._ports |= {(layer.id, name): port for name, port in layer.outputs.items()}
            if layer.type == "Parameter":
                self._parameters.append(layer)
            elif layer.type == "Result":
                self._results.append(layer)
            if len(self._parameters) + len(self._results) > _MAX_TENSORS:
                raise _Malformed(f"has more than {_MAX_TENSORS} inputs and outputs, which no graph has")
            self._layer = None
        elif tag == "port":
            self._port = None
        self._path.pop()

    def file(self) -> IrFile:
        """Return what was read."""
        if not self._results:
            raise _Malformed("is an OpenVINO IR without outputs; convert the model again")
        inputs = tuple(self._input(layer) for layer in self._parameters)
        outputs = [self._output(layer) for layer in self._results]
        by_name = {spec.name: spec for spec in outputs}
        if len({spec.name for spec in inputs}) < len(inputs) or any(
            by_name[spec.name] != spec for spec in outputs
        ):
            raise _Malformed("has several inputs or outputs of one name; name them apart in OpenVINO")
        return IrFile(
            Signature(inputs, tuple(by_name.values())),
            tuple(layer.name for layer in self._parameters),
            tuple((layer.name, spec.name) for layer, spec in zip(self._results, outputs, strict=True)),
            self._weight_bytes,
        )

    def _check_layer(self, attributes: Mapping[str, str]) -> None:
        opset = attributes.get("version", "")
        if opset.startswith(("extension", "custom")):
            raise _Malformed(
                f"has the custom operation {attributes.get('type', '')[:80]!r} ({opset[:40]}), which is a "
                "library; no library is loaded for a model: convert it without that"
            )

    def _note_weights(self, attributes: Mapping[str, str]) -> None:
        if "offset" not in attributes or "size" not in attributes:
            return
        offset, size = attributes["offset"], attributes["size"]
        # OpenVINO may read other spellings, and may add up to 0 what is larger than its integers.
        if not (_PLACE.fullmatch(offset) and _PLACE.fullmatch(size)):
            raise _Malformed(
                f"has weights of {size[:40]!r} bytes at {offset[:40]!r}, which is no place; convert the "
                "model again"
            )
        self._weight_bytes = max(self._weight_bytes, int(offset) + int(size))

    def _input(self, layer: _Layer) -> TensorSpec:
        port = next(iter(layer.outputs.values()), _Port("", ""))
        datatype = _datatype(layer.name, layer.data.get("element_type", port.precision))
        if self._version == "10" and datatype is Datatype.FP16:
            datatype = Datatype.FP32
        shape = layer.data.get("shape")
        sizes = _shape(port.dims) if shape is None else _partial_shape(shape)
        return TensorSpec(_name(port.names) or layer.name, datatype.value, sizes)

    def _output(self, layer: _Layer) -> TensorSpec:
        place = self._sources.get(layer.id, ("", ""))
        source = self._ports.get(place)
        if source is None:
            raise _Malformed(
                f"has an output, {layer.name[:80]!r}, that nothing feeds; convert the model again"
            )
        datatype = _datatype(layer.name, source.precision)
        if self._version == "10":
            datatype = Datatype.INT32 if datatype in _INTEGERS_10 else Datatype.FP32
        name = _name(layer.output_names) or _name(source.names)
        if not name:
            name, count = self._layers[place[0]]
            if count > 1:
                first = min(int(port) for layer_id, port in self._ports if layer_id == place[0])
                name = f"{name}.{int(place[1]) - first}"
        # No dimensions stand for a number, and for any rank.
        return TensorSpec(name, datatype.value, _shape(source.dims) or None)


def _datatype(name: str, precision: str) -> Datatype:
    datatype = _DATATYPES.get(precision.upper())
    if datatype is None:
        raise _Malformed(
            f"has the datatype {precision[:40]!r} at {name[:80]!r}, which the Open Inference Protocol lacks; "
            "convert the model with another there"
        )
    return datatype


def _name(names: str) -> str:
    """Return the first in alphabetical order of names with commas between them, as OpenVINO does."""
    return min((name.replace("\\,", ",").strip() for name in _COMMA.split(names)), default="")


def _shape(dims: list[str]) -> tuple[int, ...]:
    return tuple(int(dim) if _SIZE.fullmatch(dim.strip()) else -1 for dim in dims)


def _partial_shape(text: str) -> tuple[int, ...] | None:
    """Return the shape of a Parameter, such as `?,4` or `1..8,4`; `...` is any rank."""
    if "..." in text:
        return None
    return _shape(text.split(",")) if text.strip() else ()


def _refuse_doctype(*_parts: object) -> None:
    raise _Malformed("has a document type, which no OpenVINO IR has; convert the model again")
