"""What a config is compared with: a gateway that runs, another file, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.contract import AppName, Description
from gateway.control.state.snapshot import Observed, Recorded
from gateway.gpus.devices import Gpus
from gateway.metrics.machine import MachineMemory
from gateway.oci.reference import Digest, Reference


class Against(StrEnum):
    """What a config is compared with."""

    RUNNING = "running"
    FILE = "file"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Present:
    """How things are before a config is in force."""

    against: Against
    recorded: Recorded
    observed: Observed
    document: Mapping[str, Any]
    """The config in force, as JSON has it, without secrets; {} for none."""
    describe: Callable[[AppName], Description | None] = lambda _: None
    """What a version's model takes and gives; None where nobody knows."""
    last_pin: Callable[[Reference], Digest | None] = lambda _: None
    """What a reference last meant, under whatever config."""
    gpus: Gpus = field(default_factory=Gpus)
    """The GPUs that workers have; none where that is not known here."""
    machine: MachineMemory | None = None
    """The memory that workers have; None where that is not known here."""
