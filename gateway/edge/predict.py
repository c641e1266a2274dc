"""Calls of KServe's, TensorFlow Serving's, MLflow's and SageMaker's clients, as HAProxy reads them. Pure."""

from __future__ import annotations

from gateway.codec.predict.paths import KSERVE_PATH

INVOKED_PATH = "^(/models/[^/]+(/versions/[^/]+)?)?/(invocations|ping)$"
"""The paths of MLflow and SageMaker: with the model in them, or without one."""
NO_MODEL = (
    "say which model: send the header ModelKit-Model, or call /models/NAME/invocations, or "
    "/v2/models/NAME/predict; without a name there must be exactly one model; GET /docs lists those there are"
)

__all__ = ["INVOKED_PATH", "KSERVE_PATH", "NO_MODEL"]
