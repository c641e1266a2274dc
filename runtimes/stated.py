"""A signature that people state, where a model's file does not say all of it: combined, shown and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from runtimes.base import ANY, Array, Datatype, InterruptibleModel, Signature, TensorModel, TensorSpec
from runtimes.errors import LoadError, Unsupported
from runtimes.input_check import InputCheck


class StatedModel:
    """A model with a stated signature, against which inputs are checked where they are not its own."""

    def __init__(self, model: TensorModel, signature: Signature) -> None:
        self.signature = signature
        self.platform = model.platform
        self.device = model.device
        self.example: Mapping[str, Array] = getattr(model, "example", {})
        self._model = model
        self._check = InputCheck(signature)
        own = model.signature.all_outputs
        self._own = frozenset(spec.name for spec in own)
        self._stated = tuple(spec for spec in signature.outputs if spec not in own)
        # The model checks its own, and may take more than they say.
        self._has_own_inputs = signature.all_inputs == model.signature.all_inputs
        self.labels: Mapping[str, tuple[str, ...]] = getattr(model, "labels", {})
        self.pays_to_batch: bool = getattr(model, "pays_to_batch", False)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        if not self._has_own_inputs:
            self._check(inputs)
        return self._model.infer(inputs, outputs)

    def check_outputs(self, outputs: Mapping[str, Array]) -> None:
        """Check the answer to a call against the outputs that are stated.

        Raises:
            Unsupported: where one is not there, or is of another datatype or shape whatever the inputs are.
        """
        are_datatypes_known = all(spec.datatype != ANY for spec in self.signature.inputs)
        are_shapes_known = all(spec.shape is not None for spec in self.signature.inputs)
        for spec in self._stated:
            array = outputs.get(spec.name)
            if array is None and spec.name in self._own:
                # It exists, and may be None for some inputs.
                continue
            if array is None:
                listed = ", ".join(map(repr, outputs)) or "none"
                raise Unsupported(f"output {spec.name!r} is stated, but the model gave {listed}")
            datatype = Datatype.of(array.dtype).value
            given = TensorSpec(spec.name, datatype, array.shape)
            if (are_datatypes_known and spec.datatype != datatype) or (
                are_shapes_known and spec.shape is not None and _common(spec.shape, array.shape) is None
            ):
                raise Unsupported(
                    f"output {spec.name!r} is stated as {_describe(spec)}, "
                    f"but the model gave {_describe(given)}"
                )

    def interrupt(self) -> None:
        """End the calls that run now, where the model can; see `InterruptibleModel.interrupt`."""
        if isinstance(self._model, InterruptibleModel):
            self._model.interrupt()

    def close(self) -> None:
        """Free the model."""
        self._model.close()


def combine(
    signature: Signature, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], source: str
) -> Signature:
    """Return a file's signature, made narrower by what `source` states; tensors that it leaves out stay.

    Where the file does not say what the outputs are, they are those that are stated.

    Raises:
        LoadError: where `source` contradicts the file, so that no tensor would be right.
    """
    stated_inputs = {spec.name: spec for spec in inputs}
    stated_outputs = {spec.name: spec for spec in outputs}
    for kind, specs, stated in (
        ("input", signature.all_inputs, stated_inputs),
        ("output", signature.all_outputs or outputs, stated_outputs),
    ):
        names = [spec.name for spec in specs]
        for name in stated.keys() - set(names):
            listed = ", ".join(map(repr, names)) or "none"
            raise LoadError(f"{source} states an {kind} {name!r}, but the model has {listed}; mend it there")
    return replace(
        signature,
        inputs=_merged("input", signature.inputs, stated_inputs, source),
        optional=_merged("input", signature.optional, stated_inputs, source),
        outputs=_merged(
            "output", signature.outputs if signature.all_outputs else outputs, stated_outputs, source
        ),
        on_request=_merged("output", signature.on_request, stated_outputs, source),
    )


def _merged(
    kind: str, specs: Sequence[TensorSpec], stated: Mapping[str, TensorSpec], source: str
) -> tuple[TensorSpec, ...]:
    return tuple(_narrowed(kind, spec, stated.get(spec.name, spec), source) for spec in specs)


def _narrowed(kind: str, spec: TensorSpec, stated: TensorSpec, source: str) -> TensorSpec:
    """Return the tensor that is both; raises LoadError where none is."""
    shape = _common(spec.shape, stated.shape)
    # Any datatype is one of numbers: only a file that says so takes strings.
    is_datatype_right = stated.datatype == spec.datatype or (
        spec.datatype == ANY and stated.datatype != Datatype.BYTES
    )
    if not is_datatype_right or (shape is None and None not in (spec.shape, stated.shape)):
        raise LoadError(
            f"{source} states that {kind} {spec.name!r} is {_describe(stated)}, but the model's file says "
            f"{_describe(spec)}; mend it there, or leave it out"
        )
    if stated is spec:
        return spec
    likely_shape = spec.likely_shape if shape is None else None
    return replace(spec, datatype=stated.datatype, shape=shape, likely="", likely_shape=likely_shape)


def _common(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the shape that both are, None where there is none, or where both may be any."""
    if one is None or other is None:
        return other if one is None else one
    if len(one) != len(other):
        return None
    if any(-1 not in pair and pair[0] != pair[1] for pair in zip(one, other, strict=True)):
        return None
    return tuple(max(pair) for pair in zip(one, other, strict=True))


def _describe(spec: TensorSpec) -> str:
    shape = "any shape" if spec.shape is None else f"shape {list(spec.shape)}"
    return f"{spec.datatype} of {shape}"
