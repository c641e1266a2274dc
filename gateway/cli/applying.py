"""A config on its way to a running Kitserve, and what it changes there."""

from __future__ import annotations

from gateway.cli.admin_client import AdminClient
from gateway.config.changes import config_changes
from gateway.config.config import GatewayConfig
from gateway.config.secrets import without_secrets

_UNCHANGED = "the config is as before; what failed is tried again, and tags are resolved again"


def apply_config(client: AdminClient, config: GatewayConfig) -> tuple[int, list[str]]:
    """Apply a config; returns its generation, and what it changes, in lines for people.

    Raises:
        ConfigError, ControlError: when it is refused, or nobody answers.
    """
    before = client.config()
    generation = client.apply(config)
    after = without_secrets(client.sent(config).model_dump(mode="json"))
    after["kitops_home"] = after["kitops_home"] or before.get("kitops_home")
    return generation, config_changes(before, after) or [_UNCHANGED]
