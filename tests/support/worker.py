"""A worker's server in this process, with a model that gives back what it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from gateway.engine.limits import Batching
from gateway.metrics.tally import Tally
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Array, InputCheck, LoadedModel, Signature, TensorSpec, unknown_output

DIGEST = "sha256:" + "ab" * 32


class Echo:
    """Gives back what it is given, an input `x_…` as `y_…`."""

    platform = "test_echo"
    device = "cpu"

    def __init__(self, *specs: TensorSpec) -> None:
        outputs = tuple(TensorSpec(f"y{at.name[1:]}", at.datatype, at.shape) for at in specs)
        self.signature = Signature(specs, outputs)
        self._check = InputCheck(self.signature)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self._check(inputs)
        given = {f"y{name[1:]}": array for name, array in inputs.items()}
        for name in outputs:
            if name not in given:
                raise unknown_output(name, tuple(given))
        return {name: given[name] for name in outputs or given}

    def close(self) -> None:
        pass


@contextmanager
def worker(
    model: LoadedModel,
    name: str = "echo",
    labels: Mapping[str, Sequence[str]] | None = None,
    batching: Batching | None = None,
) -> Iterator[str]:
    """Serve a model as version v1 of `name`; yields the server's address."""
    options = AppOptions(labels=labels or {}, batching=batching)
    app = build_app(Identity(name, "v1", DIGEST), model, Tally(), options)
    server = HttpServer(app, "127.0.0.1")
    server.start()
    try:
        yield f"{server.host}:{server.port}"
    finally:
        server.stop()
        app.stop()
        model.close()
