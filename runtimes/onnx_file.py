"""The signature, operator domains and external data of an ONNX file, read without an ONNX library.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runtimes.base import MAX_TENSORS, Datatype, Signature, TensorSpec
from runtimes.errors import LoadError
from runtimes.onnx_external import External
from runtimes.onnx_outputs import Composed, Form
from runtimes.protobuf import BYTES, Malformed, Reader, Span, mapped

_NESTING = 32
# From this IR version on, an initializer that is an input too is a default that callers may replace.
_DEFAULTS_VERSION = 4
# A file with more such inputs was written by an exporter that lists every weight among them.
_MAX_DEFAULTS = 16
_MAX_KEYS = 10_000

# TensorProto.DataType; the others (complex, 8 bit floats, 4 bit) have no datatype in the protocol.
_DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The declarations of an ONNX file; `foreign_domains` are used by its operators and not defined in it."""

    signature: Signature
    foreign_domains: frozenset[str]
    external: tuple[External, ...]
    composed: tuple[Composed, ...] = ()
    """Its outputs that are sequences or maps."""
    output_names: tuple[str, ...] = ()
    """Its outputs, in the order of the file."""


def read(path: Path) -> OnnxFile:
    """Read the declarations of the ONNX file at `path`, and skip its weights.

    Raises LoadError where it is broken, or where an input is not a tensor of a datatype of the Open Inference
    Protocol, or an output can become none.
    """
    try:
        with mapped(path) as data:
            return _model(Reader(data))
    except Malformed as error:
        raise LoadError(f"{path} is not a usable ONNX model: {error}") from error


def external_files(path: Path) -> frozenset[str]:
    """Return the files that hold tensors of the ONNX file at `path`, as it states them. Raises LoadError."""
    try:
        with mapped(path) as data:
            reader = Reader(data)
            contents = _Contents(reader)
            for number, span in reader.messages(reader.whole, 7, 25):
                (contents.graph if number == 7 else contents.function)(span)
    except Malformed as error:
        raise LoadError(f"{path} is not a usable ONNX model: {error}") from error
    return frozenset(external.location for external in contents.external)


def _model(reader: Reader) -> OnnxFile:
    graphs: list[Span] = []
    functions: list[Span] = []
    for number, span in reader.messages(reader.whole, 7, 25):
        (graphs if number == 7 else functions).append(span)
    if len(graphs) != 1:
        raise Malformed(f"it has {len(graphs)} graphs instead of one")
    contents = _Contents(reader)
    defined = set()
    for function in functions:
        defined.add(reader.string(function, 10))
        contents.function(function)
    contents.graph(graphs[0])
    graph = graphs[0]
    signature, composed, names = _declarations(reader, graph)
    return OnnxFile(
        signature, frozenset(contents.domains - defined), tuple(contents.external), composed, names
    )


def _declarations(reader: Reader, graph: Span) -> tuple[Signature, tuple[Composed, ...], tuple[str, ...]]:
    """Return the signature, the outputs that are no tensors, and the names of all outputs."""
    initialized = set()
    values: dict[int, list[Span]] = {11: [], 12: []}
    for number, span in reader.messages(graph, 5, 11, 12):
        if number == 5:
            initialized.add(reader.string(span, 8))
        else:
            values[number].append(span)
    # The initializers that are inputs too are not counted; what is left may be too much to be read.
    for kind, count in (("inputs", len(values[11]) - len(initialized)), ("outputs", len(values[12]))):
        if count > MAX_TENSORS:
            raise LoadError(f"the model has {count:,} {kind}, more than {MAX_TENSORS:,}")
    inputs = tuple(_spec(reader, s) for s in values[11] if reader.string(s, 1) not in initialized)
    names = tuple(reader.string(span, 1) for span in values[12])
    outputs: list[TensorSpec] = []
    composed: list[Composed] = []
    for span in values[12]:
        value = _output(reader, span, graph, names)
        if isinstance(value, Composed):
            composed.append(value)
            outputs += value.specs
        else:
            outputs.append(value)
    if any(value.form is Form.TENSORS for value in composed):
        outputs = []
    defaults = [span for span in values[11] if reader.string(span, 1) in initialized]
    version = reader.integer(reader.whole, 1) or 0
    if version < _DEFAULTS_VERSION or len(defaults) > _MAX_DEFAULTS:
        defaults = []
    optional = tuple(_spec(reader, span) for span in defaults)
    return Signature(inputs, tuple(outputs), optional), tuple(composed), names


