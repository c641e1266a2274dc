"""The forms in which the gateway's values are stored: JSON, read with tolerance.

A field that this release does not know is passed over, and one that is missing has its default: a state that
another release of the same schema wrote can be read. What needs more than that is a migration.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gateway.contract import AppName, Description
from gateway.control.state.desired import Desired, DesiredModel, FixedCanary, FixedSettings
from gateway.control.state.versions import Version
from gateway.kits.policy import Policy
from gateway.kits.public_keys import PublicKey
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference
from gateway.payloads.rules import PayloadRules
from gateway.rollout.documents import reading
from gateway.rollout.plan import Plan
from gateway.serving import Serving
from runtimes.python.requirements import Sources

# As many versions as these take no time at each tick.
_REMEMBERED = 4096
_SERVING = TypeAdapter(Serving)
_PLAN = TypeAdapter(Plan)
_PAYLOADS = TypeAdapter(PayloadRules)
_REGISTRY = TypeAdapter(RegistryOptions)
_FIXED = TypeAdapter(FixedSettings)
_DESCRIPTION = TypeAdapter(Description)


def version_to_json(version: Version) -> str:
    """Write a version."""
    return json.dumps(
        {
            "app": version.app,
            "model": version.model,
            "reference": str(version.reference),
            "runtime": version.runtime,
            "policy": version.policy,
            "file": version.file,
            "parents": [str(parent) for parent in version.parents],
            "serving": _SERVING.dump_python(version.serving, mode="json"),
        }
    )


@lru_cache(_REMEMBERED)
def version_from_json(text: str) -> Version:
    """Read what `version_to_json` wrote."""
    with reading("a version"):
        document = json.loads(text)
        return Version(
            app=AppName(document["app"]),
            model=document["model"],
            reference=PinnedReference.parse(document["reference"]),
            runtime=document.get("runtime"),
            policy=document.get("policy", ""),
            serving=_SERVING.validate_python(document.get("serving", {})),
            file=document.get("file"),
            parents=_parents(document),
        )


def desired_to_json(desired: Desired) -> str:
    """Write what is wanted; its generation stands beside it."""
    return json.dumps(
        {
            "models": [_model_to_document(model) for model in desired.models],
            "registries": {
                host: _REGISTRY.dump_python(options, mode="json")
                for host, options in desired.sources.registries.items()
            },
            "kitops_home": None if desired.sources.kitops_home is None else str(desired.sources.kitops_home),
            "cache_limit": desired.cache_limit,
            "webhooks": desired.webhooks,
            "fixed": _FIXED.dump_python(desired.fixed, mode="json"),
        }
    )


@lru_cache(2)
def desired_from_json(text: str, generation: int) -> Desired:
    """Read what `desired_to_json` wrote; the same text again gives the same object."""
    with reading("the config"):
        document = json.loads(text)
        registries = document.get("registries", {})
        kitops_home = document.get("kitops_home")
        return Desired(
            generation=generation,
            models=tuple(_model_from_document(model) for model in document.get("models", ())),
            sources=SourceOptions(
                {host: _REGISTRY.validate_json(json.dumps(options)) for host, options in registries.items()},
                None if kitops_home is None else Path(kitops_home),
            ),
            cache_limit=document.get("cache_limit"),
            webhooks=tuple(document.get("webhooks", ())),
            fixed=_FIXED.validate_python(document.get("fixed", {})),
        )


def description_to_json(description: Description) -> str:
    """Write what a version's model takes and gives."""
    return _DESCRIPTION.dump_json(description).decode()


def description_from_json(text: str) -> Description:
    """Read what `description_to_json` wrote."""
    with reading("a description of a model"):
        return _DESCRIPTION.validate_json(text)


def _model_to_document(model: DesiredModel) -> dict[str, Any]:
    canary = model.canary
    return {
        "name": model.name,
        "kit": str(model.kit),
        "serving": _SERVING.dump_python(model.serving, mode="json"),
        "runtime": model.runtime,
        "file": model.file,
        "canary": (
            None
            if canary is None
            else {
                "kit": str(canary.kit),
                "weight": canary.weight,
                "file": canary.file,
                "parents": [str(parent) for parent in canary.parents],
            }
        ),
        "plan": None if model.plan is None else _PLAN.dump_python(model.plan, mode="json"),
        "surge": model.surge,
        "track": model.track,
        "policy": _policy_to_document(model.policy),
        "payloads": None if model.payloads is None else _PAYLOADS.dump_python(model.payloads, mode="json"),
        "parents": [str(parent) for parent in model.parents],
    }


def _model_from_document(document: dict[str, Any]) -> DesiredModel:
    canary, plan, payloads = document.get("canary"), document.get("plan"), document.get("payloads")
    return DesiredModel(
        name=document["name"],
        kit=parse_reference(document["kit"]),
        serving=_SERVING.validate_python(document.get("serving", {})),
        runtime=document.get("runtime"),
        file=document.get("file"),
        canary=(
            None
            if canary is None
            else FixedCanary(
                parse_reference(canary["kit"]), canary["weight"], canary.get("file"), _parents(canary)
            )
        ),
        plan=None if plan is None else _PLAN.validate_json(json.dumps(plan)),
        surge=document.get("surge", 1),
        track=document.get("track"),
        policy=_policy_from_document(document.get("policy", {})),
        payloads=None if payloads is None else _PAYLOADS.validate_json(json.dumps(payloads)),
        parents=_parents(document),
    )


def _parents(document: dict[str, Any]) -> tuple[PinnedReference, ...]:
    return tuple(map(PinnedReference.parse, document.get("parents", ())))


def _policy_to_document(policy: Policy) -> dict[str, Any]:
    return {
        "registries": policy.registries,
        "licenses": policy.licenses,
        "keys": [{"name": key.name, "pem": key.pem} for key in policy.keys],
        "code_digests": [str(digest) for digest in policy.code_digests],
        "code_if_signed": policy.code_if_signed,
        "requirements": policy.requirements,
        "known_pickles": policy.known_pickles,
    }


def _policy_from_document(document: dict[str, Any]) -> Policy:
    return Policy(
        registries=tuple(document.get("registries", ())),
        licenses=tuple(document.get("licenses", ())),
        keys=tuple(PublicKey(key["name"], key["pem"]) for key in document.get("keys", ())),
        code_digests=tuple(Digest.parse(digest) for digest in document.get("code_digests", ())),
        code_if_signed=document.get("code_if_signed", False),
        requirements=Sources(document.get("requirements", Sources.KIT)),
        known_pickles=document.get("known_pickles", True),
    )
