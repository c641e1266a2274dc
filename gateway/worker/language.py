"""A language model, while it is served: its engine, the calls that wait for it, and its mirror."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable
from typing import Protocol

import orjson

from gateway.codec.openai.answer import GeneratedAnswer
from gateway.codec.openai.members import Engine
from gateway.contract import Mirroring
from gateway.engine.generation import Slots
from gateway.errors import UnusableModel
from gateway.tracing.call_trace import CallTrace
from gateway.wire.upstream import Upstream
from gateway.worker.engine_socket import ask_engine
from gateway.worker.version import ServedVersion
from runtimes.engines.base import OpenAIModel

_LLAMA = "llamacpp"

ENDED = "the model's engine has ended; the log of its worker says why, and another one is started"
"""What callers read; the end of the engine's log is not for them."""

log = logging.getLogger(__name__)


class AnswerMirror(Protocol):
    """Where a share of the answers goes, to be compared with the canary's."""

    @property
    def mirroring(self) -> Mirroring:
        """What is mirrored, and to whom."""
        ...

    def offer(self, answer: GeneratedAnswer, trace: CallTrace | None = None) -> None:
        """Take an answer whose caller has it, and its trace; on the server's loop."""

    def stop(self) -> None:
        """Send no more; from any thread."""


NewMirror = Callable[[Mirroring, ServedVersion], AnswerMirror]


class LanguageCapability:
    """A model that answers calls of the OpenAI API, in a process of its own."""

    not_batched = ""

    def __init__(
        self, version: ServedVersion, model: OpenAIModel, new_mirror: NewMirror | None = None
    ) -> None:
        """Raises UnusableModel when the engine does not answer."""
        self._version = version
        self._new_mirror = new_mirror
        self.model = model
        self.engine = describe_engine(model, version.identity.model)
        self.upstream = Upstream(model.socket, max_idle=model.slots)
        self.running = version.options.running
        self.slots = Slots(model.slots, version.tally, version.options.limits)
        self.mirror: AnswerMirror | None = None

    @property
    def queued(self) -> int:
        return self.slots.queued

    def set_mirroring(self, mirroring: Mirroring | None) -> None:
        previous = self.mirror
        if mirroring == (None if previous is None else previous.mirroring):
            return
        self.mirror = None
        if mirroring is not None and self._new_mirror is not None:
            self.mirror = self._new_mirror(mirroring, self._version)
        if previous is not None:
            previous.stop()

    def is_alive(self) -> bool:
        return self.model.is_alive()

    def failure(self) -> str:
        return f"the engine has ended: {self.model.failure()}"

    def give_up(self) -> None:
        """Leave it to the relay of each call to see that the engine has ended."""

    def stop(self) -> None:
        self.set_mirroring(None)
        self.slots.stop()


def describe_engine(model: OpenAIModel, name: str) -> Engine:
    """Return what the engine says of itself. Raises UnusableModel."""
    try:
        models = orjson.loads(ask_engine(model.socket, "/v1/models")[1])["data"]
        # vLLM lists a base before its adapter, and applies the adapter only to calls that name it.
        listed = next((entry for entry in models if entry.get("parent")), models[0])
        alias = str(listed["id"])
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        reason = model.failure() or str(error)
        raise UnusableModel(f"model {name}: its engine does not say what it serves: {reason}") from error
    modalities = (listed.get("architecture") or {}).get("input_modalities") or ()
    return Engine(
        alias,
        slots=model.slots,
        context=model.context,
        has_tools=model.has_tools,
        has_images="image" in modalities,
        is_llama=listed.get("owned_by") == _LLAMA,
    )
