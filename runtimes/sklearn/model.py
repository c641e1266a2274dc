"""A loaded estimator, which answers calls."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtimes.base import Array, Signature
from runtimes.errors import ExecutionError
from runtimes.input_check import unknown_output
from runtimes.sklearn.columns import Columns
from runtimes.sklearn.failures import error_of
from runtimes.sklearn.outputs import arrays_of, typed
from runtimes.sklearn.program import Program
from runtimes.sklearn.rows import Read


@dataclass(frozen=True, slots=True)
class Prepared:
    """An estimator with all that is known of it once it has answered made-up rows."""

    signature: Signature
    columns: Columns
    read: Read
    program: Program
    methods: Mapping[str, str]
    """The method that gives each output."""
    labels: Mapping[str, tuple[str, ...]]
    example: Mapping[str, Array]
    """Inputs of one row that it has answered; empty where it has answered none."""
    are_rows_independent: bool
    threads: int


class SklearnModel:
    """An estimator. Its outputs have the names of its methods, see `runtimes.sklearn.outputs`."""

    device = "cpu"

    def __init__(self, prepared: Prepared, platform: str = "sklearn_pickle") -> None:
        self.platform = platform
        self.signature = prepared.signature
        self.labels = prepared.labels
        self.example = prepared.example
        self.pays_to_batch = prepared.are_rows_independent
        """A run of many rows costs little more than one of a single row: most is the library's checks."""
        self._columns = prepared.columns
        self._methods = prepared.methods
        self._datatypes = {spec.name: spec.datatype for spec in prepared.signature.all_outputs}
        self._default = tuple(spec.name for spec in prepared.signature.outputs)
        self._prepared: Prepared | None = prepared
        self._threads = prepared.threads
        self._limited = threading.local()

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        prepared = self._prepared
        if prepared is None:
            raise ExecutionError("the model is closed")
        names = outputs or self._default
        for name in names:
            if name not in self._methods:
                raise unknown_output(name, tuple(self._methods))
        self._limit_threads()
        rows = prepared.read(inputs)
        methods = tuple(dict.fromkeys(self._methods[name] for name in names))
        try:
            results = prepared.program(rows, methods)
            arrays = _arrays(results)
            return {name: typed(arrays[name], self._datatypes[name]) for name in names}
        except Exception as error:
            raise error_of(error, self._columns, inputs, bool(self.example)) from error

    def close(self) -> None:
        """Free the estimator."""
        self._prepared = None

    def _limit_threads(self) -> None:
        """Limit the threads of linear algebra and OpenMP, which keeps its limit for each thread of ours."""
        if not getattr(self._limited, "is_done", False):
            from threadpoolctl import threadpool_limits

            threadpool_limits(self._threads)
            self._limited.is_done = True


def _arrays(results: Mapping[str, Any]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for method, result in results.items():
        arrays |= arrays_of(method, result)
    return arrays
