"""KServe's gRPC client, with raw and typed contents, in a Python of its own: `python … ADDRESS SAMPLES`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest  # type: ignore[import-not-found]
from kserve.protocol.infer_type import RequestedOutput  # type: ignore[import-not-found]

from tests.clients.script import Refused, main


class KServe:
    """A client that asks for no metadata. Where a message has no version, a header names it."""

    def __init__(self, address: str, binary: bool) -> None:
        self._address = address
        self._binary = binary

    def is_live(self) -> bool:
        return bool(self._run("is_server_live"))

    def is_ready(self) -> bool:
        return bool(self._run("is_server_ready"))

    def is_model_ready(self, model: str, version: str = "") -> bool:
        headers = [("modelkit-version", version)] if version else None
        return bool(self._run("is_model_ready", model, headers=headers))

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
            model_version=version,
            request_outputs=[RequestedOutput(output) for output in outputs] or None,
        )
        try:
            answer = self._run("infer", request)
        except grpc.RpcError as error:
            raise Refused(str(error.details())) from error
        return {output.name: np.asarray(output.as_numpy()).reshape(output.shape) for output in answer.outputs}

    def _run(self, method: str, *arguments: Any, **named: Any) -> Any:
        async def call() -> Any:
            async with InferenceGRPCClient(self._address, timeout=20, retries=0) as client:
                return await getattr(client, method)(*arguments, **named)

        return asyncio.run(call())


if __name__ == "__main__":
    main({"raw": KServe(sys.argv[1], binary=True), "typed": KServe(sys.argv[1], binary=False)})
