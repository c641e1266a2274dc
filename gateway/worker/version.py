"""The version that a worker serves, as its app and all protocol handlers see it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.codec.predict.image_settings import ImageSettings
from gateway.engine.running_bodies import RunningBodies
from gateway.logs.limits import Logged
from gateway.metrics.tally import Tally
from gateway.serving import DEFAULT_LIMITS, NO_GENERATION, Batching, Generation, QueueLimits
from gateway.tracing.call_trace import Tracer
from gateway.wire.exchange import lines
from gateway.wire.limits import BODY_BYTES
from gateway.worker.payloads import Payloads

ROLES = ("stable", "canary")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a version is called: the model's name, its tag (or short digest), and its digest."""

    model: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class AppOptions:
    """How a version is served."""

    edge_key: str = ""
    """What every call must carry, so that nobody gets around the edge; "" lets everybody call."""
    tls: ssl.SSLContext | None = None
    """How the canary's workers are called, see `WorkerTls.client_context`; None: in clear."""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The names of the classes that outputs have, by output; those under "" are of every other output."""
    limits: QueueLimits = DEFAULT_LIMITS
    batching: Batching | None = None
    """Which calls run together; None: each runs alone."""
    image: ImageSettings | None = None
    """How an image becomes the model's input; None where the kit says nothing of it."""
    max_body: int = BODY_BYTES
    generation: Generation = NO_GENERATION
    """What calls on a language model have that do not say it themselves: the kit's and the config's."""
    access_log: Logged = "off"
    """Which calls on a language model are logged: see `generated_log`."""
    lanes: int = 1
    """How many calls the model runs at once."""
    running: RunningBodies | None = None
    """Where it is written down what the model works on; None: nowhere."""
    is_proven: bool = False
    """Whether the model answered its first call, which had the likely datatypes where its file says none."""
    tracer: Tracer | None = None
    """Finds the calls that are traced; None: none are."""


class ServedVersion:
    """A version's names and options, the counters of its calls, and the headers that all its answers have."""

    def __init__(self, identity: Identity, tally: Tally, options: AppOptions) -> None:
        self.identity = identity
        self.tally = tally
        self.options = options
        self.payloads = Payloads()
        """Which of its calls are recorded."""
        names = [
            (b"modelkit-digest", identity.digest.encode()),
            (b"modelkit-version", identity.version.encode()),
        ]
        self.headers: Mapping[str, bytes] = {
            "": lines(names),
            **{role: lines([*names, (b"modelkit-role", role.encode())]) for role in ROLES},
        }
        """Header lines that say which version answers, by the role that the edge gave it."""
