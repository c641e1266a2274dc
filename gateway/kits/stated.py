"""The signature that a kit or the config states for a model, where its file does not say all of it.

The Kitfile has it as `model.parameters.inputs` and `outputs`, lists of `{name, datatype, shape}`; the config
has fields of these names in the model, each of which replaces the Kitfile's.
"""

from __future__ import annotations

from typing import Any

from gateway.errors import InvalidKitfile, UnusableModel
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Model
from gateway.kits.parents import model_of
from runtimes.base import Datatype, LoadedModel, Signature, TensorModel, TensorSpec
from runtimes.errors import LoadError
from runtimes.stated import StatedModel, combine

_MEMBERS = ("name", "datatype")


def with_stated_signature(model: LoadedModel, kit: Kit, config: Signature) -> LoadedModel:
    """Return the model with the signature that the kit or the config states, or as it is where none does.

    Raises:
        InvalidKitfile: when the Kitfile's cannot be read.
        UnusableModel: when a stated signature contradicts the model's file.
    """
    if not isinstance(model, TensorModel):
        return model
    try:
        signature = model.signature
        for kind in ("inputs", "outputs"):
            source, specs = "the config", getattr(config, kind)
            if not specs:
                source, specs = "the Kitfile", stated_by(model_of(kit), kind)
            if specs:
                signature = combine(signature, **{"inputs": (), "outputs": (), kind: specs}, source=source)
    except InvalidKitfile as error:
        raise InvalidKitfile(f"{kit.reference}: {error}; mend it and pack the kit again") from error
    except LoadError as error:
        raise UnusableModel(f"{kit.reference}: {error}") from error
    return model if signature == model.signature else StatedModel(model, signature)


def stated_by(model: Model | None, kind: str) -> tuple[TensorSpec, ...]:
    """Return what a Kitfile's model states of its `inputs` or `outputs`; parameters of another form do not.

    Raises:
        InvalidKitfile: when a tensor's datatype or shape is none, or a name is there twice.
    """
    parameters = None if model is None else model.parameters
    value = parameters.get(kind) if isinstance(parameters, dict) else None
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
