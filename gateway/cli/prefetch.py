"""The kits of a config, brought to this machine while Ray starts: the gateway then finds them in the cache.

Nothing is decided here. What a reference means, and whether its kit may be served, the gateway finds out
itself; what fails here fails there again, and is told.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path

from gateway.config.config import GatewayConfig
from gateway.control.loop.library import open_library
from gateway.control.loop.resolver import find_kit
from gateway.control.loop.retries import host_of
from gateway.control.state.desired import Desired, desired_from
from gateway.errors import KitserveError, NotFound, NotTrusted, RegistryError, reason_of
from gateway.kits.examination import is_small
from gateway.kits.library import Library
from gateway.oci.reference import Reference

log = logging.getLogger(__name__)


class Prefetch:
    """Resolves, judges and fetches small kits, one after the other, in a thread that nobody waits for.

    Large kits are left to the workers, which show how far they are. A registry that fails is asked no more.
    """

    def __init__(self, config: GatewayConfig, home: Path) -> None:
        self._desired = desired_from(config)
        self._home = home
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Fetch no other kit after the one that is being fetched."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            library = open_library(self._home, self._desired)
        except KitserveError as error:
            log.debug("kit.not_prefetched", extra={"reason": reason_of(error)})
            return
        failed_hosts: set[str] = set()
        for reference in dict.fromkeys(kit for model in self._desired.models for kit in model.kits):
            if self._stopping.is_set():
                return
            host = host_of(reference)
            if host in failed_hosts:
                continue
            try:
                fetch(library, reference, self._desired)
            except (KitserveError, OSError) as error:
                # A wrong password, sent for each kit, locks accounts; a silent registry keeps others back.
                if host and isinstance(error, RegistryError) and not isinstance(error, NotFound):
                    failed_hosts.add(host)
                log.debug("kit.not_prefetched", extra={"kit": str(reference), "reason": reason_of(error)})


def fetch(library: Library, reference: Reference, desired: Desired) -> None:
    """Bring a kit to this node, if it is small, by the policy of the first model that may use it.

    Raises:
        KitserveError: when it cannot be had.
    """
    kit = find_kit(library, reference, desired)
    if not is_small(library, kit):
        return
    parents = [parent.reference for parent in kit.parents]
    for use in desired.uses(reference):
        with contextlib.suppress(NotTrusted):
            library.open(kit.reference, policy=use.policy, parents=parents).lease.release()
            return
