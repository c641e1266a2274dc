"""The end of an engine's log: what it wrote last, and the lines of that which say why it failed."""

from __future__ import annotations

import re
import threading

_KEPT = 64 * 1024
_SHOWN_LINES = 6
_SHOWN_LETTERS = 1_200

_CONTROLS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\x20-\x7e\xa0-\uffff\t]")
_TROUBLE = re.compile(
    r"\b(?:error|exception|fail(?:ed|ure|s)?|unable|cannot|could not|couldn't|invalid|unknown|unsupported"
    r"|missing|mismatch|not (?:found|supported|enough)|out of (?:memory|range|bounds)"
    r"|bad_alloc|terminate|assert)",
    re.IGNORECASE,
)


class EngineLog:
    """The last 64 KiB that an engine wrote. Written by one thread, and read by any."""

    def __init__(self) -> None:
        self.size = 0
        """How many bytes were written in all."""
        self._tail = bytearray()
        self._lock = threading.Lock()

    def write(self, chunk: bytes) -> None:
        """Add what the engine wrote."""
        with self._lock:
            self.size += len(chunk)
            self._tail += chunk
            del self._tail[:-_KEPT]

    @property
    def text(self) -> str:
        """What is kept, without control characters, colours and empty lines."""
        with self._lock:
            text = self._tail.decode(errors="replace")
        lines = (_CONTROLS.sub("", line).strip() for line in text.splitlines())
        return "\n".join(filter(None, lines))

    def ending(self) -> str:
        """Return ": " and the last lines that tell of trouble, else the last lines; "" of an empty log."""
        lines = list(dict.fromkeys(self.text.splitlines()))
        lines = [line for line in lines if _TROUBLE.search(line)] or lines
        text = " | ".join(lines[-_SHOWN_LINES:])
        if len(text) > _SHOWN_LETTERS:
            text = "… " + text[-_SHOWN_LETTERS:]
        return text and f": {text}"
