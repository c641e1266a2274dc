"""Documents that are written once for each change of what they tell, and answered as bytes.

They name the host that the caller called. So that callers of many hosts cost nothing, they are written with a
host that stands for all, in whose place the caller's is put: one for names, one for addresses in brackets,
which commands have to quote.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_NAME, _ADDRESS = "kitserve-host.invalid", "[fd00:4b69:7473:6572::7665]"
_MAX_KEPT = 32


class Rendered:
    """The documents that were written; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: tuple[object, ...] = ()
        self._documents: dict[tuple[str, str], bytes] = {}

    def document(
        self, name: str, host: str, sources: tuple[object, ...], write: Callable[[str], bytes]
    ) -> bytes:
        """Return a document for callers of `host`; `write` writes it for a host.

        It is written again once one of `sources`, what all documents are written from, has changed.
        """
        stand_in = _ADDRESS if host.startswith("[") else _NAME
        key = name, stand_in
        # One at a time: where all callers ask at once, all but one get what that one has written.
        with self._lock:
            if sources != self._sources:
                self._documents.clear()
                self._sources = sources
            content = self._documents.get(key)
            if content is None:
                content = write(stand_in)
                if len(self._documents) >= _MAX_KEPT:
                    self._documents.clear()
                self._documents[key] = content
        return content.replace(stand_in.encode(), host.encode())
