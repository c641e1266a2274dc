"""The config file of `kitserve serve`, applied again: on SIGHUP, and where it is watched once it changes.

It is done as `kitserve apply` does it. A file with a fault changes nothing, and neither does one that the
gateway refuses: what is wrong is told, and what was in force stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.admin_client import AdminClient
from gateway.cli.applying import apply_config
from gateway.cli.file_watch import FileWatch, foreign_writer
from gateway.config.config import GatewayConfig
from gateway.config.source import may_read_again
from gateway.errors import ConfigError, ControlError, KitserveError

_SIGNAL = "SIGHUP"


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """The config file, what reads it, and the lock that is read with it, if one is."""

    path: Path
    load: Callable[[Path], GatewayConfig]
    lock: Path | None = None


class Reload:
    """Applies the file again, when `check` is called next.

    Args:
        source: the config file, as it was when `serve` read it.
        is_watched: whether it is applied whenever it changes, or its lock does.

    Raises:
        ConfigError: when it is to be watched, and cannot be, or others may change it: what they write would
            be in force without anybody who asked for it.
    """

    def __init__(self, source: ConfigSource, is_watched: bool) -> None:
        self._source = source
        self._reason = ""
        """Why it is to be applied; "" where it is not."""
        self._is_waiting = False
        """Whether the gateway did not answer, and is asked again."""
        self._watches: dict[str, FileWatch] = {}
        """What is watched, by the reason that a change of it is."""
        if is_watched:
            self._check_watchable()
            self._watches["it has changed"] = FileWatch(source.path)
            if source.lock is not None:
                self._watches["its lock has changed"] = FileWatch(source.lock)

    def ask(self) -> None:
        """Have the file applied; a signal's handler may call this at any moment."""
        self._reason = _SIGNAL

    def check(self, client: AdminClient, say: Callable[[str], None]) -> None:
        """Apply the file if that was asked for, or it has changed; `say` tells a person what came of it."""
        changes = [change for change, watch in self._watches.items() if watch.has_changed()]
        reason, self._reason = self._reason or next(iter(changes), ""), ""
        if not reason:
            return
        path = self._source.path
        try:
            if reason != _SIGNAL:
                self._check_watchable()
            else:
                for watch in self._watches.values():
                    watch.settle()
            lines = self._apply(client)
        except _Silent as error:
            self._reason = reason
            if not self._is_waiting:
                say(f"{path} ({reason}): waiting for the gateway: {error}")
            self._is_waiting = True
            return
        except KitserveError as error:
            say(f"{path} ({reason}): not applied, and what was in force stays: {error}")
        else:
            say("\n".join([f"{path} ({reason}): applied", *(f"  {line}" for line in lines)]))
        self._is_waiting = False

    def _apply(self, client: AdminClient) -> list[str]:
        path = self._source.path
        if not may_read_again(path):
            raise ControlError("it was a pipe, which cannot be read again; use `kitserve apply`")
        config = self._source.load(path)
        try:
            client.status()
        except ControlError as error:
            raise _Silent(str(error)) from error
        return apply_config(client, config)[1]

    def _check_watchable(self) -> None:
        for path in filter(None, (self._source.path, self._source.lock)):
            _check_watchable(path)


def _check_watchable(path: Path) -> None:
    if not may_read_again(path):
        raise ConfigError(str(path), ["a pipe cannot be watched; name a file"])
    try:
        writer = foreign_writer(path)
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
    if writer:
        raise ConfigError(
            str(path),
            [
                f"{writer}, and what others write must not be in force unasked: so it is not watched; "
                "have it be this user's or root's alone, or send SIGHUP"
            ],
        )


class _Silent(ControlError):
    """No gateway answers now; it is being started again."""
