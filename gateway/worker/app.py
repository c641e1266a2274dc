"""One version's interface: who may call, and which protocol handler answers.

A body's way from the socket to the runtime and back enters ten files:

     1. wire/connection.py      bytes become a request, in the order of the connection
     2. wire/exchange.py        holds the request, and later writes the answer
     3. worker/app.py           finds what answers the path
     4. worker/calls.py         makes a job of the call, for worker/rest.py
     5. engine/jobs.py          the job waits for the model, within limits; a quick one need not
     6. engine/thread.py        the job's turn comes
     7. engine/execution.py     decode, infer, encode
     8. codec/json_request.py   the body becomes tensors
     9. runtimes/onnx.py        tensors become tensors, in this or another runtime
    10. codec/json_answer.py    tensors become the answer's body

The answer goes back through 7, 6, 4, 2 and 1. For gRPC, worker/grpc.py and codec/grpc.py stand in place of
4, 8 and 10; for the OpenAI API on a model of texts, worker/embeddings.py and codec/openai/ in place of
worker/rest.py, 8 and 10; for calls as people write them, worker/predict.py and codec/predict/. Where calls
run together, engine/batch_work.py takes them in step 6, and engine/batching.py cuts the batches.

For a language model, worker/openai_relay.py stands in place of 4 and codec/openai/request.py in place of 8.
The call waits in engine/generation.py and goes to the model's own process by wire/upstream.py; its answer
comes back through codec/openai/events.py and worker/openai_call.py.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from functools import lru_cache

from gateway.contract import Mirroring
from gateway.wire.exchange import Exchange
from gateway.wire.headers import EDGE
from gateway.wire.texts import unknown_path, wrong_method
from gateway.worker.capabilities import Capability
from gateway.worker.protocol import Answer, OpenInferenceErrors, ProtocolHandler, Route
from gateway.worker.version import ROLES, ServedVersion

_ROLES: Mapping[bytes, str] = {role.encode(): role for role in ROLES}
_REMEMBERED_ROUTES = 256
_BUSY = 503
_AGAIN = b"retry-after: 1\r\n"


class WorkerApp:
    """Answers calls on one loaded model, by the protocol that each is of; see `exchange.Handler`.

    Which model and version a path names is the edge's concern; here only what it asks of them counts.
    """

    def __init__(
        self,
        version: ServedVersion,
        capabilities: Sequence[Capability],
        handlers: Sequence[ProtocolHandler],
    ) -> None:
        self.max_body = version.options.max_body
        self._edge_key = version.options.edge_key.encode()
        self._tally = version.tally
        self.payloads = version.payloads
        """Which calls are recorded, and the records."""
        self._capabilities = capabilities
        self._handlers = handlers
        self._streams: Mapping[str, Answer] = {
            path: answer for handler in handlers for path, answer in handler.streams.items()
        }
        self._nowhere = Route(OpenInferenceErrors(version.headers), {})
        self._route = lru_cache(_REMEMBERED_ROUTES)(self._find_route)

    @property
    def queued(self) -> int:
        """How many calls wait for the model."""
        return sum(capability.queued for capability in self._capabilities)

    @property
    def not_batched(self) -> str:
        """Why calls run one by one although they were to run together, "" where they do not."""
        return next(filter(None, (capability.not_batched for capability in self._capabilities)), "")

    def mirror(self, mirroring: Mirroring | None) -> None:
        """Have a share of the calls mirrored from now on, or none; may be called from any thread."""
        for capability in self._capabilities:
            capability.set_mirroring(mirroring)

    def is_alive(self) -> bool:
        """Whether the model still takes calls."""
        return all(capability.is_alive() for capability in self._capabilities)

    def failure(self) -> str:
        """Return why the model takes no more calls, "" while it does."""
        ended = [capability for capability in self._capabilities if not capability.is_alive()]
        return ended[0].failure() if ended else ""

    def give_up(self) -> None:
        """Answer the calls inside with errors, once the model takes no more; from any thread."""
        for capability in self._capabilities:
            capability.give_up()

    def stop(self) -> None:
        """Finish the calls that wait for the model; it takes no more."""
        for capability in self._capabilities:
            capability.stop()

    def head(self, exchange: Exchange) -> None:
        """Turn away who comes around the edge, before the body comes; offer streams to their handlers."""
        key = self._edge_key
        if key and not hmac.compare_digest(exchange.headers.get(EDGE, b""), key):
            exchange.keep_alive = False
            self._route_of(exchange).errors(exchange, "", 403, "call the edge, not its workers")
            return
        take = self._streams.get(exchange.path)
        if take is not None:
            take(exchange, _role(exchange))

    def handle(self, exchange: Exchange) -> None:
        """Answer a call: at once, or once the model has."""
        method = exchange.method
        route = self._route(exchange.path, exchange.headers.get(b"content-type", b""))
        answer = route.methods.get(method)
        if answer is not None:
            answer(exchange, _role(exchange))
        elif route.methods:
            allowed = next(iter(route.methods))
            text = wrong_method(method, allowed)
            route.errors(exchange, _role(exchange), 405, text, b"allow: %s\r\n" % allowed.encode())
        else:
            route.errors(exchange, _role(exchange), 404, unknown_path(exchange.path, route.advice))

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """Answer a call that the server refuses."""
        role = _role(exchange)
        self._tally.refused(role, status)
        self._route_of(exchange).errors(exchange, role, status, text, _AGAIN if status == _BUSY else b"")

    def _route_of(self, exchange: Exchange) -> Route:
        return self._route(exchange.path, exchange.headers.get(b"content-type", b""))

    def _find_route(self, path: str, content_type: bytes) -> Route:
        """Ask the handlers, in their order, for the route of a path."""
        for handler in self._handlers:
            route = handler.route(path, content_type)
            if route is not None:
                return route
        return self._nowhere


def _role(exchange: Exchange) -> str:
    """Return the role in which the edge calls: `stable`, `canary`, or "" where it says none."""
    return _ROLES.get(exchange.headers.get(b"modelkit-role", b""), "")
