"""The pages about the code say what the code says: rooms and their order, a body's way, tables, names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import gateway.worker.app
from gateway.control.state.migrations import TABLES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.M)
CODE = re.findall(r"`([^`\n]+)`", PROSE)
SOURCES = [path.read_text() for room in ("gateway", "runtimes") for path in (ROOT / room).rglob("*.py")]


def first_column(heading: str) -> list[str]:
    """Return the code in the first column of the first table below a heading."""
    section = PAGE.partition(f"\n{heading}")[2]
    rows = re.search(r"^\| --- .*\n((?:\|.*\n)+)", section, re.M)
    assert rows is not None
    return [code for row in rows[1].splitlines() for code in re.findall(r"`([^`]+)`", row.split("|")[1])]


def layers() -> list[list[str]]:
    """Return the rooms that the contract on imports has on each layer, from the top; each room once."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract["type"] == "layers"]
    rooms: list[list[str]] = []
    for layer in contract["layers"]:
        names = ["/".join(name.split(".")[:2]) for name in re.split(r"\s*[|:]\s*", layer)]
        if not rooms or names[0] not in rooms[-1]:
            rooms.append(list(dict.fromkeys(names)))
    return rooms


def rooms_in(package: str) -> set[str]:
    """Return the packages and modules in a package."""
    paths = (ROOT / package).iterdir()
    return {path.stem for path in paths if path.suffix in ("", ".py") and not path.name.startswith("_")}


def rooms_on_the_page() -> list[str]:
    rooms = [room.removesuffix(".py").strip("/") for room in first_column("## The rooms")]
    return [room if room == "runtimes" else f"gateway/{room}" for room in rooms]


def test_the_rooms_stand_in_the_order_of_the_contract() -> None:
    remaining = rooms_on_the_page()
    for layer in layers():
        assert sorted(remaining[: len(layer)]) == sorted(layer)
        remaining = remaining[len(layer) :]
    assert remaining == []


def test_the_picture_of_the_rooms_is_the_contract() -> None:
    picture = PAGE.partition("## The rooms")[2].split("```")[1]
    drawn = [[room for room in row.split() if room != "│"] for row in picture.splitlines() if row.strip()]
    assert [sorted(row) for row in drawn] == [
        sorted(room.rpartition("/")[2] for room in layer) for layer in layers()
    ]


def test_every_room_is_on_the_page() -> None:
    assert set(rooms_on_the_page()) == {f"gateway/{room}" for room in rooms_in("gateway")} | {"runtimes"}
    control = {f"control/{room}/" for room in rooms_in("gateway/control")}
    assert set(first_column("The rooms of the gateway")) == control - {"control/gateway/"}


def test_a_body_enters_the_files_that_the_worker_says() -> None:
    files = re.compile(r"^ +\d+\. +`?([\w/]+\.py)\b", re.M)
    listed = files.findall(PAGE)
    assert listed == files.findall(gateway.worker.app.__doc__ or "")
    assert len(listed) == 10


def test_the_tables_of_the_database_are_all_described() -> None:
    created = [re.findall(r"EXISTS (\w+)", table)[0] for table in TABLES]
    assert sorted(first_column("`state.db` has these tables")) == sorted(created)


def test_every_path_exists() -> None:
    paths = [code for code in CODE if re.fullmatch(r"(?!HOME/)[\w/.]+(?:\.py|\.j2|/)", code)]
    missing = [path for path in paths if not ((ROOT / path).exists() or (ROOT / "gateway" / path).exists())]
    assert missing == []
    assert len(paths) > 100


def defines(source: str, name: str, attribute: str) -> bool:
    is_defined = re.search(rf"^(?:class|def) {name}\b|^{name}(?:: [^=]+)? = ", source, re.M) is not None
    return is_defined and re.search(rf"\b{attribute}\b", source) is not None


@pytest.mark.parametrize("code", sorted({code for code in CODE if re.fullmatch(r"_?[A-Z]\w+(\.\w+)?", code)}))
def test_every_name_is_defined(code: str) -> None:
    name, _, attribute = code.partition(".")
    assert any(defines(source, name, attribute or name) for source in SOURCES)


def test_the_glossary_is_short_and_in_order() -> None:
    sections = (ROOT / "docs" / "glossary.md").read_text().split("\n## ")
    assert len(sections) == 4
    for section in sections:
        words = re.findall(r"^- \*\*(.+?)\*\*", section, re.M)
        assert words == sorted(words)
        assert 0 < len(words) <= 20
