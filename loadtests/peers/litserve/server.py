"""LitServe, one worker and one API process: `server.py PORT MODEL`. Its requests are what the API decodes."""

import sys

import litserve
import numpy as np
import onnxruntime as ort

DTYPES = {"FP32": np.float32, "INT64": np.int64}
DATATYPES = {"float32": "FP32", "int64": "INT64"}


class OnnxApi(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(sys.argv[2], options)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def decode_request(self, request: dict) -> dict:
        return {
            tensor["name"]: np.array(tensor["data"], DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
            for tensor in request["inputs"]
        }

    def predict(self, inputs: dict) -> list:
        return self._session.run(self._outputs, inputs)

    def encode_response(self, arrays: list) -> dict:
        outputs = [
            {
                "name": name,
                "datatype": DATATYPES[array.dtype.name],
                "shape": list(array.shape),
                "data": array.ravel().tolist(),
            }
            for name, array in zip(self._outputs, arrays, strict=True)
        ]
        return {"model_name": "model", "outputs": outputs}


if __name__ == "__main__":
    server = litserve.LitServer(
        OnnxApi(api_path="/v2/models/model/infer"), accelerator="cpu", devices=1, workers_per_device=1
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