def _output(reader: Reader, value: Span, graph: Span, names: tuple[str, ...]) -> TensorSpec | Composed:
    """Parse an output's ValueInfoProto: a tensor, also one that may be missing, or a sequence or map."""
    name = reader.string(value, 1)
    sequences = [inner for _, kind in reader.messages(value, 2) for _, inner in reader.messages(kind, 4)]
    kinds = [kind for sequence in sequences for _, kind in reader.messages(sequence, 1)]
    maps = [inner for kind in kinds for _, inner in reader.messages(kind, 5)]
    form = Form.MAPS
    if kinds and not maps:
        tensors = [tensor for kind in kinds for _, tensor in reader.messages(kind, 1)]
        if tensors:
            return Composed(name, Form.TENSORS, Datatype(_datatype(reader, name, tensors[-1])))
    if not kinds:
        form = Form.MAP
        maps = [inner for _, kind in reader.messages(value, 2) for _, inner in reader.messages(kind, 5)]
    if maps:
        key = _DATATYPES.get(reader.integer(maps[-1], 1) or 0)
        tensors = [t for _, kind in reader.messages(maps[-1], 2) for _, t in reader.messages(kind, 1)]
        if tensors and key in (Datatype.INT64, Datatype.BYTES):
            keys_name = f"{name}_labels"
            while keys_name in names:
                keys_name += "_"
            datatype = Datatype(_datatype(reader, name, tensors[-1]))
            return Composed(name, form, datatype, Datatype(key), keys_name, _keys(reader, graph, name))
    return _spec(reader, value, may_be_missing=True)


def _keys(reader: Reader, graph: Span, output: str) -> tuple[int | str, ...]:
    """Return the keys of the maps that a node ZipMap of the graph gives, () where there is none."""
    for _, node in reader.messages(graph, 1):
        if reader.string(node, 4) != "ZipMap" or reader.string(node, 2) != output:
            continue
        keys: list[int | str] = []
        for _, attribute in reader.messages(node, 5):
            if reader.string(attribute, 1) == "classlabels_int64s":
                keys += reader.integers(attribute, 8)
            elif reader.string(attribute, 1) == "classlabels_strings":
                keys += [reader.text(text) for _, text in reader.messages(attribute, 9)]
        return tuple(dict.fromkeys(keys)) if len(keys) <= _MAX_KEYS else ()
    return ()


def _spec(reader: Reader, value: Span, may_be_missing: bool = False) -> TensorSpec:
    """Parse a ValueInfoProto, whose type must be a dense tensor, or an optional one where that is allowed."""
    name = reader.string(value, 1)
    kinds = [kind for _, kind in reader.messages(value, 2)]
    if may_be_missing:
        optionals = [inner for kind in kinds for _, inner in reader.messages(kind, 9)]
        kinds += [kind for inner in optionals for _, kind in reader.messages(inner, 1)]
    tensors = [tensor for kind in kinds for _, tensor in reader.messages(kind, 1)]
    if not tensors:
        raise Malformed(
            f"{name!r} is not a tensor but a sequence, a map or untyped; "
            "export with plain tensors (for skl2onnx: options={'zipmap': False})"
        )
    datatype = _datatype(reader, name, tensors[-1])
    shapes = [shape for _, shape in reader.messages(tensors[-1], 2)]
    if not shapes:
        return TensorSpec(name, datatype, None)
    sizes = [reader.integer(dimension, 1) for _, dimension in reader.messages(shapes[-1], 1)]
    return TensorSpec(name, datatype, tuple(-1 if size is None or size < 0 else size for size in sizes))


def _datatype(reader: Reader, name: str, tensor: Span) -> str:
    """Return the datatype of a tensor's type. Raises Malformed where the protocol has none."""
    element = reader.integer(tensor, 1)
    if element not in _DATATYPES:
        raise Malformed(f"{name!r} has element type {element}, which no datatype stands for; cast it")
    return _DATATYPES[element]


@dataclass(slots=True)
class _Contents:
    """The operator domains and external data of all graphs, collected while they are walked."""

    reader: Reader
    domains: set[str] = field(default_factory=set)
    external: list[External] = field(default_factory=list)

    def graph(self, span: Span, depth: int = 0) -> None:
        if depth > _NESTING:
            raise Malformed(f"its graphs nest deeper than {_NESTING}")
        for number, inner in self.reader.messages(span, 1, 5, 15):
            if number == 1:
                self._node(inner, depth)
            elif number == 5:
                self._tensor(inner)
            else:
                self._sparse(inner)

    def function(self, span: Span) -> None:
        for number, inner in self.reader.messages(span, 7, 11):
            if number == 7:
                self._node(inner, 0)
            else:
                self._attribute(inner, 0)

    def _node(self, span: Span, depth: int) -> None:
        domain = ""
        for number, inner in self.reader.messages(span, 5, 7):
            if number == 7:
                domain = self.reader.text(inner)
            else:
                self._attribute(inner, depth)
        self.domains.add(domain)

    def _attribute(self, span: Span, depth: int) -> None:
        for number, inner in self.reader.messages(span, 5, 6, 10, 11, 22, 23):
            if number in (6, 11):
                self.graph(inner, depth + 1)
            elif number in (5, 10):
                self._tensor(inner)
            else:
                self._sparse(inner)

    def _sparse(self, span: Span) -> None:
        for _, inner in self.reader.messages(span, 1, 2):
            self._tensor(inner)

    def _tensor(self, span: Span) -> None:
        entries = {}
        is_external = False
        for number, wire, value, inner in self.reader.fields(span):
            if number == 13 and wire == BYTES:
                entries[self.reader.string(inner, 1)] = self.reader.string(inner, 2)
            elif number == 14:
                is_external = value == 1
        if is_external or entries:
            try:
                offset, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
            except ValueError as error:
                raise Malformed(
                    f"external data has an offset or length that is no number: {error}"
                ) from error
            self.external.append(External(entries.get("location", ""), offset, length))
