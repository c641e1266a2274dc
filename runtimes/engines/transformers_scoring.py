"""How likely a model finds an answer that is given: one pass over prompt and answer, without sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

_CHUNK = 256


def logprobs(
    model: Any,
    prompt: Sequence[int],
    answer: Sequence[int],
    alone: Callable[[], AbstractContextManager[object]],
) -> Iterator[float]:
    """Yield the sum of the log-probabilities of the next tokens of `answer`, chunk after chunk.

    Chunks bound both the memory of the logits and the time for which other calls wait. `prompt` and `answer`
    have one token each at least.

    Args:
        model: a causal language model of transformers.
        prompt: tokens.
        answer: tokens.
        alone: returns a context manager in which nobody else uses the model.
    """
    tokens = [*prompt, *answer]
    first = len(prompt)  # the first token whose probability counts
    cache: Any = None
    for start in range(0, len(tokens) - 1, _CHUNK):
        end = min(start + _CHUNK, len(tokens) - 1)
        targets = tokens[max(start + 1, first) : end + 1]
        with alone(), torch.inference_mode():
            output = model(
                input_ids=torch.tensor([tokens[start:end]], device=model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=max(1, len(targets)),
            )
            cache = output.past_key_values
            if not targets:
                yield 0.0
                continue
            table = output.logits[0, -len(targets) :].float().log_softmax(-1)
            chosen = table.gather(1, torch.tensor(targets, device=table.device)[:, None])
        yield float(chosen.sum())
