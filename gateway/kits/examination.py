"""Whether a kit can be served, found out on this node without an engine: what `kitserve inspect` says of it.

The gateway refuses a kit by the same before it starts a worker, and a worker loads it by the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.kits.declared import check_declared, check_labels
from gateway.kits.kit import Kit
from gateway.kits.language import LanguageModel, language_model
from gateway.kits.library import Library, Progress, UnpackedKit
from gateway.kits.memory import Need, need_of
from gateway.kits.mlflow import MLflowModel, mlflow_model
from gateway.kits.model import check, choose_runtime
from gateway.kits.policy import Policy
from gateway.kits.stated import stated_signature
from gateway.serving import DEFAULT_SERVING, Serving
from runtimes.base import Signature
from runtimes.engines.base import EngineRuntime
from runtimes.extras import missing_extras
from runtimes.formats import Hazard
from runtimes.select import Choice

if TYPE_CHECKING:
    from runtimes.pickles.dry_run import DryRun

PULL_LIMIT_BYTES = 100 * 1024 * 1024
"""The largest kit that is pulled to be examined where nobody asks for it."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A kit that can be served as far as is known, unpacked and leased, and what of it is loaded."""

    unpacked: UnpackedKit
    choice: Choice
    signature: Signature | None
    """With what is stated; None where nothing is, and the file's is known only once the model is loaded."""
    language: LanguageModel
    """How it is run, where it is a language model."""
    need: Need | None
    """What memory the model will take; None where that is not known before it is loaded."""
    mlflow: MLflowModel | None = None
    """What its directory of MLflow says of it; None where it is in none."""
    notes: tuple[str, ...] = ()
    """What of MLflow's signature is passed over, as far as is known before the model is loaded."""

    def pickle(self) -> DryRun | None:
        """Return what its pickle does, of which nothing is run; None where its model is none."""
        is_pickle = self.choice.format.hazard in (Hazard.KNOWN_PICKLE, Hazard.CODE)
        if not is_pickle:
            return None
        # Imported here, as few kits have a pickle.
        from runtimes.pickles.dry_run import dry_run

        return dry_run(self.choice.path)

    def missing_extras(self, pickle: DryRun | None) -> tuple[str, ...]:
        """Return the extras of Kitserve that the model needs, and that are not installed here."""
        return missing_extras(self.choice.runtime.name, () if pickle is None else pickle.imports)


def examine(
    library: Library,
    kit: Kit,
    policy: Policy,
    *,
    runtime: str | None = None,
    file: str | None = None,
    serving: Serving = DEFAULT_SERVING,
    progress: Progress | None = None,
) -> Examined:
    """Bring a kit to this node, and check all that loading it checks before an engine gets it.

    `runtime`, `file` and `serving` are those of the model in the config.

    Raises:
        KitError: where the kit cannot be served.
        KitserveError: where that cannot be found out, as `Library.open` raises it.
    """
    parents = [parent.reference for parent in kit.parents]
    unpacked = library.open(kit.reference, progress, policy=policy, parents=parents)
    try:
        verdict = unpacked.verdict
        choice = choose_runtime(unpacked, runtime, verdict.code, file, allow_pickles=verdict.pickles)
        mlflow = mlflow_model(unpacked, choice)
        own = check(unpacked, choice)
        # What a language model takes and gives is known by its task.
        columns = None if isinstance(choice.runtime, EngineRuntime) else mlflow
        signature = stated_signature(own, unpacked.kit, serving.stated, columns)
        check_labels(unpacked.kit)
        if signature is not None:
            check_declared(unpacked.kit, signature)
        language = language_model(unpacked, choice, serving)
        need = need_of(unpacked, choice, language)
    except BaseException:
        unpacked.lease.release()
        raise
    notes = () if columns is None else columns.fit(own).notes
    return Examined(unpacked, choice, signature, language, need, mlflow, notes)


def is_small(library: Library, kit: Kit) -> bool:
    """Tell whether a kit may be examined without being asked for: it is here, or small (`PULL_LIMIT_BYTES`).

    Its code counts, as a model's weights may be in there.
    """
    layers = [layer for link in kit.chain for layer in link.needed_layers(with_code=True)]
    return sum(layer.descriptor.size for layer in layers) <= PULL_LIMIT_BYTES or library.has(kit)
