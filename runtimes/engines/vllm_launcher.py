"""What becomes `vllm serve`: it makes sure that vLLM ends with the worker, and then runs it in its place."""

from __future__ import annotations

import os

from runtimes.containment.containment import Rules, contain
from runtimes.containment.seccomp import Sockets
from runtimes.engines import child

SOCKET = "{socket}"
"""Stands for the path of the socket among the arguments."""

# They are for the worker's interpreter, and vLLM has its own.
_NOT_PASSED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def main() -> None:
    """Run the command of the options; what asks the kernel to end this process with its parent stays."""
    options = child.begin()
    command = [options["socket"] if word == SOCKET else word for word in options["command"]]
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED}
    # vLLM starts processes and compilers, which talk by TCP: it keeps files, sockets and programs.
    contain(
        Rules(
            None,
            Sockets.ANY,
            may_start_programs=True,
            may_start_processes=True,
            may_signal=True,
            shares_memory=True,
        )
    )
    os.execve(command[0], command, environment)  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
