"""The HTTP of an engine on transformers: the OpenAI API on a Unix socket, for the worker alone.

A caller that hangs up frees its slot at once, whether it waited for a stream or for a whole answer. When the
engine fails, `on_failure` is told, and the process is to end: the worker's log has the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runtimes.engines.openai_answers import DONE, ChatWriter, CompletionWriter, Piece, Usage, joined
from runtimes.engines.openai_errors import CallError, Unsupported
from runtimes.engines.openai_requests import ChatCall, CompletionCall, ScoreCall, read
from runtimes.engines.transformers_engine import Choices, Engine
from runtimes.engines.transformers_generation import EngineFailure

_NOT_SERVED = ("/v1/responses", "/v1/embeddings", "/v1/rerank")

_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def app(engine: Engine, *, name: str, fingerprint: str, on_failure: Callable[[str], None]) -> Starlette:
    """Return the application of one model, called `name` where a caller names none."""
    handlers = _Handlers(engine, name, fingerprint, on_failure)
    routes = [
        Route("/health", handlers.health),
        Route("/v1/models", handlers.models),
        Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
        Route("/v1/completions", handlers.completion, methods=["POST"]),
        Route("/score", handlers.score, methods=["POST"]),
        *(Route(path, _not_served, methods=["POST"]) for path in _NOT_SERVED),
    ]
    return Starlette(
        routes=routes,
        exception_handlers={CallError: _call_error, HTTPException: _http_error},
    )


class _Handlers:
    """What each path answers."""

    def __init__(
        self, engine: Engine, name: str, fingerprint: str, on_failure: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._name = name
        self._fingerprint = fingerprint
        self._on_failure = on_failure

    async def health(self, _: Request) -> Response:
        """Say that calls are answered, and what the worker wants to know of the model."""
        if failure := self._engine.generator.failure:
            self._on_failure(failure)
            raise CallError(failure, status=503)
        facts = {
            "status": "ok",
            "context": self._engine.limits.context,
            "slots": self._engine.limits.slots,
            "has_tools": self._engine.format.has_tools,
        }
        return _json(orjson.dumps(facts))

    async def models(self, _: Request) -> Response:
        """List the one model."""
        model = {"id": self._name, "object": "model", "created": 0, "owned_by": "kitserve"}
        return _json(orjson.dumps({"object": "list", "data": [model]}))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        call = read(ChatCall, await request.body())
        writer = ChatWriter(call.model or self._name, self._fingerprint)
        return await self._answer(request, call, writer, await self._engine.chat(call))

    async def completion(self, request: Request) -> Response:
        """Go on with a text."""
        call = read(CompletionCall, await request.body())
        writer = CompletionWriter(call.model or self._name, self._fingerprint)
        return await self._answer(request, call, writer, await self._engine.complete(call))

    async def score(self, request: Request) -> Response:
        """Say how likely an answer is."""
        call = read(ScoreCall, await request.body())

        async def work() -> Response:
            with self._failures():
                score = await self._engine.score(call)
            return _json(orjson.dumps({"logprob": score.logprob, "tokens": score.tokens}))

        return await _until_hang_up(request.receive, work()) or Response()

    async def _answer(
        self,
        request: Request,
        call: ChatCall | CompletionCall,
        writer: ChatWriter | CompletionWriter,
        choices: Choices,
    ) -> Response:
        if call.stream:
            has_usage = call.stream_options is not None and call.stream_options.include_usage
            return _Stream(self._events(writer, choices, has_usage=has_usage))

        async def work() -> Response:
            pieces: list[list[Piece]] = [[] for _ in choices.streams]
            with self._failures():
                async with contextlib.aclosing(_merged(choices.streams)) as merged:
                    async for index, piece in merged:
                        pieces[index].append(piece)
            wholes = [joined(part) for part in pieces]
            usage = Usage(choices.prompt_tokens, sum(whole.tokens for whole in wholes))
            return _json(writer.whole(wholes, usage))

        return await _until_hang_up(request.receive, work()) or Response()

    async def _events(
        self, writer: ChatWriter | CompletionWriter, choices: Choices, *, has_usage: bool
    ) -> AsyncIterator[bytes]:
        """Yield the server-sent events of a stream; an error is the last one."""
        tokens = 0
        yield b"".join(writer.first(index) for index in range(len(choices.streams)))
        try:
            with self._failures():
                async with contextlib.aclosing(_merged(choices.streams)) as merged:
                    async for index, piece in merged:
                        tokens += piece.tokens
                        if not piece.is_empty:
                            yield writer.chunk(index, piece)
        except CallError as error:
            yield b"data: " + error.body + b"\n\n"
            return
        if has_usage:
            yield writer.usage(Usage(choices.prompt_tokens, tokens))
        yield DONE

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Make failures of the engine errors of the call, and tell of those that end it."""
        try:
            yield
        except EngineFailure as error:
            if failure := self._engine.generator.failure:
                self._on_failure(failure)
            raise CallError(f"the engine failed: {error}", status=500) from error


class _Stream(Response):
    """A response whose events are sent as they come, until the caller hangs up."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async def work() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
            async with contextlib.aclosing(self._events) as events:  # type: ignore[type-var]
                async for event in events:
                    if event:
                        await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        await _until_hang_up(receive, work())


async def _merged(streams: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[tuple[int, Piece], None]:
    """Yield the pieces of all choices as they come, each with the index of its choice."""
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as pieces:
            async for piece in pieces:
                yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, Piece] | BaseException | None] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Piece, None]) -> None:
        try:
            async with contextlib.aclosing(stream) as pieces:
                async for piece in pieces:
                    queue.put_nowait((index, piece))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(streams)
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_hang_up(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """Return what `work` returns; None, with the work cancelled, where the caller hangs up before."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _not_served(request: Request) -> Response:
    raise Unsupported(
        f"{request.url.path}: this engine (transformers) generates text only, by chat and completions"
    )


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


async def _call_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CallError)
    return _json(error.body, error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _json(CallError(message, status=error.status_code).body, error.status_code)
