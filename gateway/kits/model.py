"""From an unpacked kit to the runtime that serves it; the model side's errors get the kit's name here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import UnusableModel
from gateway.kits.library import UnpackedKit
from gateway.kits.parents import model_of
from runtimes.base import LoadedModel, Resources
from runtimes.errors import ModelError, UnsafeFormat
from runtimes.formats import Hazard
from runtimes.pickles import scan
from runtimes.select import Choice, choose

log = logging.getLogger(__name__)


def choose_runtime(kit: UnpackedKit, hint: str | None, allow_code: bool = False) -> Choice:
    """Choose the kit's model file and runtime; `hint` is a runtime's name that a user gave, and binds.

    `allow_code` is the policy's word on this kit. What a file that runs code would import is logged when
    it is chosen, so that there is a record of what was trusted.

    Raises:
        UnusableModel: when nothing fits, or the files would run code when loaded and that is not allowed.
    """
    with _named(kit):
        try:
            choice = _choose(kit, hint, allow_code)
        except UnsafeFormat as error:
            if not allow_code and _would_do(kit, hint):
                raise UnsafeFormat(f"{error}; or {_code_advice(kit)}") from error
            raise
        if choice.format.hazard is Hazard.CODE:
            path = str(choice.path.relative_to(kit.path))
            found = scan([choice.path])
            log.warning(
                "code allowed", extra={"kit": str(kit.kit.reference), "path": path, "imports": str(found)}
            )
        return choice


def load(kit: UnpackedKit, choice: Choice, resources: Resources) -> LoadedModel:
    """Load the chosen file.

    Raises:
        UnusableModel: when its engine refuses it.
    """
    with _named(kit):
        return choice.runtime.load(choice.path, resources)


def _choose(kit: UnpackedKit, hint: str | None, allow_code: bool) -> Choice:
    model = model_of(kit.kit)
    framework = None if model is None else model.format or model.framework
    return choose(kit.model_path, hint, framework=framework, allow_code=allow_code)


def _would_do(kit: UnpackedKit, hint: str | None) -> bool:
    """Tell whether the kit could be served if the policy allowed it code."""
    try:
        _choose(kit, hint, allow_code=True)
    except ModelError:
        return False
    return True


def _code_advice(kit: UnpackedKit) -> str:
    digests = " and ".join(str(link.digest) for link in kit.kit.chain)
    return (
        "have the policy allow code to this kit: sign it and set `allow_code: signed`, or list its digest "
        f"there, {digests}"
    )


@contextmanager
def _named(kit: UnpackedKit) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        # The library's own directories say nothing to a reader; paths within the kit do.
        text = str(error).replace(f"{kit.path}/", "").replace(str(kit.path), "the kit")
        raise UnusableModel(f"{kit.kit.reference}: {text}") from error
