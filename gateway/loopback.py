"""Which addresses nobody on another machine reaches, however they are written."""

from __future__ import annotations

import ipaddress
import re
import socket

_NAME = "localhost"
_HOST = re.compile(r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<plain>[^:\[\]]+))(?::[0-9]*)?")
# Without dots, with fewer than four numbers, or in hexadecimal, as the system reads it too (inet_aton(3)).
_SHORT = re.compile(r"[0-9A-Fa-fxX.]+")


def is_loopback(address: str) -> bool:
    """Tell whether an IP address is a loopback address of any kind; a text that is none is not."""
    try:
        parsed = ipaddress.ip_address(_whole(address.partition("%")[0]))
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def is_loopback_host(host: str) -> bool:
    """Tell whether `HOST` or `HOST:PORT` names loopback, which no other name may lead a browser to."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["bracketed"] or match["plain"]
    return name.lower() == _NAME or is_loopback(name)


def _whole(address: str) -> str:
    """Return an IPv4 address with its four numbers, such as 127.0.0.1 for 127.1; any other text as it is."""
    if ":" in address or not _SHORT.fullmatch(address):
        return address
    try:
        return socket.inet_ntoa(socket.inet_aton(address))
    except OSError:
        return address
