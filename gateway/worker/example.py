"""A kit's example of a call, as a version uses it: for its first call, and in its documentation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.engine.example import example_inputs, example_text
from gateway.errors import KitError
from gateway.kits.examples import read_example
from gateway.kits.library import UnpackedKit
from gateway.kits.mlflow import MLflowModel
from runtimes.base import Array, Signature

log = logging.getLogger(__name__)


@dataclass(slots=True)
class KitExample:
    """The example of a kit. That the model does not take it is logged, and no fault."""

    reference: str
    inputs: Mapping[str, Array] | None = field(default=None)
    """Those of a call; None where the kit has no example, or one that does not fit the model."""

    @classmethod
    def of(cls, kit: UnpackedKit, mlflow: MLflowModel | None, signature: Signature) -> KitExample:
        """Read the example of a kit whose model has this signature."""
        example = cls(str(kit.kit.reference))
        try:
            content = read_example(kit, mlflow)
            example.inputs = None if content is None else example_inputs(content, signature)
        except KitError as error:
            example.pass_over(str(error))
        return example

    def pass_over(self, reason: str) -> None:
        """Use it no more."""
        self.inputs = None
        log.warning("example.unused", extra={"kit": self.reference, "reason": reason})

    @property
    def text(self) -> str:
        """The JSON of the call, for people; "" where there is none, or it is too long."""
        return "" if self.inputs is None else example_text(self.inputs)
