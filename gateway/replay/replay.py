"""A replay: records are sent to the candidate, one after another, and to stable where that is wished."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.errors import KitserveError
from gateway.payloads.record import Record
from gateway.replay.calls import CannotReplay, ReplayedCall, Reply, Target, recorded_reply, replayed_call
from gateway.replay.judgement import Judgement

ROLE, DIGEST = "ModelKit-Role", "ModelKit-Digest"
_TRIES = 50
_NO_TEXT = "it takes tensors, and the calls are for text"
_FAILURES = (OSError, http.client.HTTPException)


class AgainstFailed(KitserveError):
    """The server that the candidate is compared with does not answer."""


@dataclass(frozen=True, slots=True)
class Stable:
    """The stable version of a running server, called by its digest: so its rollouts take no notice."""

    target: Target
    digest: str

    def call(self, call: ReplayedCall) -> Reply:
        """Send a call. Raises AgainstFailed."""
        try:
            return self.target.call(call)
        except _FAILURES as error:
            raise AgainstFailed(f"the server that is compared with does not answer: {error}") from error


def find_stable(url: str, model: str, headers: dict[str, str], seconds: float) -> Stable:
    """Find out which version is stable at a running server.

    Raises:
        AgainstFailed: when it does not answer, has no such model, or asks for a key.
    """
    document = Target(url, "", headers, seconds)
    try:
        for _ in range(_TRIES):
            status, answer = document.get(f"/v2/models/{model}")
            if status != http.client.OK:
                raise AgainstFailed(f"{url} answers with {status} for the model {model}")
            if answer.get(ROLE) == "stable" and answer.get(DIGEST):
                digest = answer[DIGEST]
                name = f"/models/{model}/versions/{digest}"
                return Stable(Target(url, f"/v2{name}/infer", headers, seconds, name), digest)
    except (*_FAILURES, ValueError) as error:
        raise AgainstFailed(f"{url} does not answer: {error}") from error
    finally:
        document.close()
    raise AgainstFailed(f"{url} names no stable version of {model}; is it the data port of a Kitserve?")


def replay(
    records: Iterable[Record],
    candidate: Target,
    stable: Stable | None,
    judgement: Judgement,
    progress: Callable[[int], None],
) -> str:
    """Send records until there are no more; `progress` takes how many were sent.

    Returns:
        Why the candidate no longer answers; "" where it does.
    """
    for count, record in enumerate(records, 1):
        try:
            call = replayed_call(record)
        except CannotReplay as error:
            judgement.not_compared[str(error)] += 1
            continue
        if call.is_text != judgement.is_text:
            return "it generates text, and the calls are on tensors" if judgement.is_text else _NO_TEXT
        try:
            # In turn, so that neither always finds caches warm.
            other = stable.call(call) if stable is not None and count % 2 else None
            reply = candidate.call(call)
            if stable is not None and other is None:
                other = stable.call(call)
        except AgainstFailed as error:
            judgement.trouble = str(error)
            return ""
        except _FAILURES as error:
            reason = str(error) or type(error).__name__
            return f"it does not answer record {count:,} ({record.request_id}): {reason}"
        judgement.add(record, recorded_reply(record) if stable is None else other, reply)
        progress(count)
    return ""
