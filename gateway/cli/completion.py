"""What a shell offers at the Tab key: names of models that run, and references of kits.

Shells put what is offered into a command line, and zsh evaluates it: so only words are offered that mean
nothing to a shell, whatever a registry, a kit or a directory is called. Nothing is said where nobody answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.admin_address import default_home
from gateway.cli.admin_client import AdminClient
from gateway.cli.options import ADMIN_VARIABLE, check_model_name, default_admin
from gateway.files import read_regular

_WORD = re.compile(r"[A-Za-z0-9._/:@+-]+")
_SECONDS = 1.0
_MOST = 200
_LAYOUT = "oci-layout:"
_INDEX = "index.json"
_INDEX_BYTES = 4 * 1024 * 1024
_NAME = "org.opencontainers.image.ref.name"


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the models that run."""
    return _offered(incomplete, lambda: (model["name"] for model in _models(context)))


def model_versions(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the models that run, once one is written out with its versions: MODEL:TAG."""

    def words() -> Iterator[str]:
        for model in _models(context):
            yield model["name"]
            if incomplete.startswith(model["name"]):
                yield from (f"{model['name']}:{version['tag']}" for version in model["versions"])

    return _offered(incomplete, words)


def references(context: typer.Context, incomplete: str) -> list[str]:
    """Return the references of the kits in the cache, and of those in the layout that is being named."""

    def words() -> Iterator[str]:
        yield from _in_layouts(incomplete)
        # Imported here, as the names of models need nothing of kits.
        from gateway.kits.library import Library, cache_directory

        home = context.params.get("home") or default_home()
        cache = cache_directory(Path(home))
        if cache.is_dir():
            for kit in Library(cache).cache.kits():
                yield from kit.names

    return _offered(incomplete, words)


ModelName = Annotated[
    str,
    typer.Argument(
        help="The model's name.", metavar="NAME", callback=check_model_name, autocompletion=model_names
    ),
]


def _models(context: typer.Context) -> list[dict[str, Any]]:
    admin = context.params.get("admin") or os.environ.get(ADMIN_VARIABLE) or default_admin()
    return list(AdminClient(admin, _SECONDS).status()["models"])


def _in_layouts(incomplete: str) -> Iterator[str]:
    """Yield what may follow `oci-layout:`: directories, and the names within the one that is named."""
    if not incomplete.startswith(_LAYOUT):
        yield _LAYOUT
        return
    directory, separator, _ = incomplete.removeprefix(_LAYOUT).partition(":")
    if separator:
        index = json.loads(read_regular(Path(directory) / _INDEX, _INDEX_BYTES))
        for entry in index["manifests"]:
            name = entry.get("annotations", {}).get(_NAME)
            if name:
                yield f"{_LAYOUT}{directory}:{name}"
        return
    parent = directory.rpartition("/")[0]
    start = f"{parent}/" if "/" in directory else ""
    for path in sorted(Path(start or ".").iterdir()):
        if path.is_dir():
            yield f"{_LAYOUT}{start}{path.name}{':' if (path / _INDEX).is_file() else '/'}"


def _offered(incomplete: str, words: Callable[[], Iterable[str]]) -> list[str]:
    """Return those of some words that go on as what is written."""
    matches: list[str] = []
    # Whatever is wrong, a person who types is not told: the command itself will.
    with contextlib.suppress(Exception):
        for word in words():
            if word.startswith(incomplete) and _WORD.fullmatch(word) and word not in matches:
                matches.append(word)
            if len(matches) >= _MOST:
                break
    return matches
