"""A version that runs, or should: one kit digest under one model's name, and how it is run."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from gateway.contract import AppName
from gateway.control.state.desired import DesiredModel
from gateway.kits.policy import ANYTHING
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, Reference
from gateway.serving import (
    LOAD_SECONDS,
    NO_ENGINE,
    NO_GENERATION,
    NOTHING_STATED,
    Engine,
    Generation,
    Serving,
)

# So many models and versions at least take no time while they stay as they are.
_REMEMBERED = 4096
_APP_NAME = re.compile(r".+\.[0-9a-f]{12}\.[0-9a-f]{8}\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the applications of equal versions have in common: all but their number."""

    model: str
    label: str
    digest: Digest
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.model}.{self.label}.{self.digest.short}.{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Version:
    """One Serve application, named `app`.

    The name ends with a number: an application that is being deleted is not taken for its successor.
    """

    app: AppName
    model: str
    reference: PinnedReference
    runtime: str | None
    """The name of the runtime; None: by the kit's files."""
    policy: str
    """The fingerprint of the policy that the kit is judged by; "" for the one that allows every kit."""
    serving: Serving
    file: str | None = None
    """The model's path within the kit; None: as the Kitfile has it."""
    parents: tuple[PinnedReference, ...] = ()
    """The kit's parents, where the config says which; else those that the Kitfiles' tags meant first."""
    kind: Kind = field(init=False)
    """Changes with anything that needs other workers."""

    def __post_init__(self) -> None:
        kind = Kind(self.model, self.label, self.digest, _fingerprint(self))
        object.__setattr__(self, "kind", kind)

    @property
    def label(self) -> str:
        """The tag, or the digest's first 12 digits: what clients call it."""
        return self.reference.label

    @property
    def digest(self) -> Digest:
        """The kit's digest."""
        return self.reference.digest

    @property
    def parent_references(self) -> tuple[Reference, ...]:
        """The parents that the config gives to the kit."""
        return tuple(parent.reference for parent in self.parents)


@lru_cache(_REMEMBERED)
def version_of(model: DesiredModel, reference: PinnedReference, number: int) -> Version:
    """Return the version that a pinned reference means for a model, as application `number` of its kind.

    Each tick asks for the version of each model again, and a fingerprint takes longer than all else.
    """
    policy = "" if model.policy == ANYTHING else model.policy.fingerprint
    version = Version(
        AppName(""),
        model.name,
        reference,
        model.runtime,
        policy,
        model.serving,
        model.file_of(reference),
        model.parents_of(reference),
    )
    return replace(version, app=AppName(f"{version.kind}.{number}"))


def memory_key(version: Version) -> str:
    """Return what is equal for versions whose workers take the same memory, whatever model they are of."""
    serving = version.serving
    facts = [
        version.runtime,
        version.file,
        _stated(serving.engine),
        None if serving.batching is None else serving.batching.max_batch_size,
        [str(parent) for parent in version.parents],
    ]
    settings = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    return f"{version.digest} {settings}"


def is_version(name: str) -> bool:
    """Tell whether a Serve application has the name of a version; others may share the cluster."""
    return _APP_NAME.fullmatch(name) is not None


def _stated(value: Engine | Generation) -> dict[str, Any]:
    """Return the settings that have a value."""
    return {name: content for name, content in asdict(value).items() if content not in (None, ())}


def _fingerprint(version: Version) -> str:
    """Return 8 hex digits that are equal where the same workers will do."""
    serving = version.serving
    facts = [
        version.model,
        str(version.reference),
        version.runtime,
        version.policy,
        {name: value for name, value in asdict(serving.resources).items() if value is not None},
        None if serving.batching is None else asdict(serving.batching),
        {name: value for name, value in asdict(serving.queue).items() if value is not None},
    ]
    if serving.load_timeout != LOAD_SECONDS:
        # Only then: versions of earlier releases keep their fingerprint.
        facts.append({"load_timeout": serving.load_timeout})
    if serving.stated != NOTHING_STATED:
        # Only then: versions of earlier releases keep their fingerprint.
        facts.append(asdict(serving.stated))
    if version.file is not None:
        # Only then, so that versions of before there were files keep their names.
        facts.append({"file": version.file})
    if version.parents:
        # Only then, as those of a kit do not change otherwise.
        facts.append({"parents": [str(parent) for parent in version.parents]})
    if serving.engine != NO_ENGINE:
        # Only what is said, so that an option of a later release changes no name.
        facts.append({"engine": _stated(serving.engine)})
    if serving.generation != NO_GENERATION:
        facts.append({"generation": _stated(serving.generation)})
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
