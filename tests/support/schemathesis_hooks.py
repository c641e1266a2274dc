"""Calls that schemathesis takes for wrong though they are right by HTTP."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Leave out calls that only seem wrong.

    A header that nobody knows changes nothing. With an Inference-Header-Content-Length of 0 a body is the
    data of an input, so that whatever it is, it is no wrong JSON.
    """
    headers = case.headers or {}
    is_raw = str(headers.get("Inference-Header-Content-Length")) == "0"
    return not is_raw and not any("unknown-property" in name for name in headers)
