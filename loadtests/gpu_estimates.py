"""What models are estimated to take of a GPU beside CUDA's own part, against what ONNX Runtime's arena takes.

`python -m loadtests.gpu_estimates` prints a table of ten models with 1 and with 32 rows a call, a child
process for each. The arena is that of the CPU, which extends as a bounded one on a GPU does. Weights are
packed in no way that CPUs alone have, and inputs are added, as a GPU has a copy of them: so it takes what one
on a GPU takes, but for the workspaces of cuDNN. Nine models are the networks by which the package `onnx`
tests backends, with weights that are made here; the tenth is all-MiniLM-L6-v2. Other files can be named.
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
from typing import Any

import numpy as np

from gateway.kits.gpu_memory import LENGTH, weight_bytes
from loadtests.table import markdown
from runtimes import onnx_file
from runtimes.base import Array, Datatype
from runtimes.onnx import OnnxRuntime

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
_ROWS = (1, 32)
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
    parser.add_argument("files", type=Path, nargs="*", help="ONNX files in place of the ten models")
    parser.add_argument("--minilm", type=Path, help="the directory of all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        _use_arena(arguments.measure, arguments.rows)
        return
    lines = []
    with tempfile.TemporaryDirectory(prefix="kitserve-estimates-") as directory:
        path = Path(directory) / "model.onnx"
        for name in () if arguments.files else NETWORKS:
            write_network(name, path)
            lines += [_row(compare(name, path, rows)) for rows in _ROWS]
        if arguments.minilm is not None:
            _write_minilm(arguments.minilm, path)
            lines += [_row(compare(MINILM, path, rows)) for rows in _ROWS]
        for file in arguments.files:
            lines += [_row(compare(file.stem, file, rows)) for rows in _ROWS]
    print(markdown(lines, ["model", "rows", "estimated MiB", "measured MiB", "off by"]))


def compare(name: str, path: Path, rows: int = 1) -> Comparison:
    """Estimate and measure a model that is an ONNX file."""
    activations = OnnxRuntime().activations(path, rows, LENGTH)
    if activations is None:
        raise SystemExit(f"{path} does not tell the shapes of its tensors")
    command = [sys.executable, "-m", "loadtests.gpu_estimates", _MEASURE, str(path), "--rows", str(rows)]
    log = subprocess.run(command, check=True, stderr=subprocess.PIPE).stderr
    inputs = sum(array.nbytes for array in _inputs(path, rows).values())
    measured = inputs + sum(map(int, _TAKEN.findall(log)))
    return Comparison(name, rows, weight_bytes(path) + activations, measured)


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
    _open_batch(model)
    onnx.save(model, path)


def _open_batch(model: Any) -> None:
    """Have a network take any number of rows, where it was written for one."""
    from onnx import numpy_helper

    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for tensor in model.graph.initializer:
        if tensor.name in shapes:
            sizes = numpy_helper.to_array(tensor).copy()
            if sizes[0] == 1:
                sizes[0] = 0 if -1 in sizes else -1
                tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))


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
    tokens = torch.ones(2, LENGTH, dtype=torch.long)
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
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = _inputs(path, rows)
    for _ in range(_RUNS):
        session.run(None, inputs)
    # The engine's threads may log still while Python ends.
    sys.stderr.flush()
    os._exit(0)


def _inputs(path: Path, rows: int) -> dict[str, Array]:
    """Return inputs of a model, all ones."""
    inputs = {}
    for spec in onnx_file.read(path).signature.inputs:
        first, *others = spec.shape or (1,)
        shape = (rows if first < 0 else first, *(LENGTH if size < 0 else size for size in others))
        inputs[spec.name] = np.ones(shape, Datatype(spec.datatype).numpy)
    return inputs


def _row(comparison: Comparison) -> list[str]:
    sizes = (comparison.estimated, comparison.measured)
    numbers = [f"{size / _MIB:.1f}" for size in sizes]
    return [comparison.name, str(comparison.rows), *numbers, f"{comparison.error:+.0%}"]


if __name__ == "__main__":
    main()
