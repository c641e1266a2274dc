"""The secret by which sticky callers are divided."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.edge.sticky import sticky_key
from gateway.errors import StoreError


def test_it_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    key = sticky_key(tmp_path)
    assert len(bytes.fromhex(key)) == 32
    assert sticky_key(tmp_path) == key
    (tmp_path / "other").mkdir()
    assert sticky_key(tmp_path / "other") != key
    assert stat.S_IMODE((tmp_path / "sticky.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "x" * 64, "ab"])
def test_a_damaged_one_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "sticky.key").write_text(content)
    with pytest.raises(StoreError, match="remove it"):
        sticky_key(tmp_path)


def test_a_home_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        sticky_key(tmp_path / "none")
