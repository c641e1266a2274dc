"""BentoML, one service with one worker: `server.py PORT MODEL`. Calls are its own JSON, {"input": …}."""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(
    workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}, metrics={"enabled": True}
)
class OnnxService:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["MODEL"], options)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._dtype = {"tensor(float)": np.float32, "tensor(int64)": np.int64}[
            self._session.get_inputs()[0].type
        ]

    @bentoml.api
    def infer(self, input: np.ndarray) -> dict[str, list]:  # noqa: A002  # the name of the model's input
        arrays = self._session.run(self._outputs, {"input": input.astype(self._dtype)})
        return {name: array.tolist() for name, array in zip(self._outputs, arrays, strict=True)}


if __name__ == "__main__":
    os.environ["MODEL"] = sys.argv[2]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.environ["BENTOML_HOME"] = str(Path.cwd())
    address = ["--host", "127.0.0.1", "--port", sys.argv[1]]
    directory = ["--working-dir", str(Path(__file__).parent)]
    command = [sys.executable, "-m", "bentoml", "serve", "server:OnnxService", *address, *directory]
    os.execv(sys.executable, command)
