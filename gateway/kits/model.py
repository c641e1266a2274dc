"""From an unpacked kit to the runtime that serves it; the model side's errors get the kit's name here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import UnusableModel
from gateway.kits.library import UnpackedKit
from runtimes.base import LoadedModel, Resources
from runtimes.errors import ModelError
from runtimes.select import Choice, choose


def choose_runtime(kit: UnpackedKit, hint: str | None) -> Choice:
    """Choose the kit's model file and runtime; `hint` is a runtime's name that a user gave, and binds.

    Raises:
        UnusableModel: when nothing fits, or the files would run code when loaded.
    """
    model = kit.kit.kitfile.model
    framework = None if model is None else model.format or model.framework
    with _named(kit):
        return choose(kit.model_path, hint, framework=framework)


def load(kit: UnpackedKit, choice: Choice, resources: Resources) -> LoadedModel:
    """Load the chosen file.

    Raises:
        UnusableModel: when its engine refuses it.
    """
    with _named(kit):
        return choice.runtime.load(choice.path, resources)


@contextmanager
def _named(kit: UnpackedKit) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        # The library's own directories say nothing to a reader; paths within the kit do.
        text = str(error).replace(f"{kit.path}/", "").replace(str(kit.path), "the kit")
        raise UnusableModel(f"{kit.kit.reference}: {text}") from error
