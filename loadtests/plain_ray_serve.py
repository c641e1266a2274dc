"""The same model in Ray Serve as its documentation has it: a FastAPI ingress calls a model's deployment.

Run as `python -m loadtests.plain_ray_serve PORT MODEL`. Each deployment has one replica, behind Serve's
HTTP proxy, in a Ray of its own. Options are Serve's defaults, with three exceptions in its favour: 512
calls may wait, no call is logged, and the handle carries bytes.
"""

# No `from __future__ import annotations`: FastAPI cannot read them in what Serve makes of the class.
import signal
import sys
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

from loadtests.plain_model import PlainModel

_MAX_ONGOING = 512
_ENDS = {signal.SIGTERM, signal.SIGINT}

app = FastAPI()


@serve.deployment(max_ongoing_requests=_MAX_ONGOING)
class Model:
    """The replica of the model."""

    def __init__(self, path: str) -> None:
        self._model = PlainModel(Path(path))

    def infer(self, body: bytes) -> bytes:
        """Answer one call."""
        return self._model.answer(body)


@serve.deployment(max_ongoing_requests=_MAX_ONGOING)
@serve.ingress(app)
class Ingress:
    """The replica of the HTTP side."""

    def __init__(self, model: DeploymentHandle[Any]) -> None:
        self._model = model

    @app.post("/v2/models/model/infer")
    async def infer(self, request: Request) -> Response:
        """Pass one call on."""
        answer = await self._model.infer.remote(await request.body())
        return Response(answer, media_type="application/json")


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    port, model = sys.argv[1:]
    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=4)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    application = Ingress.bind(Model.bind(model))  # type: ignore[attr-defined]  # Serve's decorators
    serve.run(application, logging_config={"enable_access_log": False})
    signal.sigwait(_ENDS)
    ray.shutdown()
