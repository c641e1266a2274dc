"""The lock beside a config: the digest of each kit that it names, and those of the kit's parents.

    # Written by `kitserve lock kitserve.yaml`: review changes, and do not edit.
    version: 1
    kits:
      registry.example.com/team/iris:v1:
        digest: sha256:…
        parents:
        - registry.example.com/team/base:v3@sha256:…

A kit is there by its reference as the config has it, with its variant: relative paths stay relative. A lock
fits a config if it has each kit of it and no other, and contradicts no digest that the config pins itself. Of
an index that the config pins, it has the digest as `index`, beside that of the kit which is meant. All else
that a kit is made of, such as adapters and the files that a model names, is in the kit and its parents, and
so in their digests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError

from gateway.config.config import GatewayConfig, read_config
from gateway.config.faults import describe_faults
from gateway.config.kits import Strict
from gateway.config.models import Model
from gateway.config.yaml_file import read_yaml
from gateway.errors import ConfigError, InvalidReference
from gateway.files import read_regular
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, Reference, parse_reference

_SUFFIX = ".lock"
_VERSION = 1


def _read_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return a validator of text that can be parsed, which writes it as the parsed value does."""

    def check(value: str) -> str:
        try:
            return str(parse(value))
        except InvalidReference as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check)


_DigestText = Annotated[str, _read_by(Digest.parse)]
_PinnedText = Annotated[str, _read_by(PinnedReference.parse)]
_ReferenceText = Annotated[str, _read_by(parse_reference)]


class _WrittenKit(Strict):
    digest: _DigestText
    index: _DigestText | None = None
    parents: tuple[_PinnedText, ...] = ()


class _WrittenLock(Strict):
    version: Literal[1]
    kits: dict[_ReferenceText, _WrittenKit] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LockedKit:
    """What a reference means: the digest of a kit, and its parents, the nearest first."""

    digest: Digest
    parents: tuple[PinnedReference, ...] = ()
    index: Digest | None = None
    """The index that the reference pins, where the kit is an entry of it."""

    def is_of(self, reference: Reference) -> bool:
        """Tell whether it is what a reference pins, or the reference pins nothing."""
        return reference.digest in (None, self.digest, self.index)

    def has_parents(self, parents: Sequence[str]) -> bool:
        """Tell whether its parents are those that a config has, or the config has none."""
        return not parents or tuple(parents) == tuple(map(str, self.parents))


@dataclass(frozen=True, slots=True)
class Lock:
    """The kits of a config, by their references as it has them."""

    kits: Mapping[Reference, LockedKit] = field(default_factory=dict)

    def differences(self, config: GatewayConfig) -> list[str]:
        """Return why the lock does not fit a config, whose paths are as they are written."""
        kits = references(config)
        return [
            *(f"{kit} is in the config, and not in the lock" for kit in kits if kit not in self.kits),
            *(
                f"{kit} is pinned by the config, and the lock has another digest for it: {entry.digest}"
                for kit in kits
                if (entry := self.kits.get(kit)) is not None and not entry.is_of(kit)
            ),
            *(
                f"{kit} has the parents {', '.join(parents)} in the config, and others in the lock"
                for kit, parents in _uses(config)
                if kit in self.kits and not self.kits[kit].has_parents(parents)
            ),
            *(f"{kit} is in the lock, and no longer in the config" for kit in self.kits if kit not in kits),
        ]

    def fitting(self, config: GatewayConfig) -> dict[Reference, LockedKit]:
        """Return the kits that contradict nothing in a config, by their references as it has them."""
        uses = list(_uses(config))
        return {
            kit: entry
            for kit, entry in self.kits.items()
            if entry.is_of(kit) and all(entry.has_parents(parents) for used, parents in uses if used == kit)
        }


def lock_path(config: Path) -> Path:
    """Return where the lock of a config file is: `kitserve.lock` beside `kitserve.yaml`."""
    return config.with_suffix(_SUFFIX)


