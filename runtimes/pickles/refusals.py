"""Why a pickle is refused."""

from __future__ import annotations

from runtimes.errors import LoadError


class Refused(LoadError):
    """A known pickle does what none of its libraries does."""


class NotListed(Refused):
    """A pickle imports a name that is not on the list."""

    def __init__(self, name: str) -> None:
        shown = "".join(letter if letter.isprintable() else "?" for letter in name[:80])
        super().__init__(f"it imports {shown}, which is not on the list of known names")
        self.name = name
