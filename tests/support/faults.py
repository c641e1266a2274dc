"""What no message to a user may have: the words of the library that reads the config."""

from __future__ import annotations

import re

LEAKED = re.compile(
    r"Input should|Value error|Assertion|type=|validation|pydantic|instance of|dictionary|[Tt]uple|<class|"
    r"String should|Field required|unable to|Extra inputs|another value|\[key\]|not a number$|"
    r"\b(GatewayConfig|Strict|Address|Model|Canary|Replicas|Resources|Rollout|Step|Checks|Agreement|Golden|"
    r"Sticky|Batching|Queue|Registry|Cache|Trust|Key|PosixPath)\b"
)
