"""Ray, started on this machine or joined on a cluster, and left (`_temp_dir` of `ray.init` is not public)."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import ray

from gateway.control.loop.environment import OBJECT_STORE_BYTES
from gateway.control.loop.fork_server_process import ForkServer
from gateway.control.loop.lean_ray import lean
from gateway.control.loop.ray_token import require_token
from gateway.errors import ControlError
from gateway.foreign_text import foreign_text

NAMESPACE = "kitserve"


def start_ray(address: str | None, directory: Path, fork_server: ForkServer | None) -> None:
    """Start Ray on this machine, or join the cluster at `address`.

    A Ray that is started here has its sockets and logs in `directory`, whose path must be short, and takes
    calls only with the token in the environment (see `environment.prepare`). With a fork server, its
    processes are forked, and what is not used of it is left out.

    Raises:
        ControlError: when Ray cannot be started or joined, or would take calls without that token.
    """
    options: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if address is None:
        require_token(os.environ["RAY_AUTH_TOKEN"])
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(directory / "ray"),
        }
    else:
        options["address"] = address
    # It warns of a thread that is not the main one, before it has read `logging_level`.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with contextlib.nullcontext() if fork_server is None else lean(fork_server):
            ray.init(**options)
    except Exception as error:
        where = "on this machine" if address is None else f"at {address}"
        raise ControlError(f"Ray could not be started {where}: {foreign_text(error)}") from error


def stop_ray() -> None:
    """Leave Ray; a Ray that this process started ends."""
    ray.shutdown()
