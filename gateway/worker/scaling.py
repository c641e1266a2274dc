"""How many workers a version needs. Serve does not see the calls, so the workers count them."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext


def by_ongoing_calls(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Ask for as many workers as keep `target_ongoing_requests` calls in each; Serve applies the bounds."""
    ongoing = sum((context.aggregated_metrics or {}).get("ongoing", {}).values())
    assert context.config is not None
    return ongoing / context.config.target_ongoing_requests, context.policy_state
