"""KServe's client, with raw tensors and with JSON, in a Python of its own: `python … ADDRESS SAMPLES`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx  # type: ignore[import-not-found]
import numpy as np
from kserve import (  # type: ignore[import-not-found]
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput  # type: ignore[import-not-found]

from tests.clients.script import Refused, main


class KServe:
    """A client that asks for no metadata and knows no versions: a version is named with the model."""

    def __init__(self, address: str, binary: bool) -> None:
        self._url = f"http://{address}"
        self._binary = binary

    def is_live(self) -> bool:
        return bool(self._run("is_server_live", self._url))

    def is_ready(self) -> bool:
        return bool(self._run("is_server_ready", self._url))

    def is_model_ready(self, model: str, version: str = "") -> bool:
        try:
            return bool(self._run("is_model_ready", self._url, _named(model, version)))
        except httpx.HTTPStatusError:
            return False

    def metadata(self, model: str, version: str = "") -> None:
        return None

    def infer(
        self, model: str, version: str, name: str, datatype: str, array: Any, outputs: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        tensor = InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=self._binary)
        request = InferRequest(
            model,
            [tensor],
            request_outputs=[RequestedOutput(output, {"binary_data": self._binary}) for output in outputs]
            or None,
            parameters={"binary_data_output": self._binary},
        )
        try:
            answer = self._run("infer", self._url, request, model_name=_named(model, version))
        except httpx.HTTPStatusError as error:
            raise Refused(str(error)) from error
        return {output.name: np.asarray(output.as_numpy()).reshape(output.shape) for output in answer.outputs}

    def _run(self, method: str, *arguments: Any, **named: Any) -> Any:
        async def call() -> Any:
            client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20, retries=0))
            try:
                return await getattr(client, method)(*arguments, **named)
            finally:
                await client.close()

        return asyncio.run(call())


def _named(model: str, version: str) -> str:
    return f"{model}/versions/{version}" if version else model


if __name__ == "__main__":
    main({"raw": KServe(sys.argv[1], binary=True), "json": KServe(sys.argv[1], binary=False)})
