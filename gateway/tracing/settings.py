"""Where spans are sent to, with all that the environment says of it by then."""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT_ENDPOINT = "http://localhost:4318/v1/traces"


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """A collector that takes OTLP over HTTP, and what is said of the sender."""

    endpoint: str = DEFAULT_ENDPOINT
    """The whole address, path included."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: float = 10.0
    """How long a batch of spans may take, in seconds, with all tries."""
    compression: str = "none"
    certificate_file: str | None = None
    """Who signs the collector's certificate (PEM); None: the authorities that Python knows."""
    client_certificate_file: str | None = None
    client_key_file: str | None = None
    resource: tuple[tuple[str, str], ...] = ()
    """Attributes of the sender."""
