"""Numbers of things are written as a person would."""

from __future__ import annotations

import pytest

from gateway.wording import counted, listed


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 worker-seconds"),
        (1, "1 worker-second"),
        (1.0, "1 worker-second"),
        (2, "2 worker-seconds"),
        (0.5, "0.5 worker-seconds"),
        (1.5, "1.5 worker-seconds"),
        (1234, "1,234 worker-seconds"),
        (1234567.5, "1,234,567.5 worker-seconds"),
    ],
)
def test_one_is_singular_and_all_else_is_plural(count: float, text: str) -> None:
    assert counted(count, "worker-second") == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes")])
def test_a_plural_that_is_not_made_by_an_s_is_given(count: int, text: str) -> None:
    assert counted(count, "box", "boxes") == text


@pytest.mark.parametrize(
    ("names", "text"),
    [([], "nothing"), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more")],
)
def test_of_many_names_the_first_are_written_and_the_rest_counted(names: list[str], text: str) -> None:
    assert listed(names, 2) == text
