"""Where spans are sent to, by the config and the environment; read once, at the start of `kitserve serve`.

The variables are OpenTelemetry's: https://opentelemetry.io/docs/specs/otel/protocol/exporter/. They are read
here, and not where spans are sent, as on a cluster that process has another environment.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

import gateway
from gateway.config.tracing import Tracing
from gateway.errors import ControlError
from gateway.files import read_regular
from gateway.tracing.settings import DEFAULT_ENDPOINT, OtlpSettings
from runtimes.extras import install_command

_PATH = "/v1/traces"
_PREFIX = "OTEL_EXPORTER_OTLP_"
_COMPRESSIONS = ("gzip", "deflate", "none")
_SECONDS, _LONGEST_SECONDS = 10.0, 60.0
_LIBRARY = "opentelemetry.proto"


def otlp_settings(tracing: Tracing, environment: Mapping[str, str]) -> OtlpSettings:
    """Return where spans are sent to.

    Raises:
        ControlError: when OpenTelemetry is not installed, or something that is named cannot be read.
    """
    if not _is_installed():
        raise ControlError(f"`tracing:` in the config needs OpenTelemetry: {install_command('otel')}")
    variables = _Variables(environment)
    return OtlpSettings(
        _endpoint(tracing, variables),
        _headers(tracing, variables),
        _timeout(variables),
        _compression(variables),
        variables.get("CERTIFICATE") or None,
        variables.get("CLIENT_CERTIFICATE") or None,
        variables.get("CLIENT_KEY") or None,
        _resource(environment),
    )


def shown_endpoint(settings: OtlpSettings) -> str:
    """Return the collector's address without what may be a secret in it."""
    parts = urlsplit(settings.endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Variables:
    """The exporter's variables; that of traces alone goes before that of all signals."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def name_of(self, name: str) -> str:
        """Return the variable that says something, by the end of its name; "" where none does."""
        names = (f"{_PREFIX}TRACES_{name}", f"{_PREFIX}{name}")
        return next((name for name in names if self._environment.get(name, "").strip()), "")

    def get(self, name: str) -> str:
        """Return what is said, "" where nothing is."""
        return self._environment.get(self.name_of(name), "").strip()

    def of_user(self, name: str) -> str | None:
        """Return the value of a variable of the user's own name."""
        return self._environment.get(name)


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec(_LIBRARY) is not None
    except ImportError:
        return False


def _endpoint(tracing: Tracing, variables: _Variables) -> str:
    if tracing.endpoint is not None:
        base = tracing.endpoint.rstrip("/")
        return base if base.endswith(_PATH) else base + _PATH
    name, value = variables.name_of("ENDPOINT"), variables.get("ENDPOINT")
    if not value:
        return DEFAULT_ENDPOINT
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ControlError(f"${name} is no address, such as http://collector:4318")
    return value if "TRACES" in name else value.rstrip("/") + _PATH


def _headers(tracing: Tracing, variables: _Variables) -> tuple[tuple[str, str], ...]:
    if tracing.headers_file is not None:
        place = f"tracing.headers_file {tracing.headers_file}"
        try:
            text = read_regular(tracing.headers_file).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ControlError(f"{place} cannot be read: {error}") from error
    elif tracing.headers_env is not None:
        place = f"tracing.headers_env ${tracing.headers_env}"
        value = variables.of_user(tracing.headers_env)
        if value is None:
            raise ControlError(f"{place} is not set")
        text = value.strip()
    else:
        place, text = f"${variables.name_of('HEADERS')}", variables.get("HEADERS")
    return tuple(_pairs(text.replace("\n", ","), place))


def _pairs(text: str, place: str) -> Iterable[tuple[str, str]]:
    """Yield the pairs of `NAME=VALUE,NAME=VALUE`; values are URL-encoded, as the specification has it."""
    for entry in text.split(","):
        name, separator, value = entry.partition("=")
        if not entry.strip():
            continue
        if not separator or not name.strip():
            # What it is may be a secret.
            raise ControlError(f"{place} is not NAME=VALUE,NAME=VALUE")
        yield name.strip().lower(), unquote(value.strip())


def _timeout(variables: _Variables) -> float:
    value = variables.get("TIMEOUT")
    try:
        return min(max(float(value), 0.1), _LONGEST_SECONDS) if value else _SECONDS
    except ValueError:
        raise ControlError(f"${variables.name_of('TIMEOUT')} is no number of seconds: {value!r}") from None


def _compression(variables: _Variables) -> str:
    value = variables.get("COMPRESSION").lower() or "none"
    if value not in _COMPRESSIONS:
        raise ControlError(
            f"${variables.name_of('COMPRESSION')} is {value!r}, and not one of {_COMPRESSIONS}"
        )
    return value


def _resource(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    attributes = {"service.name": "kitserve", "service.version": gateway.__version__}
    text = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    for entry in text.split(","):
        name, separator, value = entry.partition("=")
        if separator and name.strip():
            attributes[name.strip()] = unquote(value.strip())
    if service := environment.get("OTEL_SERVICE_NAME", "").strip():
        attributes["service.name"] = service
    return tuple(attributes.items())
