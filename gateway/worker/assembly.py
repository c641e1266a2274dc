"""The list of protocol handlers: an app for a loaded model is put together here, by what the model can do."""

from __future__ import annotations

from dataclasses import replace

from gateway.codec.body_limit import body_limit
from gateway.codec.predict.images import takes_images
from gateway.errors import UnusableModel
from gateway.metrics.tally import Tally
from gateway.worker.app import WorkerApp
from gateway.worker.capabilities import Capability, TensorCapability
from gateway.worker.grpc import OpenInferenceGrpc
from gateway.worker.labels import combined, own_labels
from gateway.worker.mirrored import MirrorHandler
from gateway.worker.predict import PredictHandler
from gateway.worker.protocol import ProtocolHandler
from gateway.worker.rest import OpenInferenceRest
from gateway.worker.version import AppOptions, Identity, ServedVersion
from runtimes.base import LoadedModel, TensorModel
from runtimes.engines.base import OpenAIModel
from runtimes.text_model import TextModel

_DEFAULTS = AppOptions()


def build_app(
    identity: Identity, model: LoadedModel, tally: Tally, options: AppOptions = _DEFAULTS
) -> WorkerApp:
    """Put together what answers the calls on a model; it takes calls at once.

    Raises:
        UnusableModel: when the model can do nothing that any protocol asks for.
    """
    own = own_labels(model)
    options = replace(options, labels=combined(options.labels, own))
    if isinstance(model, TensorModel) and not takes_images(model.signature, options.image):
        # An image may be of any size, whatever is made of it.
        options = replace(options, max_body=body_limit(model.signature, options.max_body))
    version = ServedVersion(identity, tally, options)
    capabilities: list[Capability] = []
    handlers: list[ProtocolHandler] = []
    if isinstance(model, TensorModel):
        tensors = TensorCapability(version, model)
        capabilities.append(tensors)
        handlers.append(PredictHandler(version, tensors, own))
        if isinstance(model, TextModel):
            # Workers of other models do not need it.
            from gateway.worker.embeddings import TextHandler

            handlers.append(TextHandler(version, tensors, model))
        handlers += [
            OpenInferenceRest(version, tensors),
            OpenInferenceGrpc(version, tensors),
            MirrorHandler(version, tensors),
        ]
    if isinstance(model, OpenAIModel):
        # Workers of other models need none of it.
        from gateway.worker.language import LanguageCapability
        from gateway.worker.language_grpc import LanguageGrpc
        from gateway.worker.mirror_scores import Scorer
        from gateway.worker.mirror_text import TextMirror
        from gateway.worker.mirrored_text import MirroredTextHandler
        from gateway.worker.openai import OpenAIHandler

        language = LanguageCapability(
            version, model, lambda mirroring, version: TextMirror(mirroring, version, Scorer(language))
        )
        capabilities.append(language)
        handlers += [
            OpenAIHandler(version, language),
            LanguageGrpc(version, model),
            MirroredTextHandler(version, language),
        ]
    if not capabilities:
        raise UnusableModel(f"model {identity.model}: {type(model).__name__} can do nothing that is served")
    return WorkerApp(version, capabilities, handlers)
