"""Which addresses are this machine, a cloud's metadata, a private network, or anybody's. Pure.

An address of IPv6 may carry one of IPv4, to which a gateway or the kernel sends what is sent to it: it is
what the least public of the two is. The networks are those of the IANA special-purpose registries, as Python
knows them, and those that it does not know.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # most clouds
            "169.254.170.2",  # containers of Amazon
            "fd00:ec2::254",  # Amazon
            "fd20:ce::254",  # Google
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
            "168.63.129.16",  # Azure
        ),
    )
)
"""Where clouds serve credentials and settings of the machine."""
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, section 2.5.5.1
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214, section 6.1
_LAST_32_BITS = 0xFFFFFFFF


def is_metadata(text: str) -> bool:
    """Tell whether an address is where a cloud serves what belongs to this machine alone."""
    return any(form in _METADATA for form in _forms(text))


def is_local(text: str) -> bool:
    """Tell whether an address is this machine, link-local, or a cloud's metadata."""
    return is_metadata(text) or any(
        form.is_loopback or form.is_link_local or form.is_unspecified for form in _forms(text)
    )


def is_link_local(text: str) -> bool:
    """Tell whether an address is of the network that this machine is plugged into, with no router between."""
    return any(form.is_link_local for form in _forms(text))


def is_public(text: str) -> bool:
    """Tell whether an address is one that anybody may have."""
    return not is_metadata(text) and all(_is_public(form) for form in _forms(text))


def is_address(text: str) -> bool:
    """Tell whether a host is an address, and no name."""
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _forms(text: str) -> Iterator[Address]:
    """Yield an address, and those that it carries. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    # The form of IPv4 addresses in programs that speak IPv6 is no network of its own.
    if address.ipv4_mapped is None:
        yield address
    yield from _carried(address)


def _carried(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    last = ipaddress.IPv4Address(int(address) & _LAST_32_BITS)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    is_compatible = address in _COMPATIBLE and not (address.is_loopback or address.is_unspecified)
    if is_compatible or address in _NAT64 or (int(address) >> 32) & _LAST_32_BITS in _ISATAP:
        yield last


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address in _LOCAL_NAT64:
        return False
    return address.is_global and not address.is_multicast
