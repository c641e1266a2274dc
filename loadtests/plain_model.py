"""A model with as little code as possible between a call and its answer; nothing is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

from loadtests.models import Array

_DTYPES: dict[str, Any] = {"FP32": np.float32, "INT64": np.int64}
_DATATYPES = {"float32": "FP32", "int64": "INT64"}


class PlainModel:
    """An ONNX model on one thread."""

    def __init__(self, file: Path | bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        source = file if isinstance(file, bytes) else str(file)
        self._session: Any = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return the array of each output, by name."""
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))

    def answer(self, body: bytes, json_size: int | None = None) -> bytes:
        """Answer one inference call of the Open Inference Protocol.

        Raw tensors begin at `json_size`; None means that the body is JSON alone.
        """
        end = len(body) if json_size is None else json_size
        inputs, raw = {}, end
        for tensor in orjson.loads(memoryview(body)[:end])["inputs"]:
            dtype, shape = _DTYPES[tensor["datatype"]], tensor["shape"]
            if json_size is None:
                array = np.array(tensor["data"], dtype=dtype).reshape(shape)
            else:
                array = np.frombuffer(body, dtype, int(np.prod(shape)), raw).reshape(shape)
                raw += array.nbytes
            inputs[tensor["name"]] = array
        outputs = [
            {
                "name": name,
                "datatype": _DATATYPES[array.dtype.name],
                "shape": array.shape,
                "data": array.ravel(),
            }
            for name, array in self.run(inputs).items()
        ]
        document = {"model_name": "model", "outputs": outputs}
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
