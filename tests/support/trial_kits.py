"""Kits of one model and of canaries of it: an equal one, and ones that are worse in one way each.

The model gives back what it gets. All versions are sent the calls in `BODIES`; some make a difference.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tests.support.artifacts import LayoutBuilder, tar
from tests.support.model_files import chunk, node, number, onnx_model, value_info

COLUMNS = 512
# About 3 ms on a core of 2020.
_STEPS = 2500
_INT64 = 7

NAME = "test/trial"
TAGS = ("even", "odd", "failing", "slow", "lying")
"""The first two are equal; the others fail 5 % of the calls, take 3 times as long, answer 20 % otherwise."""


def trial_kits(directory: Path) -> str:
    """Write an OCI layout with a kit for each of `TAGS`; return the reference of all, but for the tag."""
    builder = LayoutBuilder(directory)
    for number_of_tag, tag in enumerate(TAGS):
        # The rows make the digests differ.
        row = f'{{"inputs": {{"x": [{number_of_tag}]}}, "outputs": {{"y": [{number_of_tag}]}}}}\n'.encode()
        builder.kit(f"{NAME}:{tag}", tar(("model.onnx", _model(tag))), path="model.onnx", rows=row)
    return f"oci-layout:{directory}:{NAME}"


def _model(tag: str) -> bytes:
    steps = _STEPS * (4 if tag == "slow" else 1)
    names = ["x", *(f"s{step}" for step in range(steps))]
    nodes = [node("Sin", [before], [after]) for before, after in itertools.pairwise(names)]
    nodes += [node("Sub", [names[-1], names[-1]], ["nothing"]), node("Add", ["x", "nothing"], ["same"])]
    last = "same"
    if tag == "failing":
        to_integer = chunk(5, chunk(1, "to") + number(3, _INT64) + number(20, 2))
        along_rows = chunk(5, chunk(1, "axis") + number(3, 1) + number(20, 2))
        nodes += [
            node("Cast", ["x"], ["index"], attributes=to_integer),
            # An index outside of the row is an error.
            node("GatherElements", ["x", "index"], ["found"], attributes=along_rows),
            node("Sub", ["found", "found"], ["void"]),
            node("Add", [last, "void"], ["y"]),
        ]
    else:
        nodes.append(node("Abs" if tag == "lying" else "Identity", [last], ["y"]))
    shape = ("n", COLUMNS)
    return onnx_model(nodes, [value_info("x", 1, shape)], [value_info("y", 1, shape)])


def _body(value: int) -> bytes:
    tensor = {"name": "x", "shape": [1, COLUMNS], "datatype": "FP32", "data": [value] * COLUMNS}
    return json.dumps({"inputs": [tensor]}).encode()


BODIES = [
    _body(value) for value in (1, 2, 3, -1, 1, 2, 3, -1, 1, 2, 3, -1, 1, 2, 3, -1, 1, 2, 3, 2 * COLUMNS)
]
"""Of 20 calls, 4 have negative values, and one has values that the failing version cannot take."""
