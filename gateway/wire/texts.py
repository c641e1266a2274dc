"""Names and sentences that the edge, the gateway and the workers all say, so that they say the same."""

from __future__ import annotations

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
"""The extensions of the Open Inference Protocol that are served, by the names that Triton gives them."""

COMPRESSED_MESSAGE = "compressed messages are not read here; send them uncompressed (identity)"
TOO_MANY_OF_ONE = "too many connections or calls of this caller at a time; ask again when some have ended"
TOO_MANY_OF_ALL = "too many calls at a time; ask again"
TOO_MANY_STREAMS = "too many streams of health and reflection of this caller; end some"
NUL_IN_PATH = "the path has a NUL in it (%00), which is in no name"
GATEWAY_STARTS = "the gateway is being started; ask again"
MODEL_FAILED = "model_failed"
"""The code of a call to a model that could not be loaded."""
MODEL_NOT_READY = "model_not_ready"
"""The code of a call to a model that is on its way."""
COULD_NOT_BE_LOADED = "could not be loaded; its operator sees why with kitserve status"
"""What callers are told of a model that failed: why may name what is on this machine."""
LOADED_BY_CONFIG = "models are loaded and unloaded by the config: change it, and run kitserve apply"


def unknown_model(model: str) -> str:
    """Return what a caller is told who names a model that there is not; its beginning is Triton's."""
    return f"Request for unknown model: no model is named {model}"


def not_loaded(model: str) -> str:
    """Return what a caller is told whose model could not be loaded."""
    return f"model {model} {COULD_NOT_BE_LOADED}"


def not_ready(model: str, state: str) -> str:
    """Return what a caller is told whose model is not ready; `state` is one word."""
    return f"model {model} is not ready yet: {state}"


def unknown_version(model: str, version: str) -> str:
    """Return what a caller is told who names a version that the model does not have."""
    return f"model {model} has no version {version} that is served"


def unknown_path(path: str, advice: str = "") -> str:
    """Return what a caller is told of a path that nobody answers, and what there is instead."""
    return f"no such path: {path}; {advice}" if advice else f"no such path: {path}"


def unknown_method(path: str) -> str:
    """Return what a caller is told of a gRPC method that nobody answers."""
    return f"no such method: {path}"


def wrong_method(method: str, allowed: str) -> str:
    """Return what a caller is told whose method a path does not take."""
    return f"{method} is not allowed here; use {allowed}"
