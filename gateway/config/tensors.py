"""What a user writes about the tensors of a model whose file does not say what they are."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import field_validator

from gateway.config.faults import faults_at
from gateway.config.kits import Strict, fault
from runtimes.signature import Datatype, TensorSpec

_MAX_RANK = 16


class Tensor(Strict):
    """An input or output of the model, as calls have it. What contradicts the model's file is an error."""

    name: str
    """What calls name it."""
    datatype: Datatype
    """Its datatype in the Open Inference Protocol."""
    shape: tuple[int, ...] | None = None
    """Its axes, with the batch axis if it has one; -1 stands for any length. Absent: any shape."""

    @field_validator("shape", mode="before")
    @classmethod
    def _no_flags(cls, value: object) -> object:
        """Refuse true and false for numbers, as pydantic takes them for 1 and 0."""
        if isinstance(value, list | tuple) and any(isinstance(size, bool) for size in value):
            raise fault("the axes of a shape are whole numbers, and -1 for any length")
        return value

    @field_validator("shape")
    @classmethod
    def _axes(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(value) > _MAX_RANK or any(size < -1 for size in value)):
            raise ValueError(f"a shape has at most {_MAX_RANK} axes, each 0 or more, or -1 for any length")
        return value

    def spec(self) -> TensorSpec:
        """Return the tensor as a version carries it."""
        return TensorSpec(self.name, self.datatype.value, self.shape)


def check_names(tensors: Sequence[Tensor]) -> None:
    """Raise ValueError where a tensor is written twice, at its place."""
    names = [tensor.name for tensor in tensors]
    repeated = {(index, "name"): name for index, name in enumerate(names) if name in names[:index]}
    if repeated:
        raise faults_at({place: f"{name!r} is written above" for place, name in repeated.items()})
