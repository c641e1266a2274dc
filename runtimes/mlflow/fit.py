"""What a signature of MLflow adds to that in a model's file: names, datatypes, and what may be left out.

The file counts: where the two contradict each other, MLflow's is passed over, and a note says so. Of the
outputs, the file knows all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runtimes.base import ANY, Datatype, Signature, TensorSpec
from runtimes.mlflow.schema import Column, Schema

_FLOATS = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
_MAX_NAMES = 5


@dataclass(frozen=True, slots=True)
class Fit:
    """A signature to serve, and how its inputs become those of the file."""

    signature: Signature
    matrix: str = ""
    """The file's only input, where the columns are those of one matrix; "" where they have the same names."""
    notes: tuple[str, ...] = ()
    """What of MLflow's signature is passed over, and why."""
    columns: tuple[str, ...] = ()
    """The inputs in their order, where they are columns whose values are cast, and filled in where they are
    missing; () where the model gets the inputs as they are."""


def fit(own: Signature | None, schema: Schema) -> Fit:
    """Fit MLflow's inputs to the signature of a file; None where that is known only once it is loaded."""
    names = schema.names
    if own is None:
        return Fit(_unloaded(schema) if names and not schema.is_tensors else Signature((), ()))
    if not schema.columns or (schema.is_tensors and _is_table(own, schema)):
        return Fit(own)
    if schema.is_tensors:
        return _fit_tensors(own, schema)
    if not names:
        return Fit(own)
    if set(names) & {spec.name for spec in own.all_inputs}:
        return _fit_columns(own, schema)
    return _fit_matrix(own, schema)


def _unloaded(schema: Schema) -> Signature:
    """Return what MLflow says alone, as far as every column has a datatype."""
    specs = [
        (TensorSpec(column.name, column.datatype.value, (-1, 1)), column.is_required)
        for column in schema.columns
        if column.datatype is not None
    ]
    if len(specs) < len(schema.columns):
        return Signature((), ())
    return Signature(
        tuple(spec for spec, is_required in specs if is_required),
        (),
        tuple(spec for spec, is_required in specs if not is_required),
    )


def _fit_columns(own: Signature, schema: Schema) -> Fit:
    """Fit columns that have the names of the file's inputs."""
    columns = {column.name: column for column in schema.columns}
    required: list[TensorSpec] = []
    optional: list[TensorSpec] = []
    notes: list[str] = []
    for spec in own.inputs:
        column = columns.get(spec.name)
        if column is None:
            required.append(spec)
            continue
        may_be_left_out = not column.is_required and _may_be_missing(spec)
        if not column.is_required and not may_be_left_out:
            notes.append(f"{spec.name!r} may be left out, but the model knows no missing values in it")
        narrowed, note = _narrowed(spec, column, may_be_left_out)
        (optional if may_be_left_out else required).append(narrowed)
        notes += note
    for spec in own.optional:
        narrowed, note = _narrowed(spec, columns[spec.name], True) if spec.name in columns else (spec, ())
        optional.append(narrowed)
        notes += note
    unknown = [name for name in columns if name not in {spec.name for spec in own.all_inputs}]
    if unknown:
        notes.append(f"the model does not take {_listed(unknown)}")
    signature = replace(own, inputs=tuple(required), optional=tuple(optional))
    if signature != own and any(spec.shape not in ((-1,), (-1, 1)) for spec in own.all_inputs):
        return Fit(
            own, notes=(*notes, "the model's inputs are no columns of a table, so they stay as they are")
        )
    return Fit(signature, notes=tuple(notes), columns=tuple(_names(own)))


