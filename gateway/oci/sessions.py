"""The two HTTP sessions of a registry: one for content, one for tokens.

Both reach the registry itself in the same way. To other servers, which it redirects to or names in a
challenge, neither shows the client certificate, and each session has its own rule for their addresses.
"""

from functools import partial

import oras.provider
import requests

from gateway.errors import RegistryUnavailable
from gateway.oci.addresses import is_local, is_metadata, is_public
from gateway.oci.connections import Adapter, AddressCheck, Limits, tls_context
from gateway.oci.options import RegistryOptions
from gateway.oci.tokens import check_token_server, is_listed


def open_sessions(
    base_url: str, options: RegistryOptions, limits: Limits
) -> tuple[requests.Session, requests.Session]:
    """Return the session for content and the one for tokens; `base_url` is the registry's."""
    checks = _AddressChecks(limits.label, options.redirect_hosts)
    registry = _adapter(checks.check_registry, options, limits, is_registry=True)
    redirects = _adapter(checks.check_redirect, options, limits, is_registry=False)
    check_token_address = partial(check_token_server, limits.label, options.token_hosts)
    token_servers = _adapter(check_token_address, options, limits, is_registry=False)
    return _session(base_url, registry, redirects), _session(base_url, registry, token_servers)


class _AddressChecks:
    """Where a registry may be, and where it may redirect to.

    It may redirect to any public address. To one on this machine it may only if its own address is there, and
    to a private network only if that is its own address, or is listed. Nothing of this is at the addresses
    where clouds serve what belongs to the machine.
    """

    def __init__(self, label: str, redirect_hosts: tuple[str, ...]) -> None:
        self._label = label
        self._redirect_hosts = redirect_hosts
        self._own: set[str] = set()

    def check_registry(self, host: str, port: int, address: str) -> None:
        if is_metadata(address):
            raise RegistryUnavailable(
                f"{self._label}: {host}:{port} is where a cloud serves what belongs to this machine, and no "
                "registry; check its address"
            )
        self._own.add(address)

    def check_redirect(self, host: str, port: int, address: str) -> None:
        if is_public(address) or address in self._own:
            return
        if is_local(address):
            if is_metadata(address) or not any(map(is_local, self._own)):
                raise RegistryUnavailable(
                    f"{self._label}: the registry redirects to {host}:{port}, which is on this machine or "
                    "link-local and not safe; tell its operator"
                )
        elif not is_listed(self._redirect_hosts, host, port):
            raise RegistryUnavailable(
                f"{self._label}: the registry redirects to {host}:{port}, which is not safe: it is in a "
                "private network; if that is meant, list it in `redirect_hosts` of this registry"
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
