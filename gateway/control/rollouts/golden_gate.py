"""The golden datasets' gates, run beside the loop: a dataset may have to be pulled, a model may be slow."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from gateway.contract import Announcement, Passing
from gateway.control.state.desired import DesiredModel
from gateway.control.state.versions import Version
from gateway.engine.golden_prompts import has_prompts, read_prompts, score_prompts
from gateway.engine.golden_rows import read_rows, score
from gateway.errors import KitserveError, reason_of
from gateway.kits.library import Library
from gateway.rollout.events import GateFailed, GatesPassed
from gateway.rollout.plan import Golden
from gateway.rollout.state import Reason
from gateway.wording import counted
from runtimes.base import Signature

_THREADS = 4
_AGAIN_SECONDS = 2.0

log = logging.getLogger(__name__)

GateOutcome = GatesPassed | GateFailed | None


class GoldenGate:
    """The gates of all rollouts, each run once; `library` opens the node's library of kits.

    Workers are called with the edge's key, and over TLS where there is `tls`.
    """

    def __init__(
        self, library: Callable[[], Library], edge_key: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self._library = library
        self._edge_key = edge_key
        self._tls = tls
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="golden")
        self._running: dict[tuple[str, int, str, Golden], Future[GateOutcome]] = {}

    def check(
        self,
        number: int,
        golden: Golden,
        model: DesiredModel,
        canary: Version,
        signature: Signature,
        worker: Announcement,
    ) -> GateOutcome:
        """Run the gate of a model's rollout of this number; return its outcome, None while it runs."""
        # A rollout may begin anew under its number, with another canary, and its plan may change.
        key = (model.name, number, canary.app, golden)
        running = self._running.get(key)
        if running is None:
            for earlier in [running for running in self._running if running[0] == model.name]:
                del self._running[earlier]
            self._running[key] = self._threads.submit(self._run, golden, model, canary, signature, worker)
            return None
        if not running.done():
            return None
        del self._running[key]
        return running.result()

    def _run(
        self,
        golden: Golden,
        model: DesiredModel,
        canary: Version,
        signature: Signature,
        worker: Announcement,
    ) -> GateOutcome:
        """Run a gate; None where it could not be run, for a reason that may pass."""
        try:
            reference = canary.reference.reference
            dataset = self._library().dataset(
                reference, golden.dataset, model.policy, canary.parent_references
            )
            address = (worker.host, worker.port)
            if has_prompts(dataset):
                prompts = read_prompts(dataset)
                result = score_prompts(prompts, model.name, address, self._edge_key, self._tls)
            else:
                rows, path = read_rows(dataset, golden, signature), f"/v2/models/{model.name}/infer"
                result = score(rows, golden, signature, address, path, self._edge_key, self._tls)
        except Exception as error:
            if Passing.of(error) is not None:
                log.warning("golden.retried", extra={"app": canary.app, "reason": reason_of(error)})
                time.sleep(_AGAIN_SECONDS)
                return None
            if not isinstance(error, KitserveError):
                log.exception("golden.failed", extra={"app": canary.app})
            return GateFailed(Reason.GOLDEN_FAILED, reason_of(error))
        message = (
            f"{result.right:g} of {counted(result.rows, 'row')} of {dataset.path} answered as expected "
            f"({result.share * 100:.3g} %, at least {golden.min * 100:g} % are required)"
        )
        log.info("golden.checked", extra={"app": canary.app, "right": result.right, "rows": result.rows})
        return (
            GatesPassed(message) if result.share >= golden.min else GateFailed(Reason.GOLDEN_FAILED, message)
        )
