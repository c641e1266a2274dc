"""Calls of the OpenAI API that an engine answered, as the payload log takes them; see `payloads`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.codec.openai.answer import Usage
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.whole import whole_answer
from gateway.payloads.record import Protocol
from gateway.worker.payload_bodies import openai_body
from gateway.worker.payloads import SampledCall


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What an engine answered: a document, or events that are made one when it is read."""

    endpoint: Endpoint
    pieces: Sequence[bytes]
    usage: Usage
    is_events: bool

    @property
    def size(self) -> int:
        """How many bytes the pieces have."""
        return sum(map(len, self.pieces))

    def body(self) -> dict[str, Any]:
        """Return the answer as one document."""
        if self.is_events and self.endpoint.is_generating:
            return whole_answer(self.endpoint, self.pieces, self.usage)
        return openai_body(b"".join(self.pieces))


def openai_call(
    headers: Mapping[bytes, bytes],
    role: str,
    status: int,
    seconds: float,
    request: bytes,
    answer: EngineAnswer,
) -> SampledCall:
    """Return a call of the OpenAI API that an engine answered."""
    return SampledCall(
        headers=headers,
        protocol=Protocol.OPENAI,
        role=role,
        status=status,
        seconds=seconds,
        request_size=len(request),
        answer_size=0 if answer.is_events else answer.size,
        request=lambda: openai_body(request),
        answer=answer.body,
        path=answer.endpoint.value,
        events_size=answer.size if answer.is_events else 0,
    )
