"""The two sessions of a registry: for what it has, and for the tokens that it wants.

Both speak to the registry itself in the same way. To other servers that it leads to, neither shows our
certificate, and each has its own rule about where they may be.
"""

from functools import partial

import oras.provider
import requests

from gateway.errors import RegistryUnavailable
from gateway.oci.connections import Adapter, Guard, Limits, is_nearby, trust
from gateway.oci.options import RegistryOptions
from gateway.oci.tokens import check_token_server


def open_sessions(
    home: str, options: RegistryOptions, limits: Limits
) -> tuple[requests.Session, requests.Session]:
    """Return the session for content and the one for tokens; `home` is the registry's scheme and host."""
    bounds = _Bounds(limits.label)
    ours = _adapter(bounds.at_home, options, limits, client=True)
    content = _session(home, ours, _adapter(bounds.abroad, options, limits, client=False))
    guard = partial(check_token_server, limits.label, options.token_hosts)
    return content, _session(home, ours, _adapter(guard, options, limits, client=False))


class _Bounds:
    """A registry may lead to this machine, or to its link, only if it is there itself."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._nearby = False

    def at_home(self, _host: str, _port: int, address: str) -> None:
        self._nearby = self._nearby or is_nearby(address)

    def abroad(self, host: str, port: int, address: str) -> None:
        if is_nearby(address) and not self._nearby:
            raise RegistryUnavailable(
                f"{self._label}: the registry redirects to {host}:{port}, which is on this machine or its "
                "link and is not safe; tell its operator"
            )


def _adapter(guard: Guard, options: RegistryOptions, limits: Limits, *, client: bool) -> Adapter:
    context = partial(trust, options, limits.label, client=client)
    return Adapter(limits, guard, context, options.connections)


def _session(home: str, ours: Adapter, others: Adapter) -> requests.Session:
    session: requests.Session = oras.provider.Registry(insecure=home.startswith("http:")).session
    # Neither ~/.netrc nor anything else of the environment; proxies are looked up for each request.
    session.trust_env = False
    session.headers["User-Agent"] = "kitserve"
    for prefix in ("https://", "http://"):
        session.mount(prefix, others)
    session.mount(f"{home}/", ours)
    return session
