"""What the models of versions take and give, as their workers once said; it outlives workers and gateway."""

from __future__ import annotations

from gateway.contract import Announcement, AppName, Description, WorkerState
from gateway.control.state.database import State


class Descriptions:
    """The descriptions of all versions, by app.

    A worker reports often, so its description comes only when it is asked for: by the answer to
    a report that has none, while none is known.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._known = state.descriptions()

    def hear(self, announcement: Announcement) -> bool:
        """Take a worker's report; returns whether it is to describe its model with the next one."""
        if announcement.app in self._known or announcement.state is not WorkerState.READY:
            return False
        if announcement.description is None:
            return True
        self._state.describe_version(announcement.app, announcement.description)
        # read back, so that versions that are gone leave this process too
        self._known = self._state.descriptions()
        return False

    def of(self, app: AppName) -> Description | None:
        """A version's description; None before it was ready for the first time."""
        return self._known.get(app)
