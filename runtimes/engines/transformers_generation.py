"""The calls of a language model on transformers' continuous batching: tokens go in, tokens come out.

Use:
    generator = Generator(model, Limits(context=4096, slots=4, batch=512), stops=frozenset({2}))
    generator.start()
    async for step in generator.generate(tokens, Sampling(temperature=0), max_tokens=64):
        ...  # step.tokens, step.logprobs, step.finish
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from runtimes.engines.transformers_sampling import Sampler, Sampling, SamplingState, TokenLogprobs
from runtimes.hugging_face.options import PAGE


@dataclass(frozen=True, slots=True)
class Limits:
    """How much runs at a time; see `EngineOptions`."""

    context: int
    slots: int
    batch: int


@dataclass(frozen=True, slots=True)
class Step:
    """The tokens that a call has got since its last step."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token where the call asked for them, else none."""
    finish: str = ""
    """"stop" or "length" on the last step, else ""; the token that stopped it is not among `tokens`."""


class EngineFailure(Exception):
    """The engine failed on a call, or has ended."""


class Generator:
    """A model that generates for several calls at a time; to be used on one event loop."""

    def __init__(self, model: Any, limits: Limits, stops: frozenset[int]) -> None:
        self._stops = stops
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.slots)
        self._names = count(1)
        self._sampler = Sampler()
        generation_config: Any = GenerationConfig  # not typed
        self._manager = model.init_continuous_batching(
            generation_config=generation_config(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE,
                num_blocks=pages(limits),
                max_batch_tokens=max(limits.batch, limits.slots),
                max_requests_per_batch=limits.slots,
                safety_margin=0.0,  # every slot has a whole context's pages
                use_async_batching=False,
                use_cuda_graph=False,  # the sampler is Python, which a graph does not hold
                auto_switch_to_flash=False,
                per_request_processors=True,
            ),
        )
        self._manager.logit_processor = self._sampler.as_list()

    @property
    def failure(self) -> str:
        """Why no call can be answered any more; "" while all is well."""
        error = self._manager.background_thread_status.fatal_error
        if error is None and not self._manager.is_running():
            return "the thread that generates has ended"
        return "" if error is None else f"{type(error).__name__}: {error}"

    def start(self) -> None:
        """Start the thread that generates."""
        with torch.inference_mode():
            self._manager.start()

    def stop(self) -> None:
        """Stop it; calls that run fail."""
        self._manager.stop(block=True, timeout=5, hard_stop=True)

    def pause(self) -> AbstractContextManager[object]:
        """Return a context manager in which nothing is generated, so that others may use the model."""
        pause: AbstractContextManager[object] = self._manager.pause()
        return pause

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, max_tokens: int, *, has_end: bool = True
    ) -> AsyncGenerator[Step, None]:
        """Yield the steps of one call, as they come; closing the iterator cancels the call.

        The call waits while all slots are taken. `prompt` and `max_tokens` together fit the context. Without
        `has_end`, the tokens that end an answer do not end it. Raises EngineFailure.
        """
        if max_tokens < 1:
            yield Step((), finish="length")
            return
        async with self._slots:
            name = f"call-{next(self._names)}"
            state = SamplingState(sampling, prompt)
            outputs: asyncio.Queue[Any] = asyncio.Queue()
            self._sampler.states[name] = state
            self._manager.register_result_handler(name, outputs.put_nowait)
            is_finished = False
            try:
                accepted = self._manager.add_request(
                    list(prompt),
                    request_id=name,
                    max_new_tokens=max_tokens,
                    streaming=True,
                    eos_token_id=sorted(self._stops) if has_end and self._stops else -1,
                )
                if accepted is None:
                    raise EngineFailure(self.failure or "the engine takes no more calls")
                seen = 0
                while not is_finished:
                    output = await outputs.get()
                    is_finished = output.is_finished()
                    if output.error is not None:
                        raise EngineFailure(output.error)
                    tokens = output.generated_tokens[seen:]
                    logprobs = state.logprobs[seen : seen + len(tokens)]
                    seen += len(tokens)
                    finish = "length" if is_finished else ""
                    if is_finished and has_end and tokens and tokens[-1] in self._stops:
                        tokens, logprobs, finish = tokens[:-1], logprobs[: len(tokens) - 1], "stop"
                    if tokens or finish:
                        yield Step(tuple(tokens), tuple(logprobs), finish)
            finally:
                if not is_finished:
                    self._manager.cancel_request(name)
                    self._manager.output_router.result_handlers.pop(name, None)
                del self._sampler.states[name]


def pages(limits: Limits) -> int:
    """Return how many pages of the key-value cache hold the whole context of every slot."""
    return limits.slots * math.ceil(limits.context / PAGE)
