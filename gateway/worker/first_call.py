"""The first call on a loaded model, by which its worker learns whether it can answer."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from gateway.contract import WorkerSpec
from gateway.engine.first_call import answer_first_call
from gateway.errors import UnusableModel
from gateway.serving import Generation
from gateway.worker.example import KitExample
from gateway.worker.golden import FetchedDataset, golden_inputs, golden_prompt
from runtimes.base import ModelInChild, TensorModel
from runtimes.engines.base import OpenAIModel
from runtimes.errors import Unsupported

log = logging.getLogger(__name__)


class Note(Protocol):
    """Changes fields of the worker's next `Announcement`; may be called from any thread."""

    def __call__(self, **changes: object) -> None: ...


class FirstCall:
    """The first call on the model of one worker; `note` is told how it went."""

    def __init__(self, spec: WorkerSpec, note: Note) -> None:
        self._spec = spec
        self._note = note

    def answer_call(
        self,
        model: TensorModel,
        child: ModelInChild | None,
        datasets: FetchedDataset,
        example: KitExample,
    ) -> str:
        """Return why the first call failed, "" where it did not. Raises UnusableModel where all would."""
        spec, inputs = self._spec, None
        if spec.golden is not None:
            reference = spec.reference.reference
            inputs = golden_inputs(datasets, reference, spec.golden, spec.policy, model.signature)
        started, end = time.perf_counter(), spec.serving.load_timeout
        try:
            if inputs is not None:
                reason = answer_first_call(model, inputs, end_seconds=end)
            else:
                reason = answer_first_call(
                    model, example.inputs, pass_over=example.pass_over, end_seconds=end
                )
        except Unsupported as error:
            raise UnusableModel(f"{spec.reference}: no call can be answered: {error}") from error
        if child is not None and not child.is_alive():
            raise UnusableModel(f"{spec.reference}: its first call ended it: {child.failure()}")
        self._tell(reason, started)
        return reason

    def answer_prompt(self, model: OpenAIModel, generation: Generation, datasets: FetchedDataset) -> str:
        """Return why a language model's first call failed, "" where it did not. Raises UnusableModel."""
        # Workers of other models do not need it.
        from gateway.worker.first_prompt import answer_first_prompt

        spec, prompt = self._spec, None
        if spec.golden is not None:
            prompt = golden_prompt(datasets, spec.reference.reference, spec.golden, spec.policy)
        started = time.perf_counter()
        reason = answer_first_prompt(model, spec.model, generation, prompt)
        self._tell(reason, started)
        return reason

    def _tell(self, reason: str, started: float) -> None:
        self._note(first_call=reason)
        seconds = round(time.perf_counter() - started, 3)
        level = logging.WARNING if reason else logging.INFO
        log.log(level, "worker.first_call", extra={**self._spec.names, "seconds": seconds, "reason": reason})
