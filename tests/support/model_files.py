"""Small model files for tests: an ONNX writer, PyTorch modules, and zips."""

from __future__ import annotations

import io
import zipfile
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch


def varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A protobuf field with an integer."""
    return varint(field << 3) + varint(value)


def chunk(field: int, value: bytes | str) -> bytes:
    """A protobuf field with bytes, a string or a message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def value_info(name: str, element: int, shape: Sequence[int | str] | None) -> bytes:
    tensor = number(1, element)
    if shape is not None:
        dims = [number(1, size) if isinstance(size, int) else chunk(2, size) for size in shape]
        tensor += chunk(2, b"".join(chunk(1, dim) for dim in dims))
    return chunk(1, name) + chunk(2, chunk(1, tensor))


def node(
    operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", attributes: bytes = b""
) -> bytes:
    names = b"".join(chunk(1, name) for name in inputs) + b"".join(chunk(2, name) for name in outputs)
    return names + chunk(4, operator) + attributes + chunk(7, domain)


def external_tensor(name: str, size: int, entries: Mapping[str, str]) -> bytes:
    """An FP32 initializer of `size` numbers whose data lie elsewhere."""
    pairs = b"".join(chunk(13, chunk(1, key) + chunk(2, value)) for key, value in entries.items())
    return number(1, size) + number(2, 1) + chunk(8, name) + pairs + number(14, 1)


def onnx_model(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    initializers: Sequence[bytes] = (),
    functions: Sequence[bytes] = (),
    domains: Sequence[str] = ("",),
) -> bytes:
    graph = (
        b"".join(chunk(1, each) for each in nodes)
        + chunk(2, "graph")
        + b"".join(chunk(5, each) for each in initializers)
        + b"".join(chunk(11, each) for each in inputs)
        + b"".join(chunk(12, each) for each in outputs)
    )
    opsets = b"".join(chunk(8, chunk(1, domain) + number(2, 17 if not domain else 1)) for domain in domains)
    return number(1, 8) + opsets + chunk(7, graph) + b"".join(chunk(25, each) for each in functions)


def identity_onnx(
    element: int = 1,
    shape: Sequence[int | str] | None = ("n", 2),
    operator: str = "Identity",
    domains: Sequence[str] = ("",),
) -> bytes:
    """A model `y = x`."""
    return onnx_model(
        [node(operator, ["x"], ["y"])],
        [value_info("x", element, shape)],
        [value_info("y", element, shape)],
        domains=domains,
    )


def external_onnx(location: str, size: int = 2) -> tuple[bytes, bytes]:
    """A model `y = x + w` whose `w`, 1.0, 2.0 and so on, lies in another file; and that file's bytes."""
    weights = array("f", (position + 1 for position in range(size))).tobytes()
    entries = {"location": location, "offset": "0", "length": str(len(weights))}
    model = onnx_model(
        [node("Add", ["x", "w"], ["y"])],
        [value_info("x", 1, [size])],
        [value_info("y", 1, [size])],
        [external_tensor("w", size, entries)],
    )
    return model, weights


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def repack(source: Path, target: Path, changes: Mapping[str, bytes | None]) -> Path:
    """Copy a zip with members (named without the archive's root) replaced, added, or left out for None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        left = dict(changes)
        for name in old.namelist():
            inner = name.partition("/")[2]
            data = left.pop(inner, old.read(name))
            if data is not None:
                new.writestr(name, data)
        for inner, data in left.items():
            if data is not None:
                new.writestr(inner.removeprefix("/") if inner.startswith("/") else f"{root}/{inner}", data)
    return target


def save_script(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


class Double(torch.nn.Module):
    """`y = 2 x`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Lookup(torch.nn.Module):
    """Takes word numbers and a keyword `mask`, gives a dict; has weights, a buffer and a constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(10, 4)
        self.dense = torch.nn.Linear(4, 2)
        self.register_buffer("shift", torch.ones(4))
        self.scale = torch.tensor([1.0, 2.0])

    def forward(self, words: torch.Tensor, *, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = (self.table(words) * mask[..., None]).mean(1) + self.shift
        scores = self.dense(rows) * self.scale
        return {"scores": scores, "label": scores.argmax(-1)}
