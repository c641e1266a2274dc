"""The settings that Ray and Serve read from the environment when they are imported; imports neither."""

from __future__ import annotations

import os
import secrets

from gateway.proxies import bypass_proxies

OBJECT_STORE_BYTES = 100 * 1024 * 1024
"""The room for Ray's objects, of which Serve needs few: in /dev/shm, or else in the run directory."""

LOG_BYTES = 10 * 1024 * 1024
"""How large one log of Ray's may be."""


# On one machine, whatever the user's environment says: who may reach Ray is not left to it.
_ON_ONE_MACHINE = {
    # Ray listens on loopback alone: no firewall is in the way, and the machine may change its address.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # Neither servers of Serve's in each replica, nor an HAProxy of Serve's, which listen on every address.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
}
# On one machine, where nothing else is set.
_UNLESS_SET = {
    # Ray's object manager connects to a socket that may not be there yet, and waits a whole second before it
    # tries again: so it tries every 50 ms, for 20 s.
    "RAY_raylet_client_connect_timeout_milliseconds": "50",
    "RAY_raylet_client_num_connect_attempts": "400",
    # Ray's processes wake up so often for what nobody reads: Serve's metrics (every 100 ms in each replica),
    # events of each call for the dashboard, dumps of their state, and how much of the only node is in use.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_debug_dump_period_milliseconds": "0",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "5000",
    # Ten times a second, Serve's controller looks at all replicas: it is the busiest of all while nothing is.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
}
# Other ways to a token: a file, which may be another's, and Kubernetes, which Ray would ask.
_OTHER_TOKENS = ("RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_K8S_TOKEN_AUTH")


def prepare(address: str | None) -> None:
    """Set the settings of this process, and of all that Ray starts from it, before Ray is imported.

    Where Ray is started here (`address` is None), each call makes a new token, which is in no file.
    """
    # Serve's replicas then run our code in their main loop, without a thread between.
    os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
    # Nobody calls workers through Serve; it would keep each for half a minute before it lets it go.
    os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # After so many seconds, Serve says that a worker waits for a node that has room for it.
    os.environ.setdefault("RAY_SERVE_SLOW_STARTUP_WARNING_S", "10")
    os.environ.setdefault("RAY_SERVE_SLOW_STARTUP_WARNING_PERIOD_S", "10")
    # Each of Ray's own logs, which are many: its bound is 512 MiB, and 5 older ones of each.
    os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(LOG_BYTES))
    os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
    # Ray's workers run with nice 15, as batch work does; ours answer callers, as HAProxy beside them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A call between Ray's own processes would not get through a proxy.
    bypass_proxies()
    if address is None:
        for name in _OTHER_TOKENS:
            os.environ.pop(name, None)
        for name, value in _UNLESS_SET.items():
            os.environ.setdefault(name, value)
        os.environ.update(_ON_ONE_MACHINE, RAY_AUTH_TOKEN=secrets.token_hex(32))
    else:
        # Clusters ask for a token since Ray 2.60; a client without this setting sends none.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
