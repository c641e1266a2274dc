"""NVIDIA's client over HTTP, with raw tensors and with JSON: `python -m … ADDRESS SAMPLES`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.clients.script import Refused, main


class TritonHttp:
    """A client whose tensors travel as raw bytes, or as JSON."""

    def __init__(self, address: str, binary: bool, coding: str | None = None) -> None:
        self._client = InferenceServerClient(address)
        self._binary = binary
        self._coding = coding

    def is_live(self) -> bool:
        return bool(self._client.is_server_live())

    def is_ready(self) -> bool:
        return bool(self._client.is_server_ready())

    def is_model_ready(self, model: str, version: str = "") -> bool:
        return bool(self._client.is_model_ready(model, version))

    def metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        metadata: Mapping[str, Any] = self._client.get_model_metadata(model, version)
        return metadata

    def infer(
        self, model: str, version: str, name: str, datatype: str, array: Any, outputs: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        tensor = InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=self._binary)
        wanted = [InferRequestedOutput(output, binary_data=self._binary) for output in outputs] or None
        try:
            result = self._client.infer(
                model,
                [tensor],
                version,
                wanted,
                request_compression_algorithm=self._coding,
                response_compression_algorithm=self._coding,
            )
        except InferenceServerException as error:
            raise Refused(error.message()) from error
        return {
            output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]
        }


if __name__ == "__main__":
    main(
        {
            "raw": TritonHttp(sys.argv[1], binary=True),
            "json": TritonHttp(sys.argv[1], binary=False),
            "gzip": TritonHttp(sys.argv[1], binary=True, coding="gzip"),
        }
    )
