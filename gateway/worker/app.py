"""One version's interface, REST and gRPC: who may call, and which path is answered by what."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from gateway.codec.json_answer import error
from gateway.contract import Mirroring
from gateway.engine.limits import DEFAULT_LIMITS, Batching, QueueLimits
from gateway.engine.thread import ComputeThread
from gateway.metrics.tally import Tally
from gateway.wire.exchange import Exchange, lines
from gateway.wire.grpc_calls import is_grpc
from gateway.wire.limits import BODY_BYTES
from gateway.wire.texts import unknown_path, wrong_method
from gateway.worker.describe import configuration, metadata
from gateway.worker.grpc import STREAM_INFER, ModelGrpc
from gateway.worker.grpc_job import GrpcCodec
from gateway.worker.mirror import MIRROR_PATH, Mirror
from gateway.worker.mirrored import MirroredInfer
from gateway.worker.rest import JSON, RestCodec, RestInfer
from runtimes.base import LoadedModel

_ROLES: Mapping[bytes, str] = {b"stable": "stable", b"canary": "canary"}
_ACTIONS = frozenset({"", "infer", "ready", "config"})
_NO_LABELS: Mapping[str, Sequence[str]] = {}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a version is called: the model's name, its tag (or short digest), and its digest."""

    model: str
    version: str
    digest: str


class WorkerApp:
    """Answers `infer`, `ready`, metadata and configuration for one loaded model; see `exchange.Handler`.

    Which model and version a path names is the edge's concern; here only what it asks of them counts.
    `labels` are the names of the classes that outputs have, see `answers.Encoder`.
    """

    def __init__(
        self,
        identity: Identity,
        model: LoadedModel,
        tally: Tally,
        edge_key: str = "",
        labels: Mapping[str, Sequence[str]] = _NO_LABELS,
        limits: QueueLimits = DEFAULT_LIMITS,
        batching: Batching | None = None,
        max_body: int = BODY_BYTES,
    ) -> None:
        self.max_body = max_body
        self._edge_key = edge_key.encode()
        self._tally = tally
        self.compute = ComputeThread(model, tally, limits, asdict(identity), batching)
        self._documents: Mapping[str, bytes] = {
            "": metadata(identity.model, identity.version, model.platform, model.signature),
            "ready": b'{"name":"%s","ready":true}' % identity.model.encode(),
            "config": configuration(identity.model, model.platform, model.signature, self.compute.batching),
        }
        names = [
            (b"modelkit-digest", identity.digest.encode()),
            (b"modelkit-version", identity.version.encode()),
        ]
        self._names: Mapping[str, bytes] = {
            "": lines(names),
            "stable": lines([*names, (b"modelkit-role", b"stable")]),
            "canary": lines([*names, (b"modelkit-role", b"canary")]),
        }
        codec = RestCodec(identity.model, identity.version, model.signature, labels)
        self._infer = RestInfer(codec, self.compute, tally, self._names, max_body)
        self._mirrored = MirroredInfer(codec, self.compute, tally)
        self._grpc = ModelGrpc(
            GrpcCodec(identity.model, identity.version, labels),
            self.compute,
            tally,
            self._names,
            max_body,
            self._documents[""],
            self._documents["config"],
        )

    def mirror(self, mirroring: Mirroring | None) -> None:
        """Have a share of the calls mirrored from now on, or none; may be called from any thread."""
        mirror = self._infer.mirror
        if mirroring == (None if mirror is None else mirror.mirroring):
            return
        self._infer.mirror = None if mirroring is None else Mirror(mirroring, self._tally, self._edge_key)
        if mirror is not None:
            mirror.stop()

    def head(self, exchange: Exchange) -> None:
        """Turn away who comes around the edge, before the body comes."""
        key = self._edge_key
        if key and not hmac.compare_digest(exchange.headers.get(b"kitserve-edge", b""), key):
            exchange.keep_alive = False
            self._respond(exchange, 403, error("call the edge, not its workers"), "")
        elif exchange.path == STREAM_INFER:
            self._grpc.head(exchange, _role(exchange))

    def handle(self, exchange: Exchange) -> None:
        """Answer a call: at once, or once the model has."""
        action, method, role = _action(exchange.path), exchange.method, _role(exchange)
        if action == "infer" and method == "POST":
            self._infer(exchange, role)
        elif action is None and is_grpc(exchange):
            self._grpc.handle(exchange, role)
        elif exchange.path == MIRROR_PATH and method == "POST":
            self._mirrored(exchange)
        elif action is None:
            self._respond(exchange, 404, error(unknown_path(exchange.path)), role)
        elif action != "infer" and method in ("GET", "HEAD"):
            self._respond(exchange, 200, self._documents[action], role)
        else:
            allowed = "POST" if action == "infer" else "GET"
            self._respond(
                exchange, 405, error(wrong_method(method, allowed)), role, b"allow: %s\r\n" % allowed.encode()
            )

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """Answer a call that the server refuses."""
        role = _role(exchange)
        if is_grpc(exchange):
            self._grpc.refuse(exchange, status, text, role)
            return
        self._tally.refused(role, status)
        self._respond(exchange, status, error(text), role)

    def _respond(self, exchange: Exchange, status: int, body: bytes, role: str, extra: bytes = b"") -> None:
        exchange.respond(status, JSON + self._names[role] + extra, body)


def _role(exchange: Exchange) -> str:
    """Whose turn the edge says it is: the stable version's or the canary's."""
    return _ROLES.get(exchange.headers.get(b"modelkit-role", b""), "")


@lru_cache(maxsize=256)
def _action(path: str) -> str | None:
    """What a path asks of the model it names: one of `_ACTIONS`, "" being metadata, or None."""
    parts = path.split("/")
    if parts[1:3] == ["v2", "models"] and len(parts) > 3:
        rest = parts[6:] if parts[4:5] == ["versions"] and len(parts) > 5 else parts[4:]
        action = "/".join(rest)
        return action if action in _ACTIONS else None
    return "ready" if parts[1:] == ["v2", "health", "ready"] else None
