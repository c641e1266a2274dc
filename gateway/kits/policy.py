"""The policy of what may be served, and its rule for registries, which needs nothing of a kit."""

import hashlib
import json
from dataclasses import dataclass

from gateway.errors import NotTrusted
from gateway.kits.public_keys import PublicKey
from gateway.oci.reference import Digest, Reference, RegistryReference
from runtimes.python.requirements import Sources


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be served; a rule that is empty allows every kit, but no kit to run code.

    `registries` are HOST[:PORT][/PATH], where a path includes all below it, and the words "oci-layout" and
    "kit" for kits on disk. `licenses` are SPDX identifiers. With `keys`, a kit must be signed by one of them.
    Formats that run code when they are loaded are allowed to the kits in `code_digests`, and with
    `code_if_signed` to every signed kit. `known_pickles` allows pickles of known libraries. Raises ValueError
    for `code_if_signed` without keys.
    """

    registries: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    keys: tuple[PublicKey, ...] = ()
    code_digests: tuple[Digest, ...] = ()
    code_if_signed: bool = False
    requirements: Sources = Sources.KIT
    """Where the packages may come from that the Python of a kit asks for, which is allowed to run code."""
    known_pickles: bool = True

    def __post_init__(self) -> None:
        if self.code_if_signed and not self.keys:
            raise ValueError("code is to be allowed if signed, and no keys are given; name at least one")

    @property
    def fingerprint(self) -> str:
        """16 hex digits that are the same for equal policies in every process."""
        fields = [
            self.registries,
            self.licenses,
            [(key.name, key.pem) for key in self.keys],
            [str(digest) for digest in self.code_digests],
            self.code_if_signed,
        ]
        if self.requirements is not Sources.KIT:
            fields.append(self.requirements)
        if not self.known_pickles:
            # Only then: policies of earlier releases keep their fingerprint.
            fields.append(self.known_pickles)
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


ANYTHING = Policy()
"""The policy that allows every kit, and no kit to run code."""


def judge_registry(reference: Reference, policy: Policy) -> str:
    """Return why the policy allows a reference's registry. Raises NotTrusted where it does not."""
    if not policy.registries:
        return "any registry is allowed"
    for entry in policy.registries:
        if _is_in(reference, entry):
            return f"{entry} is an allowed registry"
    raise NotTrusted(
        f"{reference}: the policy allows kits from {', '.join(policy.registries)} only; "
        "add its registry to the policy's `registries`, or copy the kit to one of them"
    )


def _is_in(reference: Reference, entry: str) -> bool:
    if not isinstance(reference, RegistryReference):
        return entry == str(reference).partition(":")[0]
    host, _, path = entry.rstrip("/").partition("/")
    repository = reference.repository
    return host.lower() == reference.host and (not path or f"{repository}/".startswith(f"{path}/"))
