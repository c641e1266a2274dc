"""The document that `kitserve inspect` prints of a kit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.errors import ContentError, InvalidKitfile, KitError, NotTrusted
from gateway.kits.examination import examine, is_small
from gateway.kits.hints import hints_of
from gateway.kits.language import LanguageModel
from gateway.kits.library import Kit, Library, Progress
from gateway.kits.memory import Need, free
from gateway.kits.mlflow import MLflowModel
from gateway.kits.parents import model_of
from gateway.kits.policy import Policy
from gateway.metrics.machine import usable_memory
from gateway.oci.reference import Digest, Reference, RegistryReference
from runtimes.base import TensorSpec
from runtimes.engines.base import EngineRuntime
from runtimes.pickles.scan import scan


def kit_document(
    library: Library,
    reference: Reference,
    policy: Policy,
    pull: bool | None,
    progress: Progress | None,
    *,
    runtime: str | None = None,
    file: str | None = None,
) -> dict[str, Any]:
    """Return all that is known of a kit, as JSON has it.

    Its model is pulled to be examined where `pull` is true, or where it is None and the kit is small or on
    this machine. `runtime` and `file` are those of the model in a config. `servable` is None where it was not
    pulled.
    """
    kit = library.describe(reference)
    document = _document(kit)
    try:
        verdict = library.judge(kit, policy)
    except NotTrusted as error:
        document["trust"] = {"allowed": False, "reasons": [str(error)]}
        document["servable"] = False
        document["runtime_message"] = "not known, because the policy refuses the kit"
        return document
    document["trust"] = {"allowed": True, "reasons": verdict.reasons}
    if pull is None:
        pull = not isinstance(reference, RegistryReference) or is_small(library, kit)
    if not pull:
        document["runtime_message"] = "not known before the model is pulled; use --pull"
        return document
    try:
        examined = examine(library, kit, policy, runtime=runtime, file=file, progress=progress)
    except (KitError, ContentError) as error:
        document["servable"] = False
        document["runtime_message"] = str(error)
        return document
    choice, unpacked = examined.choice, examined.unpacked
    document["servable"] = True
    document["runtime"] = choice.runtime.name
    document["file"] = str(choice.path.relative_to(unpacked.path))
    document["hazard"] = choice.format.hazard.value
    pickle = examined.pickle()
    if pickle is not None:
        document["pickle"] = {"imports": str(scan([choice.path])), "scikit_learn": list(pickle.versions)}
    document["missing_extras"] = list(examined.missing_extras(pickle))
    for layer in document["layers"]:
        layer["served"] = Digest.parse(layer["digest"]) in unpacked.blobs
    if examined.need is not None and isinstance(choice.runtime, EngineRuntime):
        document["language"] = _language(examined.language, examined.need, unpacked.path)
    if examined.mlflow is not None:
        document["mlflow"] = _mlflow(examined.mlflow, examined.notes)
    if examined.signature is not None:
        document["inputs"] = [_spec(spec) for spec in examined.signature.all_inputs]
        document["outputs"] = [_spec(spec) for spec in examined.signature.all_outputs]
    return document


def _language(language: LanguageModel, need: Need, root: Path) -> dict[str, Any]:
    """Return how a language model is run; None stands for what is left to its files or its engine."""
    options, generation = language.options, language.generation
    files = {"projector": options.projector, "draft": options.draft}
    return {
        "tasks": [task.value for task in need.tasks],
        "context": need.context,
        "slots": options.slots,
        "batch": options.batch,
        "chat_template": options.chat_template,
        "sampling": dict(generation.sampling),
        "stop": generation.stop,
        "system_prompt": generation.system_prompt,
        **{name: path and str(path.relative_to(root)) for name, path in files.items()},
        "adapters": [str(adapter.path.relative_to(root)) for adapter in options.adapters],
        "taken": dict(language.taken),
        "ignored": dict(language.ignored),
        "memory": {
            "total": need.memory.total,
            "weights": need.memory.weights,
            "cache": need.memory.cache,
            "other": need.memory.other,
            "text": f"needs {need}; {free(usable_memory())}",
        },
    }


def _mlflow(mlflow: MLflowModel, notes: tuple[str, ...]) -> dict[str, Any]:
    """Return what MLflow says of a model, and what of its signature is passed over."""
    return {
        "flavor": mlflow.flavor.name,
        "version": mlflow.flavor.version,
        **mlflow.mlmodel.facts,
        "text": str(mlflow),
        "notes": list(notes),
    }


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
        "variant": None if kit.choice is None else {"labels": kit.choice.labels, "reason": kit.choice.reason},
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
        "hints": _hints(kit),
        "kitfile": kit.kitfile.model_dump(mode="json", by_alias=True, exclude_none=True),
        "trust": None,
        "servable": None,
        "runtime": None,
        "runtime_message": "",
        "file": "",
        "inputs": [],
        "outputs": [],
        "hazard": None,
        "missing_extras": [],
        "pickle": None,
        "language": None,
        "mlflow": None,
    }


def _hints(kit: Kit) -> dict[str, Any]:
    """Return what the kit hints of a language model; {} where that is contradictory, as loading it says."""
    with suppress(InvalidKitfile):
        return asdict(hints_of(kit))
    return {}
