"""The choice of the next token."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from runtimes.engines.transformers_sampling import Sampler, Sampling, SamplingState

SCORES = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def drawn(sampling: Sampling, count: int = 400, prompt: tuple[int, ...] = ()) -> Counter[int]:
    """Count what is drawn; each draw is of its own call, so that none has been seen before."""
    return Counter(SamplingState(replace(sampling, seed=seed), prompt).draw(SCORES) for seed in range(count))


def test_without_temperature_the_likeliest_is_taken() -> None:
    assert drawn(Sampling(temperature=0)) == {0: 400}


def test_all_tokens_come_as_often_as_they_are_likely() -> None:
    counts = drawn(Sampling(), 2_000)
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert counts[token] / 2_000 == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize(
    ("sampling", "tokens"),
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_p=0.5), {0}),
        (Sampling(top_p=0.51), {0, 1}),
        (Sampling(min_p=0.31), {0, 1}),
        (Sampling(top_k=1), {0}),
        (Sampling(bias={3: 100.0}), {3}),
        (Sampling(bias={0: -100.0, 1: -100.0}), {2, 3}),
        (Sampling(temperature=0, repetition_penalty=5.0), {0}),
    ],
)
def test_settings_leave_out_tokens(sampling: Sampling, tokens: set[int]) -> None:
    assert set(drawn(sampling)) == tokens


def test_a_lower_temperature_makes_the_likeliest_likelier() -> None:
    assert drawn(Sampling(temperature=0.3))[0] > drawn(Sampling(temperature=1.0))[0] + 50


def test_a_token_of_the_prompt_is_made_less_likely() -> None:
    assert set(drawn(Sampling(temperature=0, repetition_penalty=5.0), prompt=(0,))) == {1}


def test_penalties_count_what_was_drawn_before() -> None:
    state = SamplingState(Sampling(temperature=0, presence_penalty=2.0))
    assert [state.draw(SCORES) for _ in range(3)] == [0, 1, 2]
    state = SamplingState(Sampling(temperature=0, frequency_penalty=0.3))
    assert [state.draw(SCORES) for _ in range(4)] == [0, 0, 1, 0]


def test_a_seed_repeats_the_same_draws() -> None:
    def draws(seed: int | None) -> list[int]:
        state = SamplingState(Sampling(seed=seed))
        return [state.draw(SCORES) for _ in range(30)]

    assert draws(5) == draws(5)
    assert draws(-1) != draws(5)
    assert draws(None) != draws(None)


def test_logprobs_are_those_before_the_settings() -> None:
    state = SamplingState(Sampling(temperature=0.1, bias={3: 100.0}, top_logprobs=2, seed=0))
    assert state.draw(SCORES) == 3
    [report] = state.logprobs
    assert report.token == 3
    assert report.logprob == pytest.approx(math.log(0.05))
    assert [token for token, _ in report.top] == [0, 1]


def test_top_p_of_many_tokens_of_like_likelihood_sorts_them_all() -> None:
    scores = torch.zeros(2_000)
    state = SamplingState(Sampling(top_p=0.9, seed=0))
    assert max(state.draw(scores) for _ in range(300)) > 600


def test_each_row_is_drawn_by_its_own_call() -> None:
    sampler = Sampler()
    sampler.states = {
        "plain": SamplingState(Sampling(temperature=0)),
        "biased": SamplingState(Sampling(temperature=0, bias={2: 9.0})),
    }
    rows = [SimpleNamespace(state=SimpleNamespace(request_id=name)) for name in ("biased", "plain", "gone")]
    argument = sampler.prepare_tensor_args(rows)
    scores = sampler(torch.stack([SCORES] * 3), argument)
    assert scores.argmax(-1).tolist() == [2, 0, 0]
