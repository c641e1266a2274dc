"""How much memory GPUs have free, as the driver's own command tells it."""

from __future__ import annotations

import subprocess

_COMMAND = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
_SECONDS = 20.0  # it takes some where the driver is not loaded yet
_MIB = 1024 * 1024


def gpu_memory() -> list[int]:
    """Return the free bytes of each GPU of this machine; none where it has none, or no driver of NVIDIA's."""
    try:
        answer = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    # A GPU that does not tell has a word in place of the number.
    return [int(line) * _MIB for line in answer.stdout.split("\n") if line.strip().isdigit()]
