"""The admin API's answer to `kitserve plan`: what a config would change of what runs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.config.secrets import without_secrets
from gateway.contract import AppName, Description
from gateway.control.admin.gate import caller_of
from gateway.control.admin.proposal import MAX_CONFIG_BYTES, Proposal, in_force_from, read_proposal
from gateway.control.planning.documents import ConfigPlan
from gateway.control.planning.planner import Wanted, make_plan
from gateway.control.planning.present import Against, Present
from gateway.control.state.database import State
from gateway.control.state.desired import Desired
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.web.requests import read_change
from gateway.errors import ConfigError
from gateway.gpus.devices import Gpus
from gateway.gpus.nvml import read_gpus
from gateway.kits.library import Library, cache_directory
from gateway.metrics.machine import MachineMemory

_TICKS_SECONDS = 5.0
_LOOK_SECONDS = 0.1

log = logging.getLogger(__name__)


class Viewer(Protocol):
    """What looks at everything: the reconcile loop."""

    view: tuple[Recorded, Observed] | None


class PlanApi:
    """Answers what a config would change; it changes nothing.

    Args:
        state: the gateway's database.
        viewer: knows what is remembered and seen now.
        describe: gives what a version's model takes and gives.
        home: where the cache is.
        faults: tells why a config cannot run on what there is, a line for each fault.
        machine: returns the memory that workers have; None where they are on other machines.
    """

    def __init__(
        self,
        state: State,
        viewer: Viewer,
        describe: Callable[[AppName], Description | None],
        home: Path,
        faults: Callable[[Desired], list[str]],
        machine: Callable[[], MachineMemory | None],
    ) -> None:
        self._state = state
        self._viewer = viewer
        self._describe = describe
        self._home = home
        self._faults = faults
        self._machine = machine
        # Each asks registries in threads of its own, and may pull.
        self._planning = asyncio.Lock()

    def routes(self) -> list[Route]:
        """The path that this API answers."""
        return [Route("/api/plan", self._plan, methods=["POST"])]

    async def _plan(self, request: Request) -> Response:
        body = await read_change(request, MAX_CONFIG_BYTES)
        caller = caller_of(request)
        text, may_pull = _order(body)
        async with self._planning:
            recorded, observed = await self._view()
            _, document = self._state.document()
            # A large one takes longer to read than this loop may be silent.
            proposal = await asyncio.to_thread(read_proposal, caller, text, document)
            plan = await asyncio.to_thread(self._make, proposal, document, (recorded, observed), may_pull)
        fields = {"caller": caller.name, "has_changes": plan.has_changes, "is_refused": plan.is_refused}
        log.info("config.planned", extra=fields)
        return JSONResponse(asdict(plan))

    async def _view(self) -> tuple[Recorded, Observed]:
        """Return what is remembered and seen, once the loop has seen the config in force."""
        desired = self._state.desired()
        for _ in range(round(_TICKS_SECONDS / _LOOK_SECONDS)):
            view = self._viewer.view
            if view is not None and view[0].desired.generation >= desired.generation:
                return view
            await asyncio.sleep(_LOOK_SECONDS)
        recorded = Recorded(
            desired=desired,
            pins=self._state.pins(desired.generation),
            failures={},
            versions=self._state.versions(),
            routes=self._state.routes(),
            condemned=self._state.condemned(),
            earlier=self._state.earlier_versions(),
        )
        return recorded, Observed({}, ())

    def _make(
        self, proposal: Proposal, document: str, view: tuple[Recorded, Observed], may_pull: bool
    ) -> ConfigPlan:
        recorded, observed = view
        desired = proposal.desired
        present = Present(
            against=Against.RUNNING if recorded.desired.generation else Against.NOTHING,
            recorded=recorded,
            observed=observed,
            document=without_secrets(in_force_from(document)),
            describe=self._describe,
            last_pin=self._state.last_pin,
            gpus=Gpus() if (machine := self._machine()) is None else read_gpus(),
            machine=machine,
        )
        wanted = Wanted(
            desired,
            without_secrets(json.loads(proposal.config.model_dump_json())),
            tuple(self._faults(desired)),
        )
        library = Library(cache_directory(self._home), desired.sources, desired.cache_limit, is_preview=True)
        return make_plan(present, wanted, library, may_pull=may_pull)


def _order(body: bytes) -> tuple[str, bool]:
    """Return the config, as text, and whether models may be pulled, of `{config: …, pull: …}`."""
    try:
        order: Any = json.loads(body)
        config, may_pull = order["config"], order.get("pull", False)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        config, may_pull = None, False
    if not isinstance(config, dict) or not isinstance(may_pull, bool):
        raise ConfigError("the order", ["send {config: {…}, pull: false}"])
    return json.dumps(config), may_pull
