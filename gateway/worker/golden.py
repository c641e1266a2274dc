"""The first row of a kit's golden dataset: better for a version's first call than anything made up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gateway.engine.golden_prompts import read_prompts
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
        _pass_over(reference, error)
        return None


def golden_prompt(
    library: Library, reference: Reference, golden: Golden, policy: Policy
) -> Mapping[str, Any] | None:
    """Return the body of a chat completion with the first prompt of a golden dataset; None as above."""
    try:
        return read_prompts(library.dataset(reference, golden.dataset, policy))[0].call
    except (KitserveError, OSError) as error:
        _pass_over(reference, error)
        return None


def _pass_over(reference: Reference, error: Exception) -> None:
    log.info("golden.unused", extra={"kit": str(reference), "reason": str(error)})
