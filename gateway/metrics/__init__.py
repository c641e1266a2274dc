"""Every metric: what workers count, and how Prometheus is told."""

from gateway.metrics.counts import *  # noqa: F403
