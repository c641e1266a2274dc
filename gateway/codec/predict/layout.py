"""Which inputs of a model the values of a row go into: by their names, or by their places."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gateway import wording
from gateway.codec.predict.values import tensor
from runtimes.base import Array, Signature, TensorSpec
from runtimes.errors import InputError

_SHOWN_NAMES = 30


class Layout:
    """The inputs of one model, as columns of its rows."""

    def __init__(self, signature: Signature) -> None:
        self.specs: Mapping[str, TensorSpec] = {spec.name: spec for spec in signature.all_inputs}
        self.required = tuple(spec.name for spec in signature.inputs)
        self.names = tuple(self.specs)
        self.single: TensorSpec | None = signature.inputs[0] if len(signature.inputs) == 1 else None
        """The input that whole rows go into, where only one must be there."""
        self.is_table = all(_is_column(spec) for spec in signature.all_inputs)
        """Whether each input has one value a row."""

    def check_names(self, names: Collection[str]) -> None:
        """Raise InputError unless all columns that the model needs are there, and no other."""
        unknown = [name for name in names if name not in self.specs]
        missing = [name for name in self.required if name not in names]
        faults = []
        if unknown:
            faults.append(f"{listed(unknown)} {'is no column' if len(unknown) == 1 else 'are no columns'}")
        if missing:
            faults.append(f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        if faults:
            raise InputError(f"{', and '.join(faults)}; the model takes {listed(self.names)}")

    def placed(self, width: int) -> tuple[str, ...]:
        """Return the names of so many values, in their order. Raises InputError for another number."""
        if width not in (len(self.names), len(self.required)):
            raise InputError(
                f"a row has {width} values; the model takes {len(self.required)}: {listed(self.names)}"
            )
        return self.names[:width]

    def tensors(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Array]:
        """Return the inputs of columns whose names are right. Raises InputError."""
        return {name: tensor(self.specs[name], list(values)) for name, values in columns.items()}


def check_lengths(lengths: Iterable[tuple[str, int]]) -> None:
    """Raise InputError unless all columns have as many values."""
    first, *others = lengths
    for name, length in others:
        if length != first[1]:
            raise InputError(f"columns {first[0]!r} and {name!r} have {first[1]} and {length} values")


def listed(names: Sequence[str]) -> str:
    """Return names as errors list them."""
    return wording.listed([repr(name) for name in names], _SHOWN_NAMES, "no inputs")


def _is_column(spec: TensorSpec) -> bool:
    return spec.shape is not None and (len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1))
