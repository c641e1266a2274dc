"""What every client does with every sample model: health, metadata, calls, and errors.

It needs only numpy, so a client whose pins differ from ours can run it in a Python of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]])
"""One flower of each kind, in the order of their classes."""


class Refused(Exception):
    """The server answered with an error; the message is the server's."""


@dataclass(frozen=True)
class Sample:
    """A model that classifies irises; `versions` are all names of its one version."""

    model: str
    versions: tuple[str, ...]
    input: str
    datatype: str


class Client(Protocol):
    """One client in one of its modes of sending tensors. With version "", the server chooses."""

    def is_live(self) -> bool: ...

    def is_ready(self) -> bool: ...

    def is_model_ready(self, model: str, version: str = "") -> bool: ...

    def metadata(self, model: str, version: str = "") -> Mapping[str, Any] | None:
        """Return name, versions and inputs of a model; None from a client that cannot ask for them."""

    def infer(
        self, model: str, version: str, name: str, datatype: str, array: Any, outputs: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the outputs by name. Raises Refused when the server answers with an error."""


def run(client: Client, samples: list[Sample]) -> int:
    """Try everything on every sample. Return how many calls were answered. Raises AssertionError."""
    assert client.is_live()
    assert client.is_ready()
    return sum(_try(client, sample) for sample in samples)


def _try(client: Client, sample: Sample) -> int:
    array = FLOWERS.astype({"FP32": np.float32, "FP64": np.float64}[sample.datatype])
    calls = 0
    for version in ("", *sample.versions):
        assert client.is_model_ready(sample.model, version), (sample, version)
        metadata = client.metadata(sample.model, version)
        if metadata is not None:
            assert metadata["name"] == sample.model
            assert metadata["versions"] == [sample.versions[0]]
            assert [(tensor["name"], tensor["datatype"]) for tensor in metadata["inputs"]] == [
                (sample.input, sample.datatype)
            ]
        outputs = client.infer(sample.model, version, sample.input, sample.datatype, array)
        assert _classes(outputs) == [0, 1, 2], (sample, version, outputs)
        name = next(iter(outputs))
        chosen = client.infer(sample.model, version, sample.input, sample.datatype, array, (name,))
        assert list(chosen) == [name]
        assert np.array_equal(chosen[name], outputs[name])
        calls += 2
    _be_refused(client, sample, array)
    assert _classes(client.infer(sample.model, "", sample.input, sample.datatype, array)) == [0, 1, 2]
    return calls + 1


def _be_refused(client: Client, sample: Sample, array: Any) -> None:
    model, name, datatype = sample.model, sample.input, sample.datatype
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready(model, "v9")
    if datatype == "FP64":
        # A model of rows takes other numbers where none of them is lost, but no texts.
        other, wrong = "BYTES", np.full(array.shape, b"x", object)
        assert _classes(client.infer(model, "", name, "FP32", array.astype(np.float32))) == [0, 1, 2]
    else:
        other, wrong = "FP64", array.astype(np.float64)
    faults: list[tuple[str, Callable[[], object]]] = [
        ("no model is named nothing", lambda: client.infer("nothing", "", name, datatype, array)),
        (
            f"model {model} has no version v9 that is served",
            lambda: client.infer(model, "v9", name, datatype, array),
        ),
        (f"input {name!r} is missing", lambda: client.infer(model, "", "other", datatype, array)),
        (f"input {name!r} must be {datatype}", lambda: client.infer(model, "", name, other, wrong)),
        ("unknown output 'colour'", lambda: client.infer(model, "", name, datatype, array, ("colour",))),
    ]
    for text, call in faults:
        message = _refusal(call)
        assert text in message, (text, message)


def _refusal(call: Callable[[], object]) -> str:
    """Return the error that the server answers to a call; "" where it succeeds."""
    try:
        call()
    except Refused as error:
        return str(error)
    return ""


def _classes(outputs: Mapping[str, Any]) -> list[int]:
    """Return the classes of three flowers, from the output with a score for each class, else the labels."""
    for array in outputs.values():
        if array.shape == (3, 3):
            return [int(label) for label in array.argmax(-1)]
    return [int(label) for label in next(iter(outputs.values())).reshape(-1)]


def main(clients: Mapping[str, Client]) -> None:
    """Run a client in each of its modes on the samples in the file that the command line names."""
    samples = [
        Sample(entry["model"], tuple(entry["versions"]), entry["input"], entry["datatype"])
        for entry in json.loads(Path(sys.argv[2]).read_text())
    ]
    for mode, client in clients.items():
        print(f"{mode}: {run(client, samples)} calls", flush=True)
