"""A model that gives back what it is given."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from runtimes.base import Array, Signature, TensorSpec
from runtimes.input_check import InputCheck, unknown_output


class Echo:
    """Gives back an input `x…` as the output `y…`, after `seconds`; `calls` counts the calls."""

    platform = "test_echo"
    device = "cpu"

    def __init__(
        self, *specs: TensorSpec, seconds: float = 0.0, optional: tuple[TensorSpec, ...] = ()
    ) -> None:
        outputs = tuple(TensorSpec(f"y{spec.name[1:]}", spec.datatype, spec.shape) for spec in specs)
        self.signature = Signature(specs, outputs, optional)
        self.seconds = seconds
        self.calls = 0
        self._check = InputCheck(self.signature)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self._check(inputs)
        self.calls += 1
        if self.seconds:
            time.sleep(self.seconds)
        arrays = {f"y{name[1:]}": array for name, array in inputs.items()}
        for name in outputs:
            if name not in arrays:
                raise unknown_output(name, tuple(arrays))
        return {name: arrays[name] for name in outputs or arrays}

    def close(self) -> None:
        pass
