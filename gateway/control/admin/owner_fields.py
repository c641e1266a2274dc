"""What of a config only the owner may set: what widens trust, and what names secrets or this machine's files.

So is where Kitserve listens, which decides who reaches it, and what it logs of calls.

The token may change which kits are served, how, and their rollouts, within that. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.config.kits import REGISTRY_FILES
from gateway.oci.reference import LayoutReference, RegistryReference, parse_reference

_WHOLE = (
    "listen",
    "admin",
    "access_log",
    "admin_tls",
    "trust",
    "registries",
    "webhooks",
    "kitops_home",
    "tracing",
)


def owner_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what a config changes of another and only the owner may, of two configs as JSON has them."""
    models = {model["name"]: model for model in before.get("models", ())}
    kits = {kit for model in models.values() for kit in _kits(model)}
    return [
        *(name for name in _WHOLE if before.get(name) != after.get(name)),
        *_model_changes(models, kits, after),
    ]


def relative_paths(config: Mapping[str, Any]) -> list[str]:
    """Return the paths on this machine that depend on a working directory, which only a command has."""
    files = [
        registry[name]
        for registry in config.get("registries", {}).values()
        for name in REGISTRY_FILES
        if registry.get(name)
    ]
    references = [parse_reference(kit) for model in config.get("models", ()) for kit in _kits(model)]
    layouts = [str(reference.path) for reference in references if isinstance(reference, LayoutReference)]
    homes = [config["kitops_home"]] if config.get("kitops_home") else []
    tls = [path for path in (config.get("admin_tls") or {}).values() if path]
    headers = [path for path in [(config.get("tracing") or {}).get("headers_file")] if path]
    return [path for path in (*files, *layouts, *homes, *tls, *headers) if not Path(path).is_absolute()]


def _model_changes(
    before: Mapping[str, Mapping[str, Any]], kits: set[str], after: Mapping[str, Any]
) -> Iterator[str]:
    kept = {model["name"] for model in after.get("models", ())}
    for name, model in before.items():
        # Else it could come back without its rules.
        if name not in kept and _rules(model.get("trust")):
            yield f"trust of {name}, which ends with the model"
    for model in after.get("models", ()):
        name = model["name"]
        trust_before = before[name].get("trust") if name in before else None
        if _rules(model.get("trust")) != _rules(trust_before):
            yield f"trust of {name}"
        # What callers send is written to this machine's disk.
        if model.get("payloads") != (before[name].get("payloads") if name in before else None):
            yield f"payloads of {name}"
        for kit in _kits(model):
            if kit not in kits and not isinstance(parse_reference(kit), RegistryReference):
                yield f"kit {kit} of {name}, which is on this machine"


def _rules(trust: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (trust or {}).items() if value is not None}


def _kits(model: Mapping[str, Any]) -> Iterator[str]:
    for kit in (model, model.get("canary")):
        if kit:
            yield kit["kit"]
            yield from kit.get("parents", ())
