"""What may be served: a policy, and the verdict on a kit.

Each rule must hold by itself. What the kit's own documents tell is judged before anything is asked for.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter

from gateway.errors import NotTrusted
from gateway.kits.kit import Kit
from gateway.kits.layer import Role
from gateway.kits.public_keys import PublicKey
from gateway.kits.signatures import find_signature
from gateway.oci.content import Source
from gateway.oci.reference import Digest, Reference, RegistryReference

__all__ = ["ANYTHING", "Policy", "PublicKey", "Verdict", "judge", "judge_registry", "together"]

_REASONS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Policy:
    """What a user lets be served; a rule that is left empty allows anything, but never code.

    `registries` are HOST[:PORT][/PATH], a path standing for all below it, and the words "oci-layout" and
    "kit" for what is on disk. `licenses` are SPDX identifiers. With `keys`, a kit must be signed by one of
    them. Formats that run code when they are loaded are for the kits in `code_digests`, and with
    `code_if_signed` for those that are signed. Raises ValueError where that could never come true.
    """

    registries: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    keys: tuple[PublicKey, ...] = ()
    code_digests: tuple[Digest, ...] = ()
    code_if_signed: bool = False

    def __post_init__(self) -> None:
        if self.code_if_signed and not self.keys:
            raise ValueError("code is to be allowed if signed, and no keys are given; name at least one")

    @property
    def fingerprint(self) -> str:
        """The same for equal policies, in every process: 16 hex digits."""
        fields = [
            self.registries,
            self.licenses,
            [(key.name, key.pem) for key in self.keys],
            [str(digest) for digest in self.code_digests],
            self.code_if_signed,
        ]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


ANYTHING = Policy()
"""Allows every kit, and no code."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """That a kit may be served, and why: in words, rule by rule.

    `code` says whether formats that run code may be loaded.
    """

    registry: str
    license: str
    signature: str
    code: bool
    code_reason: str

    @property
    def reasons(self) -> tuple[str, ...]:
        """All of it, for people."""
        return self.registry, self.license, self.signature, self.code_reason


_verdict = TypeAdapter(Verdict)


def judge(kit: Kit, policy: Policy, source: Callable[[], Source]) -> Verdict:
    """Return why the kit may be served; its parents are to be judged on their own.

    `source` opens where the kit is from, which is asked only for signatures, if `policy` has keys. Raises
    NotTrusted, and Unauthorized or RegistryUnavailable where the source cannot be asked.
    """
    registry = judge_registry(kit.reference, policy)
    license_ = _judge_license(kit, policy)
    signature = _judge_signature(kit, policy, source)
    code, code_reason = _judge_code(kit, policy)
    return Verdict(registry, license_, signature, code, code_reason)


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a kit with its parents, its own first; code must be allowed for each."""
    strictest = next((verdict for verdict in verdicts if not verdict.code), verdicts[0])
    return replace(verdicts[0], code=strictest.code, code_reason=strictest.code_reason)


def verdict_to_json(verdict: Verdict) -> str:
    """Write a verdict for the node."""
    return json.dumps(asdict(verdict))


def verdict_from_json(text: bytes) -> Verdict:
    """Read what `verdict_to_json` wrote; raises ValueError for anything else."""
    return _verdict.validate_json(text)


def judge_registry(reference: Reference, policy: Policy) -> str:
    """Return why kits may come from where a reference points; raises NotTrusted where they may not."""
    if not policy.registries:
        return "any registry is allowed"
    for entry in policy.registries:
        if _is_at(reference, entry):
            return f"{entry} is an allowed registry"
    raise NotTrusted(
        f"{reference}: the policy allows kits from {', '.join(policy.registries)} only; "
        "add its registry to the policy's `registries`, or copy the kit to one of them"
    )


def _is_at(reference: Reference, entry: str) -> bool:
    if not isinstance(reference, RegistryReference):
        return entry == str(reference).partition(":")[0]
    host, _, path = entry.rstrip("/").partition("/")
    repository = reference.repository
    return host.lower() == reference.host and (not path or f"{repository}/".startswith(f"{path}/"))


def _judge_license(kit: Kit, policy: Policy) -> str:
    stated = _licenses(kit)
    if not policy.licenses:
        return f"any license is allowed; the kit states {', '.join(stated) or 'none'}"
    allowed = frozenset(license_.lower() for license_ in policy.licenses)
    refused = [text for text in stated if not _is_allowed(text, allowed)]
    if stated and not refused:
        return f"{', '.join(stated)} is allowed"
    raise NotTrusted(
        f"{kit.reference}: the policy allows the licenses {', '.join(policy.licenses)} only, and the kit "
        f"states {', '.join(refused) or 'none'}; state one of them in its Kitfile and pack it again, or add "
        "the kit's to the policy's `licenses`"
    )


def _licenses(kit: Kit) -> tuple[str, ...]:
    """Return what the Kitfile states of itself and of what serving needs, each text once."""
    kitfile = kit.kitfile
    stated = [kitfile.package.license]
    if kitfile.model is not None:
        stated += [kitfile.model.license, *(part.license for part in kitfile.model.parts)]
    if any(layer.role is Role.CODE for layer in kit.needed_layers()):
        stated += [entry.license for entry in kitfile.code]
    return tuple(dict.fromkeys(text.strip() for text in stated if text and text.strip()))


def _is_allowed(text: str, allowed: frozenset[str]) -> bool:
    """Tell whether SPDX expressions, with commas between them, are allowed.

    "AND" binds more than "OR". One with parentheses or an exception must be listed as it is written.
    """

    def satisfied(expression: str) -> bool:
        return any(
            all(term.strip() in allowed for term in re.split(r"\sand\s", choice))
            for choice in re.split(r"\sor\s", expression)
        )

    return text.lower() in allowed or all(map(satisfied, text.lower().split(",")))


def _judge_signature(kit: Kit, policy: Policy, source: Callable[[], Source]) -> str:
    if not policy.keys:
        return "no signature is asked for"
    found = find_signature(source(), kit.digest, policy.keys)
    if found.key:
        return f"signed by {found.key} ({found.scheme})"
    names = ", ".join(key.name for key in policy.keys)
    advice = f"sign it with cosign and one of the keys that the policy asks for ({names})"
    if not found.refused:
        raise NotTrusted(f"{kit.reference} is not signed: nothing was found for {kit.digest}; {advice}")
    reasons = "; ".join(found.refused[:_REASONS_SHOWN])
    more = len(found.refused) - _REASONS_SHOWN
    raise NotTrusted(
        f"{kit.reference} has no valid signature: of those found for {kit.digest}, none can be used: "
        f"{reasons}{f'; and {more} more' if more > 0 else ''}; {advice}"
    )


def _judge_code(kit: Kit, policy: Policy) -> tuple[bool, str]:
    if kit.digest in policy.code_digests:
        return True, "code formats are allowed: the policy lists the kit's digest"
    if policy.code_if_signed:
        # With keys, a kit that is not signed has been refused by now.
        return True, "code formats are allowed: the kit is signed"
    return False, "code formats are refused: the policy does not allow them for this kit"
