"""What a SavedModel takes, gives and runs, read from its `saved_model.pb` without TensorFlow.

The messages are in tensorflow/core/protobuf (saved_model.proto, meta_graph.proto,
saved_object_graph.proto) and tensorflow/core/framework (graph.proto, node_def.proto, function.proto,
attr_value.proto). A SavedModel of TensorFlow 2 is a library of functions and a graph of objects. The objects
name the functions that may be called, and what is bound to their last arguments. Its outermost graph is run
by TensorFlow 1 alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from runtimes.base import Datatype, Signature, TensorSpec
from runtimes.errors import LoadError
from runtimes.protobuf import Malformed, Reader, Span, mapped

FILE = "saved_model.pb"
DEFAULT = "serving_default"
"""The signature that is served where there is one of this name."""

_MAX_NESTING = 8
# DataType (types.proto); the others (complex, quantized, resources) have no datatype in the protocol.
_DATATYPES: Mapping[int, Datatype] = {
    1: Datatype.FP32,
    2: Datatype.FP64,
    3: Datatype.INT32,
    4: Datatype.UINT8,
    5: Datatype.INT16,
    6: Datatype.INT8,
    7: Datatype.BYTES,
    9: Datatype.INT64,
    10: Datatype.BOOL,
    14: Datatype.BF16,
    17: Datatype.UINT16,
    19: Datatype.FP16,
    22: Datatype.UINT32,
    23: Datatype.UINT64,
}
_ALTERNATIVE = "api_implements"
_ASSET = 5  # the field of SavedObject for one that is a file


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a function."""

    operator: str
    inputs: tuple[str, ...]
    functions: tuple[str, ...]
    """The functions that its attributes name."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the library, or the outermost graph."""

    name: str
    arguments: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()
    is_alternative: bool = False
    """Whether TensorFlow may run it in place of another function, which implements the same interface."""