def references(config: GatewayConfig) -> tuple[Reference, ...]:
    """Return the references of all kits that a config names, each once."""
    return tuple(dict.fromkeys(reference for reference, _ in _uses(config)))


def read_lock(path: Path, config: Path) -> Lock:
    """Read a lock.

    Args:
        path: its file.
        config: the file of its config, for what errors advise.

    Raises:
        ConfigError: where there is none, or it is broken.
    """
    advice = f"write it with `kitserve lock {config}`"
    try:
        text = read_regular(path).decode()
    except FileNotFoundError as error:
        raise ConfigError(str(path), [f"there is no lock; {advice}"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
    value, lines, faults = read_yaml(text, str(path))
    try:
        written = _WrittenLock.model_validate(value)
    except ValidationError as error:
        faults += describe_faults(error.errors(), lines, _WrittenLock)
        raise ConfigError(str(path), faults) from error
    if faults:
        raise ConfigError(str(path), faults)
    return Lock(
        {
            parse_reference(reference): LockedKit(
                Digest.parse(kit.digest),
                tuple(map(PinnedReference.parse, kit.parents)),
                None if kit.index is None else Digest.parse(kit.index),
            )
            for reference, kit in written.kits.items()
        }
    )


def lock_text(lock: Lock, config: Path) -> str:
    """Write a lock, the same for equal ones: kits are sorted by their references."""
    kits: dict[str, Any] = {}
    for reference, kit in sorted(lock.kits.items(), key=lambda item: str(item[0])):
        kits[str(reference)] = {"digest": str(kit.digest)}
        if kit.index is not None:
            kits[str(reference)]["index"] = str(kit.index)
        if kit.parents:
            kits[str(reference)]["parents"] = [str(parent) for parent in kit.parents]
    document = yaml.safe_dump({"version": _VERSION, "kits": kits}, sort_keys=False, width=4096)
    return f"# Written by `kitserve lock {config.name}`: review changes, and do not edit.\n{document}"


def load_locked(
    path: Path, needs_models: bool = False, runtimes: Sequence[str] | None = None
) -> GatewayConfig:
    """Read a config file as `load_config` does, with each kit as its lock has it.

    Raises:
        ConfigError: with one line for each fault in the file or its lock, and where the lock does not fit.
    """
    config = read_config(path, needs_models, runtimes)
    location = lock_path(path)
    lock = read_lock(location, path)
    if differences := lock.differences(config):
        raise ConfigError(str(location), differences, f"bring it up to date with `kitserve lock {path}`")
    return locked(config, lock).rooted(Path.cwd())


def locked(config: GatewayConfig, lock: Lock) -> GatewayConfig:
    """Return a config whose kits are pinned as a lock that fits it has them; no tag of them is followed."""
    models = [_locked_model(model, lock) for model in config.models]
    return config.model_copy(update={"models": tuple(models)})


def _locked_model(model: Model, lock: Lock) -> Model:
    update: dict[str, Any] = {"track": None, **_pins(model.reference(), lock)}
    canary, canary_kit = model.canary, model.canary_reference()
    if canary is not None and canary_kit is not None:
        update["canary"] = canary.model_copy(update=_pins(canary_kit, lock))
    return model.model_copy(update=update)


def _pins(reference: Reference, lock: Lock) -> dict[str, Any]:
    """Return the fields of a model or canary that pin its kit."""
    kit = lock.kits[reference]
    return {
        "kit": str(reference.pinned(kit.digest)),
        "variant": None,
        "parents": tuple(str(parent) for parent in kit.parents),
    }


def _uses(config: GatewayConfig) -> Iterator[tuple[Reference, tuple[str, ...]]]:
    """Yield the references of all models' kits, each with the parents that the config has of it."""
    for model in config.models:
        yield model.reference(), model.parents
        canary_kit = model.canary_reference()
        if model.canary is not None and canary_kit is not None:
            yield canary_kit, model.canary.parents
