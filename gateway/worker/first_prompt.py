"""The call that a language model answers before it is ready; `engine.first_call` has it of tensors.

It is the first prompt of the kit's golden dataset, where the config names one, else one that is made up. It
goes to the engine as a caller's would: with the kit's system prompt, whose work the engine keeps. A failure
is noted, and the model is served; an engine that ends by it is none.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.codec.openai.errors import engine_error
from gateway.codec.openai.events import AnswerEvents
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.request import EngineCall, read_call
from gateway.engine.first_call import SECONDS
from gateway.foreign_text import foreign_text
from gateway.serving import Generation
from gateway.worker.language import describe_engine
from runtimes.engines.base import OpenAIModel
from runtimes.engines.sockets import UnixConnection
from runtimes.engines.task import Task
from runtimes.errors import InputError

_MAX_TOKENS = 4
_TEXT = "Hello"
_MADE_UP: Mapping[Task, tuple[Endpoint, Mapping[str, Any]]] = {
    Task.CHAT: (Endpoint.CHAT, {"messages": [{"role": "user", "content": _TEXT}]}),
    Task.COMPLETION: (Endpoint.COMPLETIONS, {"prompt": _TEXT}),
    Task.EMBEDDING: (Endpoint.EMBEDDINGS, {"input": _TEXT}),
    Task.RERANK: (Endpoint.RERANK, {"query": _TEXT, "documents": [_TEXT]}),
}
"""By task; a model that has several is asked for the first of these."""
_PIECE_BYTES = 65536
_OK = 200


def answer_first_prompt(
    model: OpenAIModel,
    name: str,
    generation: Generation,
    golden: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
) -> str:
    """Have a model answer a call; return why it was not answered, "" where it was.

    Args:
        model: the model.
        name: what its callers call it.
        generation: the defaults of the kit and the config.
        golden: the body of a chat completion, in place of a made-up call.
        seconds: how long the answer may take.

    Raises:
        UnusableModel: when the engine does not say what it serves.
    """
    endpoint, members = next(call for task, call in _MADE_UP.items() if task in model.tasks)
    if golden is not None and endpoint is Endpoint.CHAT:
        members = golden
    if endpoint.is_generating:
        members = {**members, "max_tokens": _MAX_TOKENS}
    engine = describe_engine(model, name)
    try:
        call = read_call(endpoint, orjson.dumps(members), engine, generation)
        _answer(model, call, time.monotonic() + seconds)
    except TimeoutError:
        return f"it was not answered within {seconds:g} s"
    except (_Failure, InputError, OSError, ValueError, http.client.HTTPException) as error:
        return foreign_text(model.failure() or str(error) or type(error).__name__)
    return ""


class _Failure(Exception):
    """An error in place of an answer."""


def _answer(model: OpenAIModel, call: EngineCall, deadline: float) -> None:
    """Have a call answered; the answer is dropped. Raises TimeoutError after `deadline`."""
    connection = UnixConnection(model.socket, deadline - time.monotonic())
    try:
        connection.request("POST", call.endpoint, call.body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != _OK or not call.endpoint.is_generating:
            document = orjson.loads(answer.read())
            if answer.status != _OK:
                raise _failure(engine_error(answer.status, document))
            return
        events = AnswerEvents(call, "", "")
        while piece := answer.read1(_PIECE_BYTES):
            events.feed(piece)
            if time.monotonic() > deadline:
                raise TimeoutError
        if events.error is not None:
            raise _failure(events.error)
        if not events.is_complete:
            raise _Failure("the answer ended too early")
    finally:
        connection.close()


def _failure(error: tuple[int, bytes]) -> _Failure:
    return _Failure(str(orjson.loads(error[1])["error"]["message"]))
