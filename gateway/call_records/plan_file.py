"""Reads the plan of a rollout from a file of its own, as it stands in a config below a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.config.faults import describe_faults
from gateway.config.kits import Strict
from gateway.config.rollout import Rollout
from gateway.config.yaml_file import read_yaml
from gateway.errors import ConfigError
from gateway.rollout.plan import Metric, Plan


class _File(Strict):
    rollout: Rollout


def read_plan(path: Path) -> Plan:
    """Read the plan in a file: a `rollout:` block, or what stands in one.

    Raises:
        ConfigError: with one line for each fault in the file, or what of it records cannot show.
    """
    source = str(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(source, [f"it cannot be read: {error}"]) from error
    value, lines, faults = read_yaml(text, source)
    if not isinstance(value, dict) or not value:
        raise ConfigError(source, ["line 1: write `rollout:` with `steps:` and `checks:`, as in a config"])
    root: type[BaseModel] = _File if "rollout" in value else Rollout
    try:
        written: Any = root.model_validate(value)
    except ValidationError as error:
        raise ConfigError(source, [*faults, *describe_faults(error.errors(), lines, root)]) from None
    if faults:
        raise ConfigError(source, faults)
    plan: Plan = (written.rollout if isinstance(written, _File) else written).plan()
    agreement = plan.checks.agreement
    if agreement is not None and agreement.metric is Metric.PSI:
        fault = "checks.agreement.metric: psi compares what answers hold, which records of calls do not say"
        raise ConfigError(source, [fault])
    return plan
