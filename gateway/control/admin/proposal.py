"""A config that a caller sends, to be put in force or planned: read, and within what they may change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from gateway.config.config import GatewayConfig, parse_config
from gateway.control.admin.callers import Caller, Role
from gateway.control.admin.owner_fields import owner_changes, relative_paths
from gateway.control.state.database import NO_CONFIG
from gateway.control.state.desired import Desired, desired_from
from gateway.errors import ConfigError
from runtimes import select as runtimes

MAX_CONFIG_BYTES = 1024 * 1024
_OWNERS = (
    "only the user of Kitserve may change this, on its machine, with `kitserve apply` over the socket of the "
    "admin API: {}"
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A config that its caller may put in force."""

    config: GatewayConfig
    desired: Desired


def read_proposal(caller: Caller, text: str, document: str) -> Proposal:
    """Read a config that a caller sends.

    Args:
        caller: who sends it.
        text: the config.
        document: the config in force, in JSON.

    Raises:
        ConfigError: with one line for each fault in it.
        HTTPException: 403 where it changes what only the owner may.
    """
    config = parse_config(text, needs_models=True, runtimes=runtimes.names(), may_read_files=False)
    in_force = in_force_from(document)
    wanted = config.model_dump(mode="json")
    if caller.role is not Role.OWNER:
        if config.kitops_home is None:
            config = config.model_copy(update={"kitops_home": _path(in_force.get("kitops_home"))})
            wanted = config.model_dump(mode="json")
        if changes := owner_changes(in_force, wanted):
            raise HTTPException(403, _OWNERS.format(", ".join(changes)))
    if paths := relative_paths(wanted):
        raise ConfigError("config", [f"{path}: write an absolute path" for path in paths])
    return Proposal(config, desired_from(config))


def in_force_from(document: str) -> Mapping[str, Any]:
    """Return the config in force, as JSON has it; before the first, the defaults hold."""
    value: Mapping[str, Any] = (
        json.loads(document) if document != NO_CONFIG else GatewayConfig().model_dump(mode="json")
    )
    return value


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
