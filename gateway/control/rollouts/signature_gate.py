"""What a canary must pass before it gets any call: its signature fits what callers send and read. Pure."""

from __future__ import annotations

from runtimes.base import Signature, TensorSpec


def signature_faults(stable: Signature, canary: Signature) -> list[str]:
    """What callers of the stable version would miss in the canary; nothing when they would miss nothing.

    The canary must take whatever the stable version takes, and give whatever it gives. It may give more,
    and take more shapes.
    """
    inputs = {spec.name: spec for spec in canary.inputs}
    faults = []
    for spec in stable.inputs:
        new = inputs.pop(spec.name, None)
        if new is None:
            faults.append(f"input {spec.name!r} is gone")
        elif not _takes(new, spec):
            faults.append(f"input {spec.name!r} was {_words(spec)} and is {_words(new)}")
    faults += [f"input {name!r} is new, and callers do not send it" for name in inputs]
    outputs = {spec.name: spec for spec in canary.outputs}
    for spec in stable.outputs if canary.outputs else ():
        new = outputs.get(spec.name)
        if new is None:
            faults.append(f"output {spec.name!r} is gone")
        elif not _takes(spec, new):
            faults.append(f"output {spec.name!r} was {_words(spec)} and is {_words(new)}")
    return faults


def _takes(general: TensorSpec, special: TensorSpec) -> bool:
    """Whether every tensor that is `special` is `general` too."""
    if general.datatype != special.datatype:
        return False
    if general.shape is None:
        return True
    if special.shape is None or len(general.shape) != len(special.shape):
        return False
    return all(mine in (-1, theirs) for mine, theirs in zip(general.shape, special.shape, strict=True))


def _words(spec: TensorSpec) -> str:
    shape = "any shape" if spec.shape is None else str(list(spec.shape))
    return f"{spec.datatype} of {shape}"
