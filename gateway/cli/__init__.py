"""The command line: what a person types, and what they see.

`main` puts the commands together: those of `serve`, `models` (apply, status), `kits` (inspect, pull), `cache`
and `rollout`. What people read is written by `tables` and `progress`.
"""

from gateway.cli.main import main

__all__ = ["main"]