def _fit_matrix(own: Signature, schema: Schema) -> Fit:
    """Fit columns that are those of the file's one matrix, in their order."""
    spec = own.inputs[0] if own.inputs else None
    names = _listed(schema.names)
    if spec is None or len(own.all_inputs) != 1 or spec.shape is None or len(spec.shape) != 2:
        listed = _listed([spec.name for spec in own.all_inputs])
        return Fit(own, notes=(f"it names {names}, and the model takes {listed}",))
    if spec.shape[1] not in (-1, len(schema.columns)):
        count = f"{len(schema.columns)} {'column' if len(schema.columns) == 1 else 'columns'}"
        return Fit(own, notes=(f"it names {count}, and the model takes {spec.shape[1]}",))
    faults = [column for column in schema.columns if column.datatype in (None, Datatype.BYTES)]
    if spec.usual is Datatype.BYTES or faults:
        types = f", such as {faults[0].name!r} of type {faults[0].type}," if faults else ""
        return Fit(own, notes=(f"its columns{types} are not those of the model's matrix {spec.name!r}",))
    required: list[TensorSpec] = []
    optional: list[TensorSpec] = []
    notes: list[str] = []
    of_matrix = TensorSpec("", spec.usual.value, (spec.shape[0], 1))
    for column in schema.columns:
        may_be_left_out = not column.is_required and spec.usual in _FLOATS
        if not column.is_required and not may_be_left_out:
            notes.append(f"{column.name!r} may be left out, but the model knows no missing values in it")
        narrowed, _ = _narrowed(replace(of_matrix, name=column.name), column, may_be_left_out)
        (optional if may_be_left_out else required).append(narrowed)
    signature = replace(own, inputs=tuple(required), optional=tuple(optional))
    return Fit(signature, spec.name, tuple(notes), schema.names)


def _fit_tensors(own: Signature, schema: Schema) -> Fit:
    """Fit tensors by their names, or the only one to the only one."""
    columns = {column.name: column for column in schema.columns}
    if len(schema.columns) == len(own.all_inputs) == 1:
        columns = {own.all_inputs[0].name: schema.columns[0]}
    notes: list[str] = []
    unknown = [name or "a tensor without a name" for name in columns if name not in _names(own)]
    if unknown:
        notes.append(f"it has {_listed(unknown)}, and the model takes {_listed(_names(own))}")

    def fitted(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            _fitted_tensor(spec, columns[spec.name], notes) if spec.name in columns else spec
            for spec in specs
        )

    signature = replace(own, inputs=fitted(own.inputs), optional=fitted(own.optional))
    return Fit(signature, notes=tuple(notes))


def _fitted_tensor(spec: TensorSpec, column: Column, notes: list[str]) -> TensorSpec:
    """Return the tensor of the file with what is only likely from MLflow's, and sizes that it leaves open.

    MLflow makes most signatures of an example, whose datatype need not be the model's.
    """
    shape = column.shape or ()
    if column.datatype is not None and column.datatype != spec.datatype:
        if spec.datatype != ANY or column.datatype is Datatype.BYTES:
            notes.append(f"{spec.name!r} is {column.datatype} in it, and {spec.datatype} in the model")
        elif not spec.likely:
            spec = replace(spec, likely=column.datatype.value)
    if spec.shape is None:
        return replace(spec, likely_shape=spec.likely_shape or shape)
    fits = len(shape) == len(spec.shape) and all(
        -1 in sizes or sizes[0] == sizes[1] for sizes in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        notes.append(f"{spec.name!r} has shape {list(shape)} in it, and {list(spec.shape)} in the model")
        return spec
    # The number of rows of an example says nothing of other calls.
    sizes = [max(pair) if axis else pair[1] for axis, pair in enumerate(zip(shape, spec.shape, strict=True))]
    return replace(spec, shape=tuple(sizes))


def _narrowed(spec: TensorSpec, column: Column, may_be_left_out: bool) -> tuple[TensorSpec, tuple[str, ...]]:
    """Return the file's column with MLflow's datatype where that is narrower, and what is contradictory."""
    stated = column.datatype
    if stated is None or stated == spec.datatype:
        return spec, ()
    if (stated is Datatype.BYTES) != (spec.datatype == Datatype.BYTES):
        return spec, (f"{spec.name!r} is of type {column.type} in it, and {spec.datatype} in the model",)
    # Whole numbers are floats, too; whether fractions have 32 bits or 64 is up to the model.
    is_narrower = spec.datatype == ANY or (spec.datatype in _FLOATS and stated not in _FLOATS)
    if not is_narrower or may_be_left_out:
        return spec, ()
    return replace(spec, datatype=stated.value, likely=""), ()


def _may_be_missing(spec: TensorSpec) -> bool:
    return spec.usual in _FLOATS or (spec.usual is Datatype.BYTES and spec.may_be_missing)


def _is_table(own: Signature, schema: Schema) -> bool:
    """Tell whether the file's inputs are columns, which one matrix is as well."""
    shape = schema.columns[0].shape or ()
    return len(schema.columns) == 1 < len(own.all_inputs) and shape[1:] == (len(own.all_inputs),)


def _names(signature: Signature) -> list[str]:
    return [spec.name for spec in signature.all_inputs]


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MAX_NAMES])
    return f"{shown} and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else shown or "nothing"
