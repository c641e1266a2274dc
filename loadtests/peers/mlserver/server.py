"""MLServer with a model class of its own, in its process: `server.py PORT MODEL [COUNT]`.

With COUNT, so many models are made of the file: m0, m1, and so on.

`parallel_workers` 0 is quicker here than its default, a process for the model; no log of calls.
"""

import asyncio
import socket
import sys

import onnxruntime as ort
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(self.settings.parameters.uri, options)
        self._outputs = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        arrays = self._session.run(self._outputs, inputs)
        outputs = [
            NumpyCodec.encode_output(name, array) for name, array in zip(self._outputs, arrays, strict=True)
        ]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


async def main(port: int, model: str, names: list[str]) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=free_port(),
        metrics_port=free_port(),
        parallel_workers=0,
        debug=False,
    )
    parameters = ModelParameters(uri=model)
    await MLServer(settings).start(
        [ModelSettings(name=name, implementation=OnnxModel, parameters=parameters) for name in names]
    )


if __name__ == "__main__":
    names = [f"m{number}" for number in range(int(sys.argv[3]))] if len(sys.argv) > 3 else ["model"]
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], names))
