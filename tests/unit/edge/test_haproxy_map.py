from __future__ import annotations

import pytest

from gateway.edge.error_map import error_entries
from gateway.edge.haproxy_map import ENTRY_BYTES, check_entries, read_entries, write_entries
from gateway.errors import EdgeError


def test_what_is_written_is_read_back() -> None:
    entries = {"503/body": "failed: no  such tag; ask again", ":ready": "true", "iris/sha256:v1": "slot3"}
    lines = write_entries(entries)
    assert lines[1] == ":ready true\n"
    assert read_entries("".join(lines)) == entries


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "a\n", "#a", "\x00"])
def test_a_key_is_one_word(key: str) -> None:
    with pytest.raises(EdgeError, match="model x cannot be routed"):
        check_entries("model x", {key: "value"})


@pytest.mark.parametrize("value", ["", " ", " a", "a ", "a\nb", "a\rb", "\x00", "é" * (ENTRY_BYTES // 2)])
def test_a_value_is_one_line_of_bounded_length(value: str) -> None:
    with pytest.raises(EdgeError, match="model x cannot be routed: the entry 'key'"):
        check_entries("model x", {"key": value})


def test_the_errors_can_be_held() -> None:
    check_entries("the edge", error_entries())
    check_entries("the edge", {"key": "v" * (ENTRY_BYTES - len("key "))})
