"""The first row of a kit's golden dataset: better for a version's first call than anything made up."""

from __future__ import annotations

import logging

from gateway.engine.golden_rows import first_inputs, read_rows
from gateway.errors import KitserveError
from gateway.kits.library import Library
from gateway.kits.trust import Policy
from gateway.oci.reference import Reference
from gateway.rollout.plan import Golden
from runtimes.base import Array, Signature

log = logging.getLogger(__name__)


def golden_inputs(
    library: Library, reference: Reference, golden: Golden, policy: Policy, signature: Signature
) -> dict[str, Array] | None:
    """Return the inputs of a golden dataset's first row; None where the kit has none that can be used.

    The rollout's gate says what is wrong with a dataset, so here it is no more than logged.
    """
    try:
        rows = read_rows(library.dataset(reference, golden.dataset, policy), golden, signature)
        return first_inputs(rows, signature)
    except (KitserveError, OSError) as error:
        log.info("golden.unused", extra={"kit": str(reference), "reason": str(error)})
        return None