@dataclass(frozen=True, slots=True)
class SavedModelFile:
    """What `saved_model.pb` declares."""

    tags: tuple[str, ...]
    signature_name: str
    signature: Signature
    graph: Function
    functions: Mapping[str, Function]
    callable: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The functions that the objects name, each with the objects that are bound to its last arguments."""
    asset_objects: frozenset[int] = frozenset()
    """Those of the objects that are files."""
    assets: tuple[str, ...] = ()
    """The files below `assets`."""


def read(path: Path) -> SavedModelFile:
    """Return what the file at `path` declares.

    Raises:
        LoadError: where it is damaged, of TensorFlow 1, or has no signature that can be served.
    """
    with mapped(path) as data:
        try:
            return _read(Reader(data), path)
        except Malformed as error:
            raise LoadError(f"{path} is no whole SavedModel: {error}; export the model again") from error


def _read(reader: Reader, path: Path) -> SavedModelFile:
    graphs = [span for _, span in reader.messages(reader.whole, 2)]
    if len(graphs) != 1:
        raise LoadError(f"{path} has {len(graphs)} graphs, and one is served; export the model once more")
    meta = graphs[0]
    objects = _only(reader, meta, 7)
    if objects is None:
        raise LoadError(f"{path} is of TensorFlow 1, which has no objects; save it with TensorFlow 2")
    info, graph = _only(reader, meta, 1), _only(reader, meta, 2)
    if info is None or graph is None:
        raise Malformed("it has no graph")
    library = _only(reader, graph, 2) or (0, 0)
    functions = [_function(reader, span) for _, span in reader.messages(library, 1)]
    name, signature = _signature(reader, meta, path)
    nodes = [span for _, span in reader.messages(objects, 1)]
    return SavedModelFile(
        tags=tuple(reader.text(span) for _, span in reader.messages(info, 4)),
        signature_name=name,
        signature=signature,
        graph=Function("", (), tuple(_node(reader, span) for _, span in reader.messages(graph, 1))),
        functions={function.name: function for function in functions},
        callable={
            key: tuple(reader.integers(value, 2)) for key, value in _entries(reader, objects, 2).items()
        },
        asset_objects=frozenset(
            index for index, span in enumerate(nodes) if any(reader.messages(span, _ASSET))
        ),
        assets=tuple(reader.string(span, 2) for _, span in reader.messages(meta, 6)),
    )


def external_files(path: Path) -> frozenset[str]:
    """Return the files that `saved_model.pb` needs, by their paths beside it. Raises LoadError.

    How many files the variables are in is written in their index; TensorFlow writes one, unless it trains on
    several machines.
    """
    variables = ("variables.index", "variables.data-00000-of-00001")
    assets = (f"assets/{name}" for name in read(path).assets)
    return frozenset({*(f"variables/{name}" for name in variables), *assets})


def check_files(path: Path, file: SavedModelFile) -> None:
    """Raise LoadError where a file of the directory is missing, or one outside of it is named."""
    if path.name != FILE:
        raise LoadError(f"{path} is a TensorFlow SavedModel, which must have the name {FILE}")
    variables = path.parent / "variables"
    shards = sorted(variables.glob("variables.data-?????-of-?????"))
    if not _is_file(variables / "variables.index") or not shards:
        raise LoadError(f"{variables} is missing, which has the weights of {path.name}; pack all of it")
    count = shards[0].name.rpartition("-")[2]
    names = [f"variables.data-{index:05}-of-{count}" for index in range(len(shards))]
    if (
        [shard.name for shard in shards] != names
        or int(count, 10) != len(names)
        or not all(map(_is_file, shards))
    ):
        raise LoadError(f"{variables} lacks some of its {count} files; pack the directory whole")
    for asset in file.assets:
        parts = PurePosixPath(asset).parts
        if not parts or asset.startswith("/") or ".." in parts:
            raise LoadError(
                f"{path} names the file {asset[:80]!r}, which is none of its own; export it again"
            )
        if not _is_file(path.parent.joinpath("assets", *parts)):
            raise LoadError(f"{path.parent}/assets/{asset} is missing; pack the directory whole")


def _signature(reader: Reader, meta: Span, path: Path) -> tuple[str, Signature]:
    signatures = {
        name: span
        for name, span in _entries(reader, meta, 5).items()
        if not name.startswith("__saved_model_") and any(reader.messages(span, 2))
    }
    if DEFAULT not in signatures and len(signatures) != 1:
        listed = ", ".join(map(repr, sorted(signatures))) or "none"
        raise LoadError(
            f"{path} has the signatures {listed}, and the one that is served is {DEFAULT!r}; export the "
            "model with that one"
        )
    name = DEFAULT if DEFAULT in signatures else next(iter(signatures))
    inputs, outputs = (
        tuple(
            _tensor(reader, key, span, path)
            for key, span in sorted(_entries(reader, signatures[name], n).items())
        )
        for n in (1, 2)
    )
    return name, Signature(inputs, outputs)


def _tensor(reader: Reader, name: str, span: Span, path: Path) -> TensorSpec:
    """Return the tensor of a TensorInfo."""
    datatype = _DATATYPES.get(reader.integer(span, 2) or 0)
    if datatype is None or any(reader.messages(span, 4, 5)):
        raise LoadError(
            f"{path}: {name!r} of its signature is sparse, ragged or of a datatype that the Open Inference "
            "Protocol lacks; export the model with a dense tensor there"
        )
    shape = _only(reader, span, 3) or (0, 0)
    if reader.integer(shape, 3):
        return TensorSpec(name, datatype.value, None)
    sizes = (reader.integer(dim, 1) or 0 for _, dim in reader.messages(shape, 2))
    return TensorSpec(name, datatype.value, tuple(max(size, -1) for size in sizes))


def _function(reader: Reader, span: Span) -> Function:
    signature = _only(reader, span, 1)
    if signature is None:
        raise Malformed("a function has no name")
    return Function(
        reader.string(signature, 1),
        tuple(reader.string(argument, 1) for _, argument in reader.messages(signature, 2)),
        tuple(_node(reader, node) for _, node in reader.messages(span, 3)),
        _ALTERNATIVE in _entries(reader, span, 5),
    )


def _node(reader: Reader, span: Span) -> Node:
    return Node(
        reader.string(span, 2),
        tuple(reader.text(each) for _, each in reader.messages(span, 3)),
        tuple(_called(reader, span, 5, _MAX_NESTING)),
    )


def _called(reader: Reader, span: Span, number: int, nesting: int) -> Iterator[str]:
    """Yield the functions in a map of attributes, whose field is `number`; a function has attributes, too."""
    if not nesting:
        raise Malformed("its attributes are nested too deeply")
    for _, entry in reader.messages(span, number):
        for _, value in reader.messages(entry, 2):
            lists = [value, *(each for _, each in reader.messages(value, 1))]
            for holder, function in ((lists[0], 10), *((each, 9) for each in lists[1:])):
                for _, named in reader.messages(holder, function):
                    yield reader.string(named, 1)
                    yield from _called(reader, named, 2, nesting - 1)


def _entries(reader: Reader, span: Span, number: int) -> dict[str, Span]:
    """Return a map from strings to messages; of entries with one key, the last one counts."""
    return {
        reader.string(entry, 1): _only(reader, entry, 2) or (0, 0)
        for _, entry in reader.messages(span, number)
    }


def _only(reader: Reader, span: Span, number: int) -> Span | None:
    """Return the message in a field, None where there is none. Protobuf would merge several into one."""
    spans = [inner for _, inner in reader.messages(span, number)]
    if len(spans) > 1:
        raise Malformed("a field that is one message is there several times")
    return spans[0] if spans else None


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
