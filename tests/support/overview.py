"""An overview that tests set by hand, in place of a running gateway's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.contract import AppName, Description
from gateway.control.state.status import Status
from gateway.control.state.workers import AppNumbers
from gateway.metrics.versions import VersionSample


@dataclass
class FixedOverview:
    """See `gateway.control.state.overview.Overview`."""

    status: Status = field(default_factory=Status)
    samples: Sequence[VersionSample] = ()
    counted: dict[AppName, AppNumbers] = field(default_factory=dict)
    descriptions: dict[str, Description] = field(default_factory=dict)

    def version_samples(self) -> Sequence[VersionSample]:
        return self.samples

    def numbers(self) -> dict[AppName, AppNumbers]:
        return self.counted

    def description(self, app: str) -> Description | None:
        return self.descriptions.get(app)
