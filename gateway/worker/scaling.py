"""How many workers a version needs. Serve does not see the calls, so the workers count them.

Serve's controller calls the policy ten times a second, with what `record_autoscaling_stats` of each worker
returned, about once a second, as a mean over the last `LOOK_BACK_SECONDS`. It applies the bounds and the
delays itself. While a version has no worker, a call that waits in a Serve handle makes Serve start the first
one without this policy (Ray Serve, `autoscaling_policy.py`: the cold start).
"""

from __future__ import annotations

import time
from typing import Any

from ray.serve.config import AutoscalingContext

ONGOING = "ongoing"
"""How many calls are inside a worker."""
IDLE = "idle"
"""For how many seconds a worker has had nothing to do."""
LOOK_BACK_SECONDS = 3.0
_MAX_START_SECONDS = 3600.0


class ByOngoingCalls:
    """As many workers as keep `target_ongoing_requests` calls in each; none once all were idle for long.

    `idle_seconds` is how long that is; it has no effect where at least one worker is to stay.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return how many workers there should be, and the state to keep, which is none."""
        if not context.running_replicas:
            return float(self._while_starting(context)), {}
        assert context.config is not None
        ongoing = sum((context.aggregated_metrics or {}).get(ONGOING, {}).values())
        target = ongoing / context.config.target_ongoing_requests
        return (target if self._are_idle(context) else max(target, 1.0)), {}

    def _while_starting(self, context: AutoscalingContext) -> int:
        """Return what was decided before: a worker that loads is not idle, unless it never comes."""
        since = context.last_scale_up_time
        now = time.time() if context.current_time is None else context.current_time
        if since is not None and now - since > _MAX_START_SECONDS:
            return 0
        return context.target_num_replicas

    def _are_idle(self, context: AutoscalingContext) -> bool:
        """Whether every worker has reported that it is idle for long; one without a report is not idle."""
        idle_seconds = (context.raw_metrics or {}).get(IDLE, {})
        return all(
            bool(idle_seconds.get(worker)) and idle_seconds[worker][-1].value >= self._idle_seconds
            for worker in context.running_replicas
        )
