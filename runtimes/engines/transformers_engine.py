"""A language model that answers calls: from a checked call to the pieces of its choices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from runtimes.engines.openai_answers import Piece, TokenReport, joined
from runtimes.engines.openai_errors import CallError, TooLong
from runtimes.engines.openai_requests import ChatCall, CompletionCall, ScoreCall
from runtimes.engines.transformers_chat import ChatFormat, ResponseReader
from runtimes.engines.transformers_generation import Generator, Limits, Step
from runtimes.engines.transformers_load import Loaded
from runtimes.engines.transformers_sampling import Sampling, TokenLogprobs
from runtimes.engines.transformers_scoring import logprobs
from runtimes.engines.transformers_text import Detokenizer, StopStrings, TokenTexts

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices of an answer, each to be iterated once; the call is cancelled by closing them."""

    prompt_tokens: int
    streams: list[AsyncGenerator[Piece, None]]


@dataclass(frozen=True, slots=True)
class Score:
    """How likely an answer is."""

    logprob: float
    """The sum over its tokens, natural logarithm."""
    tokens: int


class Engine:
    """One model with its tokenizer, on one event loop."""

    def __init__(self, loaded: Loaded, limits: Limits, chat_template: str | None = None) -> None:
        self.limits = limits
        self.format = ChatFormat(loaded.tokenizer, chat_template)
        self.generator = Generator(loaded.model, limits, loaded.stops)
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._defaults = loaded.defaults
        self._texts = TokenTexts(loaded.tokenizer)
        self._vocabulary: int = loaded.model.config.get_text_config().vocab_size
        # A tokenizer is used by one thread at a time, and a model scored by one.
        self._tokenizing = ThreadPoolExecutor(1, "tokenizing")
        self._scoring = ThreadPoolExecutor(1, "scoring")

    async def start(self) -> None:
        """Start to generate, and see that it works on one token. Raises EngineFailure."""
        self.generator.start()
        async with aclosing(self.generator.generate([0], Sampling(temperature=0), 1)) as steps:
            async for _ in steps:
                pass

    async def chat(self, call: ChatCall) -> Choices:
        """Return the choices of a conversation's next message. Raises CallError."""
        prompt = await self._in_thread(self.format.prompt, call)
        top_logprobs = (call.top_logprobs or 0) if call.logprobs else None
        if call.top_logprobs and not call.logprobs:
            raise CallError("top_logprobs: only with logprobs: true", param="top_logprobs")
        limit = call.max_completion_tokens if call.max_completion_tokens is not None else call.max_tokens
        readers = [self.format.reader(prompt, call.tools) for _ in range(call.n)]
        return self._choices(call, [prompt.tokens], limit, top_logprobs, readers)

    async def complete(self, call: CompletionCall) -> Choices:
        """Return the choices of the text that follows each prompt. Raises CallError."""
        if not call.prompts:
            raise CallError("prompt: there is none", param="prompt")
        prompts = [
            await self._in_thread(partial(self._tokens, is_start=True), prompt) for prompt in call.prompts
        ]
        limit = 16 if call.max_tokens is None else call.max_tokens
        readers: list[ResponseReader | None] = [None] * (len(prompts) * call.n)
        return self._choices(call, prompts, limit, call.logprobs, readers)

    async def score(self, call: ScoreCall) -> Score:
        """Return how likely the model finds an answer. Raises CallError."""
        if (call.prompt is None) == (not call.messages):
            raise CallError("score: give either prompt or messages", param="prompt")
        if call.prompt is None:
            prompt = (await self._in_thread(self.format.prompt, call)).tokens
        else:
            prompt = await self._in_thread(partial(self._tokens, is_start=True), call.prompt)
        answer = await self._in_thread(partial(self._tokens, is_start=False), call.answer)
        if len(prompt) + len(answer) > self.limits.context:
            raise TooLong(len(prompt) + len(answer), self.limits.context)
        sums = logprobs(self._model, prompt, answer, self.generator.pause)
        total = 0.0
        loop = asyncio.get_running_loop()
        while (part := await loop.run_in_executor(self._scoring, next, sums, None)) is not None:
            total += part
        return Score(total, len(answer))

    def _choices(
        self,
        call: ChatCall | CompletionCall,
        prompts: Sequence[list[int]],
        limit: int | None,
        top_logprobs: int | None,
        readers: Sequence[ResponseReader | None],
    ) -> Choices:
        """Return `n` choices for each prompt. Raises CallError."""
        for prompt in prompts:
            if len(prompt) >= self.limits.context:
                raise TooLong(len(prompt), self.limits.context)
        sampling = self._sampling(call, top_logprobs)
        streams = []
        for index, reader in enumerate(readers):
            prompt = prompts[index // call.n]
            left = self.limits.context - len(prompt)
            seed = None if sampling.seed is None else (sampling.seed + index) % 2**63
            steps = self.generator.generate(
                prompt,
                replace(sampling, seed=seed),
                left if limit is None else min(limit, left),
                has_end=not call.ignore_eos,
            )
            streams.append(self._pieces(steps, call, reader))
        return Choices(sum(map(len, prompts)), streams)

    def _sampling(self, call: ChatCall | CompletionCall, top_logprobs: int | None) -> Sampling:
        """Return the settings of a call; what it leaves out is the model's own default."""
        fields = {
            name: getattr(call, name)
            for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
            if getattr(call, name) is not None
        }
        return replace(
            self._defaults,
            presence_penalty=call.presence_penalty,
            frequency_penalty=call.frequency_penalty,
            bias={self._token(name): amount for name, amount in call.logit_bias.items()},
            top_logprobs=top_logprobs,
            **fields,
        )

    async def _pieces(
        self,
        steps: AsyncGenerator[Step, None],
        call: ChatCall | CompletionCall,
        reader: ResponseReader | None,
    ) -> AsyncGenerator[Piece, None]:
        """Yield what a choice says, step by step, until it ends or a stop string comes."""
        text = Detokenizer(self._tokenizer, has_special=reader is not None)
        stop = StopStrings(call.stop)
        is_one_call = isinstance(call, ChatCall) and not call.parallel_tool_calls
        has_calls = False
        async with aclosing(steps):
            async for step in steps:
                added = stop.add(text.add(step.tokens))
                if step.finish:
                    added += stop.add(text.end())
                    added += stop.end()
                finish = "stop" if stop.is_stopped else step.finish
                piece = Piece(added) if reader is None else reader.add(added)
                if reader is not None and finish:
                    is_cut = stop.is_stopped or step.finish == "length"
                    piece = joined([piece, reader.end(is_cut=is_cut)])
                calls = piece.tool_calls[:1] if is_one_call else piece.tool_calls
                has_calls = has_calls or bool(calls)
                if has_calls and (finish == "stop" or is_one_call):
                    finish = "tool_calls"
                piece = replace(
                    piece,
                    tool_calls=calls,
                    reports=tuple(map(self._report, step.logprobs)),
                    tokens=len(step.tokens) + (step.finish == "stop"),
                    finish=finish,
                )
                yield piece
                if finish:
                    return

    def _report(self, logprobs: TokenLogprobs) -> TokenReport:
        top = tuple(self._token_report(token, logprob) for token, logprob in logprobs.top)
        return replace(self._token_report(logprobs.token, logprobs.logprob), top=top)

    def _token_report(self, token: int, logprob: float) -> TokenReport:
        return TokenReport(self._texts.text(token), self._texts.bytes(token), logprob)

    def _tokens(self, text: str | list[int], *, is_start: bool) -> list[int]:
        """Return the tokens of a text, with those that begin a prompt where it is one. Raises CallError."""
        if isinstance(text, str):
            tokens: list[int] = self._tokenizer(text, add_special_tokens=is_start).input_ids
        else:
            tokens = [self._token(str(token)) for token in text]
        if not tokens:
            raise CallError("a prompt, and an answer that is scored, need one token at least", param="prompt")
        return tokens

    def _token(self, name: str) -> int:
        if not name.isdecimal() or not 0 <= int(name) < self._vocabulary:
            raise CallError(f"{name} is no token of this model, which has 0 to {self._vocabulary - 1}")
        return int(name)

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, function, *arguments)
