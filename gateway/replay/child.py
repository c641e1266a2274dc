"""The process that serves the candidate: a worker without Ray, contained as every worker is.

It reads a `WorkerSpec` from its standard input, writes one line of JSON to its standard output (where it
listens, or why it does not), and serves until its input ends, as it does when who started it is gone.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from functools import partial
from typing import Any

from gateway.contract import WorkerSpec
from gateway.errors import KitserveError, reason_of
from gateway.home import keep_private
from gateway.logs.events import configure_logging
from gateway.metrics.tally import Tally
from gateway.proxies import bypass_proxies
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.containment import WorkerContainment
from gateway.worker.load_limit import LoadLimit
from gateway.worker.loading import Loader, OpenedKit, ServableModel, closed_on_failure
from gateway.worker.version import Identity
from runtimes.base import TensorModel


def main() -> None:
    """Serve the candidate that the standard input names."""
    keep_private()
    bypass_proxies()
    # The sender is the `kitserve replay` that started this process.
    spec: WorkerSpec = pickle.load(sys.stdin.buffer)  # noqa: S301
    # What libraries print must not get among the messages.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(**fields: Any) -> None:
        messages.write(json.dumps(fields) + "\n")
        messages.flush()

    configure_logging("replay", spec.node.home)
    try:
        _serve(spec, send)
    except Exception as error:
        send(error=reason_of(error), is_kits=isinstance(error, KitserveError))
        sys.exit(1)


def _serve(spec: WorkerSpec, send: Any) -> None:
    def note(**changes: object) -> None:
        if detail := changes.get("detail"):
            send(detail=str(detail))

    def give_up(failure: KitserveError) -> None:
        send(error=str(failure), is_kits=True)
        os._exit(1)

    tally = Tally()
    limit = LoadLimit(spec.node.home, spec.app, spec.serving.load_timeout, give_up)
    loader = Loader(spec, tally, note, limit)
    opened = loader.open()
    contained = WorkerContainment(spec.node.home, opened.kit.path, opened.compiled)
    try:
        servable = _load(loader, opened, contained)
        identity = Identity(spec.model, spec.reference.label, str(spec.reference.digest))
        with closed_on_failure(servable.model):
            app = build_app(identity, servable.model, tally, servable.options)
        server = HttpServer(app, spec.node.host)
        server.start()
        is_tensors = isinstance(servable.model, TensorModel)
        send(host=server.host, port=server.port, runtime=servable.runtime, is_text=not is_tensors)
        sys.stdin.buffer.read()
        server.stop()
        app.stop()
        servable.model.close()
    finally:
        contained.close()


def _load(loader: Loader, opened: OpenedKit, contained: WorkerContainment) -> ServableModel:
    """Load the model in this process or a child, as `replica.Worker` does."""
    contain = partial(contained.contain, has_child=opened.has_child)
    if opened.has_child:
        servable = loader.load(opened, contain)
        contain()
        return servable
    contain(tries_first=opened.tries_first)
    servable = loader.load(opened, lambda: None)
    if opened.tries_first:
        contained.seal()
    return servable


if __name__ == "__main__":
    main()
