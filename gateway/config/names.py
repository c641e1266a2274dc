"""Names of models."""

from __future__ import annotations

import re

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STATISTICS = "stats"
"""No model can be called so: it is in the path of the statistics of all models."""
