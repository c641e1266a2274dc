"""The runtime of OpenVINO, and a model that it has compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtimes.base import Array, Datatype, Resources, Signature
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.extras import missing_library
from runtimes.formats import Format, identify
from runtimes.input_check import InputCheck, unknown_output
from runtimes.openvino import ir_file


class OpenVinoRuntime:
    """Loads OpenVINO IR, a file of XML with its weights beside it, onto the CPU."""

    name: ClassVar[str] = "openvino"
    formats: ClassVar[tuple[Format, ...]] = (Format.OPENVINO,)

    def load(self, path: Path, resources: Resources) -> OpenVinoModel:
        """Load the graph and its weights. Raises LoadError.

        It computes in FP32 whatever instructions the CPU has: by itself, OpenVINO takes BF16 where there are
        some for it, and answers would depend on the machine.
        """
        file = self.check(path)
        try:
            import openvino
        except ImportError as error:
            raise missing_library(path, "OpenVINO", "openvino", error) from error
        settings = {
            "INFERENCE_NUM_THREADS": resources.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            # Each process would pin its threads to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        weights = ir_file.weights_of(path)
        try:
            core = openvino.Core()
            graph = core.read_model(path, weights if weights.is_file() else "")
            compiled = core.compile_model(graph, "CPU", settings)
            return OpenVinoModel(openvino, compiled, file)
        except Exception as error:
            version = openvino.__version__.partition("-")[0]
            raise LoadError(f"OpenVINO {version} refuses {path}: {_sentence(error)}") from error

    def check(self, path: Path) -> ir_file.IrFile:
        """Return what the file declares. Raises LoadError where it cannot be served, without OpenVINO."""
        format_ = identify(path)
        if format_ is not Format.OPENVINO:
            raise LoadError(f"{path} is no whole OpenVINO IR but {format_.title}; convert the model again")
        file = ir_file.read(path)
        ir_file.check_weights(path, file)
        return file

    def signature(self, path: Path) -> Signature:
        """Return what the file declares. Raises LoadError."""
        return ir_file.read(path).signature


class OpenVinoModel:
    """A compiled graph. What it remembers from one call to the next is forgotten before each call."""

    platform = "openvino_ir"
    device = "cpu"

    def __init__(self, openvino: Any, compiled: Any, file: ir_file.IrFile) -> None:
        self.signature = file.signature
        self._openvino = openvino
        self._request = compiled.create_infer_request()
        self._has_state = bool(self._request.query_state())
        self._check = InputCheck(file.signature)
        self._inputs = {
            spec.name: index
            for spec, index in zip(file.signature.inputs, _order(compiled.inputs, file.inputs), strict=True)
        }
        self._outputs: dict[str, int] = {}
        order = _order(compiled.outputs, [layer for layer, _ in file.outputs])
        for (_, name), index in zip(file.outputs, order, strict=True):
            self._outputs.setdefault(name, index)
        for spec in file.signature.inputs:
            _check_datatype(openvino, spec.name, spec.datatype, compiled.inputs[self._inputs[spec.name]])
        for spec in file.signature.outputs:
            _check_datatype(openvino, spec.name, spec.datatype, compiled.outputs[self._outputs[spec.name]])
        self._datatypes = {spec.name: Datatype(spec.datatype) for spec in file.signature.all_outputs}
        self._special = frozenset(
            spec.name for spec in file.signature.inputs if spec.datatype in (Datatype.BF16, Datatype.BYTES)
        )

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        self._check(inputs)
        names = outputs or tuple(self._outputs)
        for name in names:
            if name not in self._outputs:
                raise unknown_output(name, tuple(self._outputs))
        request = self._request
        if request is None:
            raise ExecutionError("the model is closed")
        feed = {self._inputs[name]: self._fed(name, array) for name, array in inputs.items()}
        try:
            if self._has_state:
                request.reset_state()
            results = request.infer(feed, decode_strings=False)
            return {name: self._given(name, results[self._outputs[name]]) for name in names}
        except Exception as error:
            raise ExecutionError(f"the model failed: {_sentence(error)}") from error

    def close(self) -> None:
        """Free the graph."""
        self._request = None

    def _fed(self, name: str, array: Array) -> Any:
        """Return an input in a form that OpenVINO's Python interface takes."""
        if name not in self._special:
            return array
        if array.dtype == Datatype.BF16.numpy:
            bits = np.ascontiguousarray(array).view(np.uint16)
            return self._openvino.Tensor(bits, array.shape, self._openvino.Type.bf16)
        texts = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()]
        if any(text.endswith(b"\0") for text in texts):
            raise InputError(
                f"input {name!r} has a text that ends in a zero byte, which OpenVINO would cut off"
            )
        return self._openvino.Tensor(np.array(texts, dtype=np.bytes_).reshape(array.shape))

    def _given(self, name: str, array: Array) -> Array:
        """Return an output as it should be; OpenVINO gives strings of one length, and bare 16 bits."""
        datatype = self._datatypes[name]
        if datatype is Datatype.BYTES:
            return array.astype(object)
        return array.view(datatype.numpy) if datatype is Datatype.BF16 else array


def _order(ports: Sequence[Any], layers: Sequence[str]) -> list[int]:
    """Return the index of the port of each layer. Raises ValueError where they do not correspond."""
    indexes = {port.get_node().get_friendly_name(): index for index, port in enumerate(ports)}
    if len(indexes) != len(ports) or indexes.keys() != set(layers):
        raise ValueError("its inputs and outputs are not those that the file declares")
    return [indexes[layer] for layer in layers]


def _check_datatype(openvino: Any, name: str, datatype: str, port: Any) -> None:
    """Raise ValueError where the compiled graph has another datatype than the file declares."""
    actual = port.get_element_type()
    if datatype not in (Datatype.BF16, Datatype.BYTES):
        expected = openvino.Type(Datatype(datatype).numpy)
    else:
        expected = openvino.Type.bf16 if datatype == Datatype.BF16 else openvino.Type.string
    if actual != expected:
        raise ValueError(f"{name!r} is {actual.get_type_name()}, and the file declares {datatype}")


def _sentence(error: Exception) -> str:
    """Return the last line of an error, without the places in OpenVINO's own source before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith("Exception from ")]
    return "; ".join(plain or lines)[:1_000]
