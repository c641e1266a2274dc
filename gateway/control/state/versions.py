"""A version that runs, or should: one kit digest under one model's name, with its resources."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

from gateway.config.config import Model
from gateway.kits.trust import ANYTHING, Policy
from gateway.oci.reference import Digest, parse_reference

_APP = re.compile(r".+\.[0-9a-f]{12}\.[0-9a-f]{8}\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Version:
    """One Serve application, named `app`.

    `fingerprint` changes with anything that needs other workers. The name has a number besides: an
    application that is on its way out must not be taken for one that comes.
    """

    app: str
    fingerprint: str
    model: str
    label: str
    """The tag, or the digest's first 12 digits: what clients call it."""
    digest: str
    reference: str
    """Pinned to the digest."""
    runtime: str | None
    cpus: float
    gpus: float
    min_replicas: int
    max_replicas: int
    target_ongoing_requests: float
    trust: str = ""
    """The fingerprint of the policy that the kit is judged by, "" for the one that allows everything."""
    upscale_delay: float = 2.0
    """In seconds, as the other delays."""
    downscale_delay: float = 60.0
    downscale_to_zero_delay: float = 300.0
    max_batch_size: int = 0
    """The most rows of a batch; 0 where calls run one by one."""
    max_batch_delay: float = 0.0
    """In seconds, as the next."""
    timeout: float = 60.0
    """How long a call may wait for the model."""
    max_queued_requests: int = 512
    max_queued_bytes: int = 256 * 1024 * 1024
    wake_timeout: float = 60.0

    @property
    def may_sleep(self) -> bool:
        """Whether it has no worker while nobody calls it."""
        return self.min_replicas == 0

    @property
    def first_replicas(self) -> int:
        """How many workers prove that it can be served: one even of a version that may sleep."""
        return max(1, self.min_replicas)

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that clients may call it by."""
        return tuple(dict.fromkeys((self.label, self.digest, Digest.parse(self.digest).short)))


def version_of(model: Model, kit: str, digest: str, number: int, policy: Policy = ANYTHING) -> Version:
    """The version that `kit` means for `model` while it points at `digest`, as app `number` of its kind."""
    known = Digest.parse(digest)
    reference = parse_reference(kit).pinned(known)
    facts = {
        "model": model.name,
        "label": reference.label,
        "digest": digest,
        "reference": str(reference),
        "runtime": None if model.runtime == "auto" else model.runtime,
        "cpus": float(model.resources.cpus),
        "gpus": float(model.resources.gpus),
        "min_replicas": model.replicas.min,
        "max_replicas": model.replicas.max,
        "target_ongoing_requests": float(model.replicas.target_ongoing_requests),
        "upscale_delay": float(model.replicas.upscale_delay),
        "downscale_delay": float(model.replicas.downscale_delay),
        "downscale_to_zero_delay": float(model.replicas.downscale_to_zero_delay),
        "wake_timeout": float(model.replicas.wake_timeout),
        "max_batch_size": 0 if model.batching is None else model.batching.max_batch_size,
        "max_batch_delay": 0.0 if model.batching is None else float(model.batching.max_delay),
        "timeout": float(model.timeout),
        "max_queued_requests": model.queue.max_requests,
        "max_queued_bytes": int(model.queue.max_bytes),
        "trust": "" if policy == ANYTHING else policy.fingerprint,
    }
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    app = f"{model.name}.{reference.label}.{known.short}.{fingerprint}.{number}"
    return Version(app=app, fingerprint=fingerprint, **facts)  # type: ignore[arg-type]  # its own fields


def is_version(app: str) -> bool:
    """Whether a Serve application has the name of a version; others may share the cluster."""
    return _APP.fullmatch(app) is not None


def kind_of(app: str) -> str:
    """What every app of one fingerprint has in its name: all but the number."""
    return app.rpartition(".")[0]


def version_to_json(version: Version) -> str:
    """Write a version for the gateway's state."""
    return json.dumps(asdict(version))


def version_from_json(text: str) -> Version:
    """Read what `version_to_json` wrote."""
    return Version(**json.loads(text))
