"""What a user writes about traces: which calls are traced, and where their spans are sent to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from gateway.config.kits import Strict, fault


def _collector(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@]+(/[^\s?#]*)?", value):
        raise ValueError(f"{value!r} is not the address of a collector, such as http://collector:4318")
    return value


class Tracing(Strict):
    """Which calls are traced, and where their spans are sent to, by OTLP over HTTP. Absent, none are.

    It needs the extra `otel`. What is left out here is as OpenTelemetry's environment variables say it, of
    `kitserve serve`: `OTEL_EXPORTER_OTLP_*`, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
    """

    endpoint: Annotated[str, AfterValidator(_collector)] | None = None
    """The collector, without `/v1/traces`. Absent, `$OTEL_EXPORTER_OTLP_ENDPOINT`, or else
    `http://localhost:4318`."""
    sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The part of the calls that is traced, of those whose callers send no `traceparent`."""
    caller_rate: Annotated[int, Field(ge=0, le=100_000)] = 10
    """How many calls of one caller are traced in a second because its `traceparent` is sampled. Of those
    beyond, `sample` is traced."""
    headers_env: str | None = None
    """The environment variable of `kitserve serve` with the headers that the collector asks for, as
    `NAME=VALUE,NAME=VALUE`. Absent, `OTEL_EXPORTER_OTLP_HEADERS`."""
    headers_file: Path | None = None
    """The file with the same, in place of a variable."""

    @model_validator(mode="after")
    def _one_source(self) -> Tracing:
        if self.headers_env is not None and self.headers_file is not None:
            raise fault("headers_env and headers_file are two sources of the same; write one of them")
        return self

    def rooted(self, directory: Path) -> Tracing:
        """Return the same with its relative path made absolute from a directory."""
        if self.headers_file is None:
            return self
        return self.model_copy(update={"headers_file": directory / self.headers_file})
