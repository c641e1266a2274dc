"""The page about calls names each member of the OpenAI API that is not passed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.codec.openai.members import DROPPED, ONLY_AS, REFUSED

PAGE = (Path(__file__).parents[3] / "docs" / "calling.md").read_text()
SECTION = PAGE.partition("\n## Language models\n")[2].partition("\n## ")[0]
ROWS = [row for row in SECTION.splitlines() if row.startswith("| ")]


@pytest.mark.parametrize(
    ("names", "word"), [(REFUSED, "| refused |"), (ONLY_AS, "| refused, unless"), (DROPPED, "| dropped:")]
)
def test_the_table_is_the_codes(names: frozenset[str], word: str) -> None:
    (row,) = (row for row in ROWS if word in row)
    cell = re.sub(r"\(.*?\)", "", row.split("|")[1])
    assert set(re.findall(r"`(\w+)`", cell)) == set(names)
