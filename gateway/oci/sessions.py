"""The two HTTP sessions of a registry: one for content, one for tokens.

Both reach the registry itself in the same way. To other servers, which it redirects to or names in a
challenge, neither shows the client certificate, and each session has its own rule for their addresses.
"""

from functools import partial

import oras.provider
import requests

from gateway.errors import RegistryUnavailable
from gateway.oci.connections import Adapter, AddressCheck, Limits, is_local_address, tls_context
from gateway.oci.options import RegistryOptions
from gateway.oci.tokens import check_token_server


def open_sessions(
    base_url: str, options: RegistryOptions, limits: Limits
) -> tuple[requests.Session, requests.Session]:
    """Return the session for content and the one for tokens; `base_url` is the registry's."""
    checks = _AddressChecks(limits.label)
    registry = _adapter(checks.check_registry, options, limits, is_registry=True)
    redirects = _adapter(checks.check_redirect, options, limits, is_registry=False)
    check_token_address = partial(check_token_server, limits.label, options.token_hosts)
    token_servers = _adapter(check_token_address, options, limits, is_registry=False)
    return _session(base_url, registry, redirects), _session(base_url, registry, token_servers)


class _AddressChecks:
    """A registry may redirect to a local address only if its own address is local."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._is_local = False

    def check_registry(self, _host: str, _port: int, address: str) -> None:
        self._is_local = self._is_local or is_local_address(address)

    def check_redirect(self, host: str, port: int, address: str) -> None:
        if is_local_address(address) and not self._is_local:
            raise RegistryUnavailable(
                f"{self._label}: the registry redirects to {host}:{port}, which is on this machine or "
                "link-local and not safe; tell its operator"
            )


def _adapter(
    address_check: AddressCheck, options: RegistryOptions, limits: Limits, *, is_registry: bool
) -> Adapter:
    context = partial(tls_context, options, limits.label, with_client_certificate=is_registry)
    return Adapter(limits, address_check, context, options.connections)


def _session(base_url: str, registry: Adapter, others: Adapter) -> requests.Session:
    session: requests.Session = oras.provider.Registry(insecure=base_url.startswith("http:")).session
    # Do not read ~/.netrc or the environment; Transport looks proxies up for each request.
    session.trust_env = False
    session.headers["User-Agent"] = "kitserve"
    for prefix in ("https://", "http://"):
        session.mount(prefix, others)
    session.mount(f"{base_url}/", registry)
    return session
