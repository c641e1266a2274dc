"""The signature that a kit or the config states for a model, where its file does not say all of it.

The Kitfile has it as `model.parameters.inputs` and `outputs`, lists of `{name, datatype, shape}`; the config
has fields of these names in the model, each of which replaces the Kitfile's. Where neither states inputs,
those in the `MLmodel` of a directory of MLflow count, as far as they do not contradict the model's file.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from gateway.errors import InvalidKitfile, UnusableModel
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Model
from gateway.kits.mlflow import MLflowModel
from gateway.kits.parents import model_of
from runtimes.base import Datatype, LoadedModel, Signature, TensorModel, TensorSpec
from runtimes.errors import LoadError
from runtimes.mlflow.model import with_fit
from runtimes.stated import StatedModel, combine
from runtimes.text_model import TextModel

_MEMBERS = ("name", "datatype")

log = logging.getLogger(__name__)


def with_stated_signature(
    model: LoadedModel, kit: Kit, config: Signature, mlflow: MLflowModel | None = None
) -> LoadedModel:
    """Return the model with the signature that the kit or the config states, or as it is where none does.

    What of MLflow's signature is passed over is logged.

    Raises:
        InvalidKitfile: when the Kitfile's cannot be read.
        UnusableModel: when a stated signature contradicts the model's file, or is of a model of texts.
    """
    if not isinstance(model, TensorModel):
        return model
    if mlflow is not None and not isinstance(model, TextModel) and not _states_inputs(kit, config):
        fit = mlflow.fit(model.signature)
        model = with_fit(model, fit)
        for note in fit.notes:
            log.warning("mlflow.signature", extra={"kit": str(kit.reference), "reason": note})
    signature = stated_signature(model.signature, kit, config)
    if signature is None or signature == model.signature:
        return model
    if isinstance(model, TextModel):
        # The OpenAI API calls it by the signature of its task.
        raise UnusableModel(
            f"{kit.reference}: what a model of texts takes and gives is known by its task; leave `inputs` "
            "and `outputs` out of the config and the Kitfile"
        )
    return StatedModel(model, signature)


def stated_signature(
    signature: Signature | None, kit: Kit, config: Signature, mlflow: MLflowModel | None = None
) -> Signature | None:
    """Return the signature in a model's file, made narrower by what the kit or the config states.

    Where the file's is not known before it is loaded (None), it is what is stated, and None where nothing is.

    Raises:
        InvalidKitfile: when the Kitfile's cannot be read.
        UnusableModel: when a stated signature contradicts the model's file.
    """
    own = _stated_in_kitfile(kit, config)
    if mlflow is not None and not config.inputs and not own.inputs:
        fitted = mlflow.fit(signature).signature
        if signature is None:
            stated = replace(fitted, outputs=config.outputs or own.outputs)
            return stated if stated.all_inputs or stated.outputs else None
        signature = fitted
    if signature is None:
        stated = Signature(config.inputs or own.inputs, config.outputs or own.outputs)
        return stated if stated.inputs or stated.outputs else None
    try:
        for source, stated in (("the config", config), ("the Kitfile", own)):
            signature = combine(signature, stated.inputs, stated.outputs, source)
    except LoadError as error:
        raise UnusableModel(f"{kit.reference}: {error}") from error
    return signature


def _states_inputs(kit: Kit, config: Signature) -> bool:
    return bool(config.inputs or _stated_in_kitfile(kit, config).inputs)


def _stated_in_kitfile(kit: Kit, config: Signature) -> Signature:
    """Return what the Kitfile states beside the config, which counts first."""
    model = model_of(kit)
    try:
        return Signature(
            () if config.inputs else stated_by(model, "inputs"),
            () if config.outputs else stated_by(model, "outputs"),
        )
    except InvalidKitfile as error:
        raise InvalidKitfile(f"{kit.reference}: {error}; mend it and pack the kit again") from error


def stated_by(model: Model | None, kind: str) -> tuple[TensorSpec, ...]:
    """Return what a Kitfile's model states of its `inputs` or `outputs`; parameters of another form do not.

    Raises:
        InvalidKitfile: when a tensor's datatype or shape is none, or a name is there twice.
    """
    value = None if model is None else model.parameter(kind)
    if not isinstance(value, list) or not all(_is_tensor(entry) for entry in value):
        return ()
    where = f"model.parameters.{kind} in its Kitfile"
    specs = tuple(_spec(where, entry) for entry in value)
    if len({spec.name for spec in specs}) < len(specs):
        raise InvalidKitfile(f"{where} names a tensor twice")
    return specs


def _is_tensor(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(member), str) for member in _MEMBERS)


def _spec(where: str, entry: Any) -> TensorSpec:
    name, datatype, shape = entry["name"], entry["datatype"], entry.get("shape")
    if datatype not in set(Datatype):
        raise InvalidKitfile(f"{where}: {name!r} has datatype {datatype!r}, none of {', '.join(Datatype)}")
    if shape is None:
        return TensorSpec(name, datatype)
    if not isinstance(shape, list) or not all(type(size) is int and size >= -1 for size in shape):
        raise InvalidKitfile(f"{where}: the shape of {name!r} must be a list of numbers, -1 for any length")
    return TensorSpec(name, datatype, tuple(shape))
