"""Whether GPUs have room for a new version beside the one that it follows: told before it starts. Pure."""

from __future__ import annotations

from gateway.control.state.desired import DesiredModel
from gateway.gpus.devices import Gpus
from gateway.gpus.placement import Demand, Unplaced, place


def room_note(model: DesiredModel, demand: Demand | None, gpus: Gpus, *, has_earlier: bool) -> str:
    """Return what a person should know before a new version of a model starts; "" for nothing.

    Args:
        model: as the config has it.
        demand: what each of its workers asks for; None where it wants no GPU, or its need is not known.
        gpus: those of the machine that its workers run on, as they are now; none where that is not known.
        has_earlier: whether another version of it serves.
    """
    resources = model.serving.resources
    has_choice = resources.may_use_cpu or resources.reserved_gpus
    if resources.wants_gpu and not has_choice and gpus.trouble:
        return f"it needs a GPU, and there is none: {gpus.trouble}"
    if not has_earlier:
        return ""
    if not model.surge:
        return "`surge: 0`: nothing answers from the end of the version that serves until the next is ready"
    if demand is None or not gpus.devices:
        return ""
    try:
        place(demand, gpus, ())
    except Unplaced as error:
        return (
            f"no GPU has room for it beside the version that serves: it {error}; with "
            "`rollout: {surge: 0}` that version ends first, and nothing answers meanwhile"
        )
    return ""
