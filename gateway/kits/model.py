"""The runtime for an unpacked kit; errors of the runtimes are raised with the kit's name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import UnusableModel
from gateway.kits.library import UnpackedKit
from gateway.kits.parents import model_of
from runtimes.base import LoadedModel, Resources
from runtimes.errors import LoadError, ModelError, UnsafeFormat
from runtimes.formats import Hazard
from runtimes.pickles import scan
from runtimes.select import Choice, choose

log = logging.getLogger(__name__)


def choose_runtime(kit: UnpackedKit, hint: str | None, allow_code: bool = False) -> Choice:
    """Choose the kit's model file and runtime; `hint` is the name of the only runtime that may be chosen.

    `allow_code` says whether the policy allows the kit formats that run code. Where such a file is chosen,
    its imports are logged, as a record of what was trusted.

    Raises:
        UnusableModel: where no runtime fits, or only files that run code and the policy does not allow that.
    """
    with _naming(kit):
        try:
            choice = _choose(kit, hint, allow_code)
        except UnsafeFormat as error:
            if not allow_code and _is_servable_with_code(kit, hint):
                raise UnsafeFormat(f"{error}; or {_code_advice(kit)}") from error
            raise
        if choice.format.hazard is Hazard.CODE:
            path = str(choice.path.relative_to(kit.path))
            imports = scan([choice.path])
            log.warning(
                "code allowed", extra={"kit": str(kit.kit.reference), "path": path, "imports": str(imports)}
            )
        return choice


def load(kit: UnpackedKit, choice: Choice, resources: Resources) -> LoadedModel:
    """Load the chosen file.

    Raises:
        UnusableModel: where its engine refuses it, or computes on CPUs although GPUs are reserved for it.
    """
    with _naming(kit):
        model = choice.runtime.load(choice.path, resources)
        if resources.gpus > 0 and model.device == "cpu":
            model.close()
            raise LoadError(
                f"the model asks for {resources.gpus:g} GPUs, and the runtime {choice.runtime.name} computes "
                "on CPUs; set `gpus: 0`, or use a format whose runtime takes GPUs"
            )
        return model


def _choose(kit: UnpackedKit, hint: str | None, allow_code: bool) -> Choice:
    model = model_of(kit.kit)
    framework = None if model is None else model.format or model.framework
    return choose(kit.model_path, hint, framework=framework, allow_code=allow_code)


def _is_servable_with_code(kit: UnpackedKit, hint: str | None) -> bool:
    """Tell whether the kit could be served if the policy allowed it to run code."""
    try:
        _choose(kit, hint, allow_code=True)
    except ModelError:
        return False
    return True


def _code_advice(kit: UnpackedKit) -> str:
    digests = " and ".join(str(link.digest) for link in kit.kit.chain)
    return (
        "let the policy allow this kit to run code: sign it and set `allow_code: signed`, or list its digest "
        f"there, {digests}"
    )


@contextmanager
def _naming(kit: UnpackedKit) -> Iterator[None]:
    """Raise errors about a model as UnusableModel, with the kit's reference."""
    try:
        yield
    except ModelError as error:
        # Paths are shown within the kit, as the node's directories tell a user nothing.
        text = str(error).replace(f"{kit.path}/", "").replace(str(kit.path), "the kit")
        raise UnusableModel(f"{kit.kit.reference}: {text}") from error
