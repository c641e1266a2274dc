"""A worker's server in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from gateway.codec.predict.image_settings import ImageSettings
from gateway.metrics.tally import Tally
from gateway.serving import Batching
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import LoadedModel

DIGEST = "sha256:" + "ab" * 32


@contextmanager
def worker(
    model: LoadedModel,
    name: str = "echo",
    labels: Mapping[str, Sequence[str]] | None = None,
    batching: Batching | None = None,
    image: ImageSettings | None = None,
) -> Iterator[str]:
    """Serve a model as version v1 of `name`; yield the server's address."""
    options = AppOptions(labels=labels or {}, batching=batching, image=image)
    app = build_app(Identity(name, "v1", DIGEST), model, Tally(), options)
    server = HttpServer(app, "127.0.0.1")
    server.start()
    try:
        yield f"{server.host}:{server.port}"
    finally:
        server.stop()
        app.stop()
        model.close()
