"""The choice of the next token, for each call by its own settings, and what its log-probabilities were.

transformers' continuous batching samples in one way for all calls: greedily, or by one random state. Here it
always takes the likeliest token, and this module, as the last of its logits processors, makes the token that
a call has drawn the likeliest one. So every call has a temperature and a seed of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.logits_process import LogitsProcessorList

_NUCLEUS = 512
"""How many of the likeliest tokens are sorted before all of them are, for `top_p`."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a call chooses its tokens; the names are those of the OpenAI API."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 for all tokens."""
    min_p: float = 0.0
    """The least probability of a token, as a share of the likeliest one's."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """By what the scores of tokens that were there before, in the prompt too, are divided (if positive)."""
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    top_logprobs: int | None = None
    """How many alternatives to report for each token; None reports no log-probabilities at all."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of a token, and of the likeliest ones in its place, before any setting applies."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class SamplingState:
    """What one call has drawn so far."""

    __slots__ = ("_counts", "_generator", "_seen", "logprobs", "sampling")

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        self.sampling = sampling
        self._seen = {*prompt} if sampling.repetition_penalty != 1 else set()
        self.logprobs: list[TokenLogprobs] = []
        self._counts: dict[int, int] = {}
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is right as it is."""
        sampling = self.sampling
        return sampling.temperature == 0 and sampling.top_logprobs is None and not self._has_changes

    @property
    def _has_changes(self) -> bool:
        sampling = self.sampling
        has_penalty = sampling.presence_penalty or sampling.frequency_penalty
        return bool(has_penalty or sampling.bias or sampling.repetition_penalty != 1)

    def draw(self, scores: torch.Tensor) -> int:
        """Return the next token of this call, given the scores of all tokens, shape [vocabulary], FP32."""
        sampling = self.sampling
        adjusted = self._adjust(scores)
        token = int(adjusted.argmax()) if sampling.temperature == 0 else self._sample(adjusted)
        if sampling.top_logprobs is not None:
            self.logprobs.append(_logprobs(scores, token, sampling.top_logprobs))
        if self._has_changes:
            self._counts[token] = self._counts.get(token, 0) + 1
        if sampling.repetition_penalty != 1:
            self._seen.add(token)
        return token

    def _adjust(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores with bias and penalties; `scores` itself where there are none."""
        sampling = self.sampling
        if self._seen:
            seen = torch.tensor(list(self._seen), device=scores.device)
            values = scores[seen]
            penalty = sampling.repetition_penalty
            scores = scores.index_copy(0, seen, torch.where(values > 0, values / penalty, values * penalty))
        changes = dict(sampling.bias)
        for token, count in self._counts.items():
            amount = sampling.presence_penalty + count * sampling.frequency_penalty
            changes[token] = changes.get(token, 0.0) - amount
        if not changes:
            return scores
        tokens = torch.tensor(list(changes), device=scores.device)
        amounts = torch.tensor(list(changes.values()), dtype=scores.dtype, device=scores.device)
        return scores.index_add(0, tokens, amounts)

    def _sample(self, scores: torch.Tensor) -> int:
        """Return a token drawn from the scores by temperature, top_k, min_p and top_p, in this order."""
        sampling = self.sampling
        tokens: torch.Tensor | None = None
        scores = scores / sampling.temperature
        if 0 < sampling.top_k < scores.numel():
            scores, tokens = scores.topk(sampling.top_k)
        probabilities = scores.softmax(-1)
        if sampling.min_p > 0:
            probabilities = torch.where(
                probabilities < sampling.min_p * probabilities.max(), 0.0, probabilities
            )
        if sampling.top_p < 1:
            probabilities, chosen = _nucleus(probabilities, sampling.top_p)
            tokens = chosen if tokens is None else tokens[chosen]
        drawn = torch.multinomial(probabilities.cpu(), 1, generator=self._generator)
        return int(drawn) if tokens is None else int(tokens[drawn.to(tokens.device)])


class Sampler(ContinuousBatchingLogitsProcessor):
    """The logits processor that draws every call's next token from its own state."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - as the base class declares it
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.states: dict[str, SamplingState] = {}
        """The running calls, by the identifier of each at the manager."""
        self._rows: list[SamplingState | None] = []

    def as_list(self) -> ContinuousBatchingLogitsProcessorList:
        """Return the list of processors, this one alone, as a ContinuousBatchingManager holds it."""
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self]))
        processors.tensors_required = 1
        return processors

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Set the tensor of arguments to zeros, as transformers asks for one; it is not used."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        """Note which call each row of the scores belongs to, in the order in which they will come."""
        self._rows = [self.states.get(request.state.request_id) for request in requests_with_new_token]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the scores, shape [rows, vocabulary], with the token that each call draws as the largest."""
        for row, state in enumerate(self._rows):
            if state is not None and not state.is_plain:
                scores[row, state.draw(scores[row])] = math.inf
        return scores


def _nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probabilities of the fewest tokens that have `top_p` together, and the tokens.

    The likeliest comes first; at least one is left.
    """
    wanted = top_p * float(probabilities.sum())
    values, indices = probabilities.topk(min(_NUCLEUS, probabilities.numel()))
    if float(values.sum()) < wanted:
        values, indices = probabilities.sort(descending=True)
    before = values.cumsum(-1) - values
    count = max(1, int((before < wanted).sum()))
    return values[:count], indices[:count]


def _logprobs(scores: torch.Tensor, token: int, count: int) -> TokenLogprobs:
    logprobs = scores.log_softmax(-1)
    top: tuple[tuple[int, float], ...] = ()
    if count:
        values, indices = logprobs.topk(count)
        top = tuple(zip(indices.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs[token]), top)
