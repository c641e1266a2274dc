"""NVIDIA's client over gRPC, call by call and as a stream: `python -m … ADDRESS SAMPLES`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from queue import Queue
from typing import Any

from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.clients.script import Refused, main

_ANSWER_SECONDS = 20


class TritonGrpc:
    """A client whose calls are each a call of its own, or a message of a stream."""

    def __init__(self, address: str, streams: bool) -> None:
        self._client = InferenceServerClient(address)
        self._streams = streams

    def is_live(self) -> bool:
        return bool(self._client.is_server_live())

    def is_ready(self) -> bool:
        return bool(self._client.is_server_ready())

    def is_model_ready(self, model: str, version: str = "") -> bool:
        return bool(self._client.is_model_ready(model, version))

    def metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        metadata = self._client.get_model_metadata(model, version)
        inputs = [{"name": tensor.name, "datatype": tensor.datatype} for tensor in metadata.inputs]
        return {"name": metadata.name, "versions": list(metadata.versions), "inputs": inputs}

    def infer(
        self, model: str, version: str, name: str, datatype: str, array: Any, outputs: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        tensor = InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        wanted = [InferRequestedOutput(output) for output in outputs] or None
        try:
            result = (self._stream if self._streams else self._client.infer)(model, [tensor], version, wanted)
        except InferenceServerException as error:
            raise Refused(error.message()) from error
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def _stream(self, model: str, inputs: list[Any], version: str, outputs: list[Any] | None) -> Any:
        answers: Queue[tuple[Any, Exception | None]] = Queue()
        self._client.start_stream(lambda result, error: answers.put((result, error)))
        try:
            self._client.async_stream_infer(model, inputs, version, outputs)
            result, error = answers.get(timeout=_ANSWER_SECONDS)
        finally:
            self._client.stop_stream()
        if error is not None:
            raise error
        return result


if __name__ == "__main__":
    main({"unary": TritonGrpc(sys.argv[1], streams=False), "stream": TritonGrpc(sys.argv[1], streams=True)})
