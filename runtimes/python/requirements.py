"""The packages that a kit's Python asks for: its requirements.txt, and the wheels that it brings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from runtimes.errors import LoadError

FILE = "requirements.txt"
WHEELS = "wheels"
"""The directory beside it with wheels, which are taken first."""

_MAX_BYTES = 256 * 1024
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9._*+!-]+"
_VERSIONS = rf"(?:{_VERSION}(?:\s*,\s*{_VERSION})*|\(\s*{_VERSION}(?:\s*,\s*{_VERSION})*\s*\))"
# PEP 508 without addresses and paths, and the option of pip that makes a requirement stricter.
_REQUIREMENT = re.compile(
    rf"{_NAME}(?:\s*\[[A-Za-z0-9._,\s-]*\])?\s*{_VERSIONS}?\s*(?:;[^\\@]+?)?"
    r"(?:\s+--hash=sha(?:256|384|512):[0-9a-f]+)*"
)


class Sources(StrEnum):
    """Where the packages may come from; the value of each is its name in a config."""

    KIT = "kit"
    """Wheels of the kit, and the packages that Kitserve itself has."""
    INDEX = "index"
    """Those wheels first, and then the node's package index."""
    NEVER = "never"
    """A kit with requirements is refused."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is to be installed."""

    lines: tuple[str, ...]
    file: Path
    wheels: tuple[Path, ...] = ()
    """The files of wheels that the kit brings, by name."""

    @property
    def wheel_directory(self) -> Path | None:
        """Where the wheels are; None without any."""
        return self.wheels[0].parent if self.wheels else None


def find_requirements(entry: Path, root: Path) -> Requirements | None:
    """Return the requirements of a kit below `root`; None where it has none.

    The file is looked for beside the entry, and then in each directory above it in the kit; the wheels
    likewise.

    Raises:
        LoadError: it has a line that is no plain requirement.
    """
    parents = [parent for parent in entry.parents if parent == root or root in parent.parents]
    file = next((parent / FILE for parent in parents if (parent / FILE).is_file()), None)
    if file is None:
        return None
    wheels = next((parent / WHEELS for parent in parents if (parent / WHEELS).is_dir()), None)
    lines = _lines(file)
    if not lines:
        return None
    return Requirements(lines, file, () if wheels is None else tuple(sorted(wheels.glob("*.whl"))))


def _lines(file: Path) -> tuple[str, ...]:
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{file} cannot be read: {error}") from error
    if len(data) > _MAX_BYTES:
        raise LoadError(f"{file} has {len(data)} bytes, and {_MAX_BYTES} are the most")
    lines = []
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        # The pattern would try each way to share out a long run of blanks.
        requirement = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
        if not requirement:
            continue
        if not _REQUIREMENT.fullmatch(requirement):
            raise LoadError(
                f"{file}: {requirement[:100]!r} is no plain requirement: write names with versions, such as "
                "`pillow>=11`, and no options, addresses or paths; bring other packages as wheels, in the "
                f"directory `{WHEELS}` beside it"
            )
        lines.append(requirement)
    return tuple(lines)
