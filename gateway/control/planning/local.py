"""The plan of a config where no gateway is asked: against another file, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateway.config.config import GatewayConfig
from gateway.config.secrets import without_secrets
from gateway.control.planning.documents import ConfigPlan
from gateway.control.planning.hypothesis import serving
from gateway.control.planning.planner import Wanted, make_plan, resolve
from gateway.control.planning.present import Against, Present
from gateway.control.state.desired import Desired, desired_from
from gateway.control.state.snapshot import Observed, Recorded
from gateway.gpus.nvml import read_gpus
from gateway.kits.library import Library, cache_directory
from gateway.metrics.machine import usable_memory

_NOTHING = Recorded(Desired(), {}, {}, {}, {})


def local_plan(
    config: GatewayConfig, before: GatewayConfig | None, home: Path, *, may_pull: bool
) -> ConfigPlan:
    """Return what a config changes of another one, as if that were served from this home; None: of none.

    Raises:
        KitserveError: where this machine's disk fails.
    """
    desired = desired_from(config)
    with _library(home, desired, may_pull) as library:
        present = Present(Against.NOTHING, _NOTHING, Observed({}, ()), {}, machine=usable_memory())
        if before is not None:
            desired_before = desired_from(before)
            with ThreadPoolExecutor() as pool:
                pins = resolve(present, desired_before, library, pool).pins
            recorded, observed = serving(desired_before, pins)
            present = Present(
                Against.FILE,
                recorded,
                observed,
                _document(before),
                gpus=read_gpus(),
                machine=present.machine,
            )
        return make_plan(present, Wanted(desired, _document(config)), library, may_pull=may_pull)


@contextmanager
def _library(home: Path, desired: Desired, may_pull: bool) -> Iterator[Library]:
    """Open a preview of the cache in a home; where there is none, of an empty one that is gone afterwards."""
    if may_pull or cache_directory(home).is_dir():
        yield Library(cache_directory(home), desired.sources, desired.cache_limit, is_preview=True)
        return
    with TemporaryDirectory(prefix="kitserve-plan-") as directory:
        yield Library(Path(directory), desired.sources, desired.cache_limit, is_preview=True)


def _document(config: GatewayConfig) -> Mapping[str, Any]:
    return without_secrets(json.loads(config.model_dump_json()))
