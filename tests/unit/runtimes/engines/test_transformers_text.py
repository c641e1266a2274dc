"""Text from tokens, piece by piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.engines.transformers_text import Detokenizer, StopStrings, TokenTexts
from tests.support.language_models import tokenizer

WORDS = tokenizer()


def pieces(text: str, **options: bool) -> list[str]:
    detokenizer = Detokenizer(WORDS, has_special=options.get("has_special", False))
    tokens = WORDS(text, add_special_tokens=False).input_ids
    return [*(detokenizer.add([token]) for token in tokens), detokenizer.end()]


@given(st.text(alphabet="ab 日ü👍é\n", max_size=30))
def test_the_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


def test_a_character_of_several_tokens_waits_until_it_is_whole() -> None:
    parts = pieces("ü👍")
    assert len(parts) == 2 + 4 + 1
    assert [part for part in parts if part] == ["ü", "👍"]


def test_bytes_that_are_no_character_come_at_the_end() -> None:
    detokenizer = Detokenizer(WORDS, has_special=False)
    [first, *_] = WORDS("👍", add_special_tokens=False).input_ids
    assert detokenizer.add([first]) == ""
    assert detokenizer.end() == "\ufffd"


def test_special_tokens_are_written_only_on_demand() -> None:
    assert "".join(pieces("a<|user|>b")) == "ab"
    assert "".join(pieces("a<|user|>b", has_special=True)) == "a<|user|>b"


def stopped(text: list[str], *strings: str) -> tuple[list[str], bool]:
    stop = StopStrings(strings)
    parts = []
    for part in text:
        parts.append(stop.add(part))
        if stop.is_stopped:
            return parts, True
    return [*parts, stop.end()], False


def test_a_stop_string_across_pieces_ends_the_text_before_it() -> None:
    assert stopped(["one E", "N", "D two"], "END") == (["one ", "", ""], True)


def test_what_only_begins_like_a_stop_string_is_given_out() -> None:
    assert stopped(["one E", "N", "TER"], "END") == (["one ", "", "ENTER", ""], False)
    assert stopped(["one EN"], "END") == (["one ", "EN"], False)


def test_the_first_of_several_stop_strings_counts() -> None:
    assert stopped(["a;b\nc"], "\n", ";") == (["a"], True)
    assert stopped(["aab"], "aab", "ab") == ([""], True)


def test_without_stop_strings_nothing_waits() -> None:
    assert stopped(["one", " two"]) == (["one", " two", ""], False)
    assert stopped(["one"], "") == (["one", ""], False)


@given(
    st.lists(st.text(alphabet="ab", max_size=4), max_size=8), st.text(alphabet="ab", min_size=1, max_size=4)
)
def test_stopping_does_not_depend_on_how_the_text_comes(parts: list[str], string: str) -> None:
    text = "".join(parts)
    given_out, is_stopped = stopped(parts, string)
    assert "".join(given_out) == text.partition(string)[0]
    assert is_stopped == (string in text)


@pytest.mark.parametrize("text", ["a", " world", "é", "👍", "日"])
def test_the_bytes_of_tokens_are_those_of_the_text(text: str) -> None:
    texts = TokenTexts(WORDS)
    tokens = WORDS(text, add_special_tokens=False).input_ids
    assert b"".join(texts.bytes(token) for token in tokens) == text.encode()
