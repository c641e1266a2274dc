"""The verdict on a kit by the policy of what may be served.

Every rule must hold. Rules that the kit's own documents decide are judged before those that need requests.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter

from gateway.errors import NotTrusted
from gateway.kits.entry import stated_entry
from gateway.kits.kit import Kit
from gateway.kits.policy import Policy, judge_registry
from gateway.kits.signatures import find_signature
from gateway.oci.content import Source
from runtimes.python.requirements import Sources

PICKLE_ADVICE = "let the policy allow pickles of known libraries with `pickles: known`"
_REASONS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a kit may be served, rule by rule, in words for people.

    `code` says whether formats that run code may be loaded, `pickles` whether known pickles may, and
    `requirements` where the packages may come from that a kit which runs code asks for.
    """

    registry: str
    license: str
    signature: str
    code: bool
    code_reason: str
    requirements: Sources = Sources.KIT
    pickles: bool = True

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons of all rules."""
        reasons = self.registry, self.license, self.signature, self.code_reason
        return reasons if self.pickles else (*reasons, "the policy refuses pickles of known libraries, too")


_verdict = TypeAdapter(Verdict)


def judge(kit: Kit, policy: Policy, source: Callable[[], Source]) -> Verdict:
    """Return why the policy allows a kit; its parents are judged each on its own.

    `source` opens the kit's source, which is asked for signatures where the policy has keys. Raises
    NotTrusted, and Unauthorized or RegistryUnavailable where the source fails.
    """
    registry = judge_registry(kit.reference, policy)
    license_ = _judge_license(kit, policy)
    signature = _judge_signature(kit, policy, source)
    code, code_reason = _judge_code(kit, policy)
    return Verdict(
        registry, license_, signature, code, code_reason, policy.requirements, policy.known_pickles
    )


def combined_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a kit with its parents, from its own and theirs; code must be allowed to each."""
    strictest = next((verdict for verdict in verdicts if not verdict.code), verdicts[0])
    return replace(verdicts[0], code=strictest.code, code_reason=strictest.code_reason)


def verdict_to_json(verdict: Verdict) -> str:
    """Return a verdict as JSON, for the node's disk."""
    return json.dumps(asdict(verdict))


def verdict_from_json(text: bytes) -> Verdict:
    """Parse what `verdict_to_json` returned. Raises ValueError for anything else."""
    return _verdict.validate_json(text)


def code_advice(kit: Kit) -> str:
    """Return how the policy is made to allow a kit to run code, as the rest of a sentence."""
    digests = " and ".join(str(link.digest) for link in kit.chain)
    return (
        "let the policy allow this kit to run code: sign it and set `allow_code: signed`, or list its digest "
        f"there, {digests}"
    )


def _judge_license(kit: Kit, policy: Policy) -> str:
    # Of what is in a directory of code, nothing is known yet.
    stated = licenses_of(kit, _judge_code(kit, policy)[0] and stated_entry(kit) is not None)
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


def licenses_of(kit: Kit, with_code: bool) -> tuple[str, ...]:
    """Return the licenses that the Kitfile states for the kit and for what serving needs, each once."""
    kitfile = kit.kitfile
    stated = [kitfile.package.license]
    if kitfile.model is not None:
        stated += [kitfile.model.license, *(part.license for part in kitfile.model.parts)]
    if with_code:
        stated += [entry.license for entry in kitfile.code]
    return tuple(dict.fromkeys(text.strip() for text in stated if text and text.strip()))


def _is_allowed(text: str, allowed: frozenset[str]) -> bool:
    """Tell whether SPDX expressions, separated by commas, are allowed.

    "AND" binds tighter than "OR". An expression with parentheses or an exception must be listed literally.
    """

    def satisfied(expression: str) -> bool:
        return any(
            all(term.strip() in allowed for term in re.split(r"\sand\s", choice))
            for choice in re.split(r"\sor\s", expression)
        )

    return text.lower() in allowed or all(map(satisfied, text.lower().split(",")))


def _judge_signature(kit: Kit, policy: Policy, source: Callable[[], Source]) -> str:
    if not policy.keys:
        return "no signature is required"
    search = find_signature(source(), kit.digest, policy.keys)
    if search.key:
        return f"signed by {search.key} ({search.scheme})"
    names = ", ".join(key.name for key in policy.keys)
    advice = f"sign it with cosign and one of the keys of the policy ({names})"
    if not search.refused:
        raise NotTrusted(f"{kit.reference} is not signed: nothing was found for {kit.digest}; {advice}")
    reasons = "; ".join(search.refused[:_REASONS_SHOWN])
    more = len(search.refused) - _REASONS_SHOWN
    raise NotTrusted(
        f"{kit.reference} has no valid signature; those found for {kit.digest} are refused: "
        f"{reasons}{f'; and {more} more' if more > 0 else ''}; {advice}"
    )


def _judge_code(kit: Kit, policy: Policy) -> tuple[bool, str]:
    if kit.digest in policy.code_digests:
        return True, "code formats are allowed: the policy lists the kit's digest"
    if policy.code_if_signed:
        # With keys, a kit that is not signed has been refused by now.
        return True, "code formats are allowed: the kit is signed"
    return False, "code formats are refused: the policy does not allow them for this kit"
