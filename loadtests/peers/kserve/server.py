"""KServe's model server, REST alone, one worker: `server.py PORT MODEL`; no log of calls."""

import sys
import uuid

import onnxruntime as ort
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.protocol.rest import server as rest
from kserve.utils.numpy_codec import from_np_dtype


class OnnxModel(Model):
    def __init__(self, path: str) -> None:
        super().__init__("model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path, options)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.ready = True

    def predict(
        self, payload: InferRequest, headers: dict | None = None, response_headers: dict | None = None
    ) -> InferResponse:
        inputs = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        outputs = []
        for name, array in zip(self._outputs, self._session.run(self._outputs, inputs), strict=True):
            output = InferOutput(name, list(array.shape), from_np_dtype(array.dtype))
            output.set_data_from_numpy(array, binary_data=False)
            outputs.append(output)
        # Its answers must have an id, also where the call has none.
        return InferResponse(payload.id or str(uuid.uuid4()), "model", outputs)


class LoopbackConfig(rest.uvicorn.Config):
    """A configuration that listens on loopback: the server listens everywhere, and has no option for that."""

    def __init__(self, *arguments: object, host: str, **options: object) -> None:
        super().__init__(*arguments, host="127.0.0.1", **options)


if __name__ == "__main__":
    port, path = sys.argv[1:]
    rest.uvicorn.Config = LoopbackConfig
    sys.argv[1:] = []
    server = ModelServer(http_port=int(port), workers=1, enable_grpc=False, enable_latency_logging=False)
    server.start([OnnxModel(path)])
