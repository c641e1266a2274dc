"""The signature gate: a canary takes what callers send, and gives what they read. Pure."""

from __future__ import annotations

from runtimes.base import ANY, Signature, TensorSpec
from runtimes.signature import has_shape


def signature_faults(stable: Signature, canary: Signature) -> list[str]:
    """Return what callers of the stable version would miss in the canary.

    The canary must take whatever the stable version takes, and give whatever it gives, to calls that name no
    output, too. It may give more, and take more shapes.
    """
    inputs = {spec.name: spec for spec in canary.all_inputs}
    faults = []
    for spec in stable.all_inputs:
        new = inputs.pop(spec.name, None)
        if new is None:
            faults.append(f"input {spec.name!r} is gone")
        elif not _takes(new, spec):
            faults.append(f"input {spec.name!r} was {_describe(spec)} and is {_describe(new)}")
    required = {spec.name for spec in canary.inputs}
    faults += [f"input {name!r} is new, and callers do not send it" for name in inputs if name in required]
    for spec in stable.optional:
        if spec.name in required:
            faults.append(f"input {spec.name!r} could be left out, and must be sent now")
    outputs = {spec.name: spec for spec in canary.all_outputs}
    for spec in stable.all_outputs if outputs else ():
        new = outputs.get(spec.name)
        if new is None:
            faults.append(f"output {spec.name!r} is gone")
        elif new in canary.on_request and spec not in stable.on_request:
            faults.append(f"output {spec.name!r} is given only to calls that name it now")
        elif not _takes(spec, new):
            faults.append(f"output {spec.name!r} was {_describe(spec)} and is {_describe(new)}")
    return faults


def _takes(general: TensorSpec, special: TensorSpec) -> bool:
    """Tell whether every tensor that is `special` is `general` too, as far as both say what they are."""
    if general.datatype != special.datatype and ANY not in (general.datatype, special.datatype):
        return False
    if general.shape is None:
        return True
    return special.shape is not None and has_shape(special.shape, general.shape)


def _describe(spec: TensorSpec) -> str:
    shape = "any shape" if spec.shape is None else str(list(spec.shape))
    return f"{spec.datatype} of {shape}"
