"""The document that `kitserve inspect` prints of a kit."""

from __future__ import annotations

from typing import Any

from gateway.errors import KitserveError, NotTrusted
from gateway.kits.library import Kit, Library, Progress
from gateway.kits.model import choose_runtime
from gateway.kits.parents import model_of
from gateway.kits.trust import Policy
from gateway.oci.reference import Reference, RegistryReference
from runtimes.base import TensorSpec
from runtimes.errors import ModelError

PULL_LIMIT_BYTES = 100 * 1024 * 1024
"""The largest kit that is pulled to be inspected where nobody asks for it."""


def kit_document(
    library: Library,
    reference: Reference,
    policy: Policy,
    pull: bool | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Return all that is known of a kit, as JSON has it.

    Its model is pulled to be inspected where `pull` is true, or where it is None and the kit is
    small or on this machine.
    """
    kit = library.describe(reference)
    document = _document(kit)
    try:
        verdict = library.judge(kit, policy)
    except NotTrusted as error:
        document["trust"] = {"allowed": False, "reasons": [str(error)]}
        document["runtime_message"] = "not known, because the policy refuses the kit"
        return document
    document["trust"] = {"allowed": True, "reasons": verdict.reasons}
    is_local = not isinstance(reference, RegistryReference)
    if pull is None:
        pull = is_local or kit.size <= PULL_LIMIT_BYTES
    if not pull:
        document["runtime_message"] = "not known before the model is pulled; use --pull"
        return document
    try:
        unpacked = library.open(kit.reference, progress, policy=policy)
        choice = choose_runtime(unpacked, None, verdict.code)
        document["runtime"] = choice.runtime.name
        document["file"] = str(choice.path.relative_to(unpacked.path))
        signature = choice.runtime.signature(choice.path)
    except (KitserveError, ModelError) as error:
        document["runtime_message"] = str(error)
        return document
    if signature is not None:
        document["inputs"] = [_spec(spec) for spec in signature.all_inputs]
        document["outputs"] = [_spec(spec) for spec in signature.outputs]
    return document


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _document(kit: Kit) -> dict[str, Any]:
    package, model = kit.kitfile.package, model_of(kit)
    served = [layer for link in kit.chain for layer in link.needed_layers()]
    return {
        "reference": str(kit.reference),
        "digest": str(kit.digest),
        "format": kit.manifest.format.value,
        "package": " ".join(part for part in (package.name, package.version) if part),
        "framework": model and (model.framework or model.format),
        "model": kit.model_name,
        "parents": [str(parent.reference) for parent in kit.parents],
        "layers": [
            {
                "role": layer.role.value,
                "digest": str(layer.descriptor.digest),
                "size": layer.descriptor.size,
                "media_type": layer.descriptor.media_type,
                "compression": layer.compression.value,
                "path": layer.path,
                "served": layer in served,
            }
            for link in kit.chain
            for layer in link.layers
        ],
        "kitfile": kit.kitfile.model_dump(mode="json", by_alias=True, exclude_none=True),
        "trust": None,
        "runtime": None,
        "runtime_message": "",
        "file": "",
        "inputs": [],
        "outputs": [],
    }
