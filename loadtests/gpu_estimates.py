"""What models are estimated to take of a GPU beside CUDA's own part, against what ONNX Runtime's arena takes.

`python -m loadtests.gpu_estimates` prints a table of ten models, a child process for each. The arena is that
of the CPU, which extends as a bounded one on a GPU does, and weights are not packed anew for CPUs: so it
takes what one on a GPU takes, but for the workspaces of cuDNN. Nine models are the networks by which the
package `onnx` tests backends, with weights that are made here; the tenth is all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.kits.gpu_memory import activation_bytes, weight_bytes
from loadtests.table import markdown
from runtimes import onnx_file
from runtimes.base import Datatype

NETWORKS = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
MINILM = "minilm"
_MEASURE = "--measure"
_LENGTH = 128  # of an axis whose length only calls tell, as the estimate has it
_RUNS = 3
_TAKEN = re.compile(rb"(?:Extended allocation by|Reserving memory in BFCArena for Cpu size:) (\d+)")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a model takes with so many rows a call, in bytes."""

    name: str
    rows: int
    estimated: int
    measured: int

    @property
    def error(self) -> float:
        """How far the estimate is off, as a part of what was measured; below 0 where it is too small."""
        return self.estimated / self.measured - 1


def main() -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(_MEASURE, type=Path, help="print nothing but the arena's log for this file")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--minilm", type=Path, help="the directory of all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        _use_arena(arguments.measure, arguments.rows)
        return
    lines = []
    with tempfile.TemporaryDirectory(prefix="kitserve-estimates-") as directory:
        path = Path(directory) / "model.onnx"
        for name in NETWORKS:
            write_network(name, path)
            lines.append(_row(compare(name, path)))
        if arguments.minilm is not None:
            _write_minilm(arguments.minilm, path)
            lines += [_row(compare(MINILM, path, rows)) for rows in (1, 32)]
    print(markdown(lines, ["model", "rows", "estimated MiB", "measured MiB", "off by"]))


def compare(name: str, path: Path, rows: int = 1) -> Comparison:
    """Estimate and measure a model that is an ONNX file."""
    estimated = weight_bytes(path) + activation_bytes(onnx_file.read(path).signature, rows)
    command = [sys.executable, "-m", "loadtests.gpu_estimates", _MEASURE, str(path), "--rows", str(rows)]
    log = subprocess.run(command, check=True, stderr=subprocess.PIPE).stderr
    return Comparison(name, rows, estimated, sum(map(int, _TAKEN.findall(log))))


def write_network(name: str, path: Path) -> None:
    """Write one of the networks, with weights in place of the instructions to make them."""
    import onnx
    from onnx import numpy_helper

    source = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = onnx.load(source)
    graph, random = model.graph, np.random.default_rng(1)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights, nodes = [], []
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(numpy_helper.to_array(constants[node.input[0]]))
            values = (0.01 * random.standard_normal(shape)).astype(np.float32)
            weights.append(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    weights += [tensor for name, tensor in constants.items() if name in used]
    names = {tensor.name for tensor in weights}
    inputs = [value for value in graph.input if value.name in used - names]
    for field, content in ((graph.node, nodes), (graph.initializer, weights), (graph.input, inputs)):
        del field[:]
        field.extend(content)
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs as well
    onnx.save(model, path)


def _write_minilm(directory: Path, path: Path) -> None:
    import torch
    import transformers

    class Hidden(torch.nn.Module):
        """The last hidden state alone."""

        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            """Return it."""
            result = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)
            return result[0]  # type: ignore[no-any-return]

    names = ["input_ids", "attention_mask"]
    tokens = torch.ones(2, _LENGTH, dtype=torch.long)
    # The exporter that needs no further package is deprecated.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Hidden(),
            (tokens, tokens),
            path,
            input_names=names,
            output_names=["hidden"],
            dynamic_axes={name: {0: "rows", 1: "length"} for name in (*names, "hidden")},
            dynamo=False,
        )


def _use_arena(path: Path, rows: int) -> None:
    """Load a model and call it; the arena writes to standard error what it takes."""
    import onnxruntime as ort

    ort.set_default_logger_severity(0)
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    extends_as_requested = {"arena_extend_strategy": 1}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(extends_as_requested))
    options = ort.SessionOptions()
    options.log_severity_level = 0
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {}
    for spec in onnx_file.read(path).signature.inputs:
        first, *others = spec.shape or ()
        shape = (rows if first < 0 else first, *(_LENGTH if size < 0 else size for size in others))
        inputs[spec.name] = np.ones(shape, Datatype(spec.datatype).numpy)
    for _ in range(_RUNS):
        session.run(None, inputs)
    # The engine's threads may log still while Python ends.
    sys.stderr.flush()
    os._exit(0)


def _row(comparison: Comparison) -> list[str]:
    sizes = (comparison.estimated, comparison.measured)
    numbers = [f"{size / _MIB:.1f}" for size in sizes]
    return [comparison.name, str(comparison.rows), *numbers, f"{comparison.error:+.0%}"]


if __name__ == "__main__":
    main()
