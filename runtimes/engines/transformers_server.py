"""The engine for weights of Hugging Face: a process that serves one model by transformers.

Its options come from `runtimes.engines.process`; it listens once the model is loaded and has said a token.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
import uvicorn

import runtimes.engines.child as child
from runtimes.containment.seccomp import Sockets
from runtimes.engines.transformers_app import app
from runtimes.engines.transformers_engine import Engine
from runtimes.engines.transformers_generation import Limits
from runtimes.engines.transformers_load import Refused, load


def main() -> None:
    """Serve until the parent ends; on a failure, end with its reason as the last line of the log."""
    options = child.begin()
    adapters = [Path(path) for path, _ in options["adapters"]]
    kit = (Path(options["model"]), Path(options["tokenizer"]), *adapters)
    child.enclose(Path(options["socket"]).parent, kit, Sockets.LISTENING)
    try:
        asyncio.run(_serve(options))
    except Refused as error:
        _fail(str(error))
    except Exception as error:
        _fail(f"{type(error).__name__}: {error}")


async def _serve(options: Mapping[str, Any]) -> None:
    torch.set_num_threads(options["threads"])
    torch.set_num_interop_threads(1)
    adapters = [(Path(path), float(scale)) for path, scale in options["adapters"]]
    loaded = load(
        Path(options["model"]),
        dtype=options["dtype"],
        device=options["device"],
        adapters=adapters,
        tokenizer_directory=Path(options["tokenizer"]),
    )
    limits = Limits(options["context"], options["slots"], options["batch"])
    engine = Engine(loaded, limits, options["chat_template"])
    await engine.start()
    config = uvicorn.Config(
        app(
            engine,
            name=options["name"],
            fingerprint=f"transformers-{transformers.__version__}",
            on_failure=_fail,
        ),
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
    )
    server = uvicorn.Server(config)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(options["socket"])
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    await server.serve(sockets=[listener])
    _end(0)


def _end_with_parent(server: uvicorn.Server) -> None:
    child.wait_for_parent()
    server.should_exit = True


def _fail(reason: str) -> None:
    """Write in one line why the engine ends, and end it."""
    sys.stderr.write(f"error: {' '.join(reason.split())}\n")
    _end(1)


def _end(status: int) -> None:
    """End at once: the thread that generates would keep the process for as long as it is in the model."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
