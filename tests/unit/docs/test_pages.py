"""What the pages for people refer to is there: other pages, headings, files, commands, configs."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli.lazy import LazyCommand
from gateway.cli.main import app
from gateway.config.config import parse_config
from gateway.config.variables import Variables

ROOT = Path(__file__).parents[3]
PAGES = [
    page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])
    if ".venv" not in page.parts
]
KEYS = ROOT / "tests" / "data" / "homes" / "schema-1"
# A name in small letters that begins like one of our own paths; one with a space or a * is an example.
OUR_PATH = re.compile(r"(?:gateway|runtimes|tests|loadtests|docs|configs)/[A-Za-z0-9_./-]*")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.M)


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page have on GitHub and GitLab."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.M):
        text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = next(n for n in range(100) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{again}" if again else slug)
    return found


def links(page: Path) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", prose(page))


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tables_are_shown_as_tables(page: Path) -> None:
    """Each stands alone, under one head, and its rows have as many cells as the head."""
    for block in re.split(r"\n\s*\n", prose(page)):
        lines = block.strip("\n").splitlines()
        if not any(line.startswith("|") for line in lines):
            continue
        assert all(line.startswith("|") for line in lines), block
        assert [bool(re.fullmatch(r"[| :-]+", line)) for line in lines[:2]] == [False, True], block
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
        assert cells == [cells[0]] * len(lines), block
        assert lines[0] not in lines[1:], block


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_paths_that_are_named_exist(page: Path) -> None:
    paths = [code for code in re.findall(r"`([^`]+)`", prose(page)) if OUR_PATH.fullmatch(code)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_names_of_code_that_are_given_exist(page: Path) -> None:
    for name in re.findall(r"`((?:gateway|runtimes|loadtests)(?:\.\w+)+)`", prose(page)):
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_configs_can_be_used_as_they_are(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(KEYS)
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.DOTALL | re.M):
        variables = Variables({"REGISTRY": "registry.example.com"})
        assert parse_config(block, named(page), variables=variables).model_fields_set


def commands(command: Any, name: str) -> Iterator[str]:
    """The names of a command's own commands, or its own name where it has none."""
    own = getattr(command.loaded if isinstance(command, LazyCommand) else command, "commands", {})
    for word, inner in own.items():
        yield from commands(inner, f"{name} {word}")
    if not own:
        yield name


def test_every_command_is_described() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    missing = []
    names = list(commands(typer.main.get_command(app), "kitserve"))
    assert "kitserve rollout promote" in names
    for name in names:
        *group, word = name.split()
        line = re.search(rf"^\| .*`{' '.join(group)}\b.*\b{word}\b", text, re.M)
        if line is None:
            missing.append(name)
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
