"""The first row of a kit's golden dataset: better for a version's first call than anything made up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from gateway.engine.golden_prompts import read_prompts
from gateway.engine.golden_rows import first_inputs, read_rows
from gateway.errors import KitError, KitserveError
from gateway.kits.datasets import Dataset
from gateway.kits.policy import ANYTHING, Policy
from gateway.oci.reference import Reference
from gateway.rollout.plan import Golden
from runtimes.base import Array, Signature


class Datasets(Protocol):
    """Where a dataset of a kit comes from."""

    def dataset(self, reference: Reference, name: str, policy: Policy = ANYTHING) -> Dataset:
        """Return a dataset; see `Library.dataset`."""
        ...


class FetchedDataset:
    """The golden dataset of a version, fetched before its model is loaded: nothing is after that."""

    def __init__(
        self, library: Datasets, reference: Reference, golden: Golden | None, policy: Policy
    ) -> None:
        self._dataset: Dataset | None = None
        self._error: KitserveError | OSError = KitError("no dataset was fetched")
        if golden is not None:
            try:
                self._dataset = library.dataset(reference, golden.dataset, policy)
            except (KitserveError, OSError) as error:
                self._error = error

    def dataset(self, reference: Reference, name: str, policy: Policy = ANYTHING) -> Dataset:  # noqa: ARG002
        """Return the dataset that was fetched, or raise why it was not."""
        if self._dataset is None:
            raise self._error
        return self._dataset


log = logging.getLogger(__name__)


def golden_inputs(
    library: Datasets, reference: Reference, golden: Golden, policy: Policy, signature: Signature
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
    library: Datasets, reference: Reference, golden: Golden, policy: Policy
) -> Mapping[str, Any] | None:
    """Return the body of a chat completion with the first prompt of a golden dataset; None as above."""
    try:
        return read_prompts(library.dataset(reference, golden.dataset, policy))[0].call
    except (KitserveError, OSError) as error:
        _pass_over(reference, error)
        return None


def _pass_over(reference: Reference, error: Exception) -> None:
    log.info("golden.unused", extra={"kit": str(reference), "reason": str(error)})
