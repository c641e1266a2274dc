"""An ONNX model without its weights, for those who ask for shapes alone.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtimes.errors import LoadError
from runtimes.protobuf import BYTES, VARINT, Malformed, Reader, Span, mapped, varint

_SMALL = 64 * 1024
"""Bytes of a constant that is kept: the shapes of others may be made of it."""
_MAX_BYTES = 64 * 1024 * 1024
_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 7, 1, 5, 11, 12, 13


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model with inputs in place of its weights."""

    model: bytes
    weights: frozenset[str]
    """The names of these inputs."""
    axes: Mapping[str, int]
    """The names of lengths that the file leaves open, each with the place of the first axis that has it."""


def skeleton(path: Path) -> Skeleton:
    """Return the model at `path` without its weights; each axis of an input that is left open has a name.

    Raises:
        LoadError: where the file is none, or has more beside its weights than models have.
    """
    try:
        with mapped(path) as data:
            writer = _Writer(Reader(data), data)
            return Skeleton(writer.model(), frozenset(writer.weights), writer.axes)
    except Malformed as error:
        raise LoadError(f"{path} is not a usable ONNX model: {error}") from error


def with_outputs(model: bytes, values: Iterable[str]) -> bytes:
    """Return a model that gives further values out."""
    outputs = [_message(_OUTPUT, _message(1, name.encode())) for name in values]
    return model + _message(_GRAPH, b"".join(outputs))


def with_questions(model: bytes, values: Iterable[str], taken: str, copies: tuple[str, str]) -> bytes:
    """Return a model that mentions values: ONNX Runtime writes the shapes of those that are.

    Args:
        model: the model.
        values: the names of the values.
        taken: an input. It is copied twice, as one copy is removed: a graph in which nothing changes is
            written as it came, without shapes.
        copies: the names for that, which nothing else has; the second one becomes an output.
    """
    parts = [_message(_VALUE_INFO, _message(1, name.encode())) for name in values]
    for before, after in ((taken, copies[0]), copies):
        node = _message(1, before.encode()) + _message(2, after.encode()) + _message(4, b"Identity")
        parts.append(_message(_NODE, node))
    parts.append(_message(_OUTPUT, _message(1, copies[1].encode())))
    # Protobuf joins two messages of one field.
    return model + _message(_GRAPH, b"".join(parts))


class _Writer:
    def __init__(self, reader: Reader, data: mmap.mmap | bytes) -> None:
        self._reader = reader
        self._data = data
        self.weights: set[str] = set()
        self.axes: dict[str, int] = {}
        self._size = 0

    def model(self) -> bytes:
        parts = []
        for number, wire, value, inner in self._reader.fields(self._reader.whole):
            if number == _GRAPH and wire == BYTES:
                parts.append(_message(number, b"".join(self._graph(inner))))
            else:
                parts.append(self._copied(number, wire, value, inner))
        return b"".join(parts)

    def _graph(self, graph: Span) -> Iterator[bytes]:
        constants = set()
        for _, tensor in self._reader.messages(graph, _INITIALIZER):
            name = self._reader.string(tensor, 8)
            constants.add(name)
            if tensor[1] - tensor[0] > _SMALL or self._reader.integer(tensor, 14) == 1:
                self.weights.add(name)
                element = self._reader.integer(tensor, 2) or 0
                yield _message(_INPUT, _value(name, element, self._reader.integers(tensor, 1)))
            else:
                yield self._copied(_INITIALIZER, BYTES, 0, tensor)
        for number, wire, value, inner in self._reader.fields(graph):
            if number == _INITIALIZER:
                continue
            if number == _INPUT and wire == BYTES:
                if (name := self._reader.string(inner, 1)) not in constants:
                    yield self._input(name, inner)
            else:
                yield self._copied(number, wire, value, inner)

    def _input(self, name: str, value: Span) -> bytes:
        for _, kind in self._reader.messages(value, 2):
            for _, tensor in self._reader.messages(kind, 1):
                axes = [
                    axis for _, shape in self._reader.messages(tensor, 2) for axis in self._axes(name, shape)
                ]
                element = self._reader.integer(tensor, 1) or 0
                return _message(_INPUT, _value(name, element, axes))
        return self._copied(_INPUT, BYTES, 0, value)

    def _axes(self, name: str, shape: Span) -> Iterator[int | str]:
        """Yield the length of each axis, or its name where that is left open."""
        for place, (_, dimension) in enumerate(self._reader.messages(shape, 1)):
            length = self._reader.integer(dimension, 1)
            if length is not None and length >= 0:
                yield length
            else:
                axis = self._reader.string(dimension, 2) or f"{name}/{place}"
                self.axes.setdefault(axis, place)
                yield axis

    def _copied(self, number: int, wire: int, value: int, inner: Span) -> bytes:
        if wire == VARINT:
            return varint(number << 3) + varint(value)
        self._size += inner[1] - inner[0]
        if self._size > _MAX_BYTES:
            raise Malformed(f"it has more than {_MAX_BYTES >> 20} MiB beside its weights")
        content = self._data[inner[0] : inner[1]]
        return _message(number, content) if wire == BYTES else varint(number << 3 | wire) + content


def _value(name: str, element: int, axes: Iterable[int | str]) -> bytes:
    """Return a ValueInfoProto of a tensor."""
    shape = b"".join(_message(1, _axis(axis)) for axis in axes)
    tensor = varint(1 << 3) + varint(element) + _message(2, shape)
    return _message(1, name.encode()) + _message(2, _message(1, tensor))


def _axis(axis: int | str) -> bytes:
    if isinstance(axis, str):
        return _message(2, axis.encode())
    return varint(1 << 3) + varint(axis & 0xFFFF_FFFF_FFFF_FFFF)


def _message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | BYTES) + varint(len(content)) + content
