"""How long a model may load: after that its version has failed, whatever the code that loads it does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import UnusableModel
from gateway.worker.hang import HangTimer

_GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)


class LoadLimit:
    """Bounds the load of one worker.

    Two things watch it: a thread, and where the load keeps Python's interpreter to itself, a `HangTimer`.
    That can report nothing: the next worker of the version does, in place of loading it again.

    Args:
        home: the node's directory.
        app: the version's application.
        seconds: how long each step may take.
        give_up: called from a thread of its own where the load goes on; the process is to end.
    """

    def __init__(
        self, home: Path, app: str, seconds: float, give_up: Callable[[UnusableModel], None]
    ) -> None:
        self._home = home
        self._app = app
        self._seconds = seconds
        self._give_up = give_up

    @contextmanager
    def held(self) -> Iterator[None]:
        """Bound one step of the load.

        Raises:
            UnusableModel: where an earlier worker of the version was ended in it, as it took too long.
        """
        timer = HangTimer(self._home, f"{self._app}.load")
        overdue = threading.Timer(self._seconds, self._give_up, [self._failure()])
        overdue.daemon = True
        try:
            if threads := timer.earlier():
                log.error("load.hung", extra={"app": self._app, "threads": threads})
                raise self._failure()
            timer.set(self._seconds + _GRACE_SECONDS)
            overdue.start()
            yield
        finally:
            overdue.cancel()
            timer.stop()

    def _failure(self) -> UnusableModel:
        return UnusableModel(
            f"the model did not load within {self._seconds:g} s; it may never end, else give it more time "
            "with `load_timeout`"
        )
