"""The ways in that a server offers in WWW-Authenticate (RFC 9110, section 11.6.1)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's grammar, not a secret
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$)))?(?=[ \t,]|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a registry offers; scheme and names of parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Read a WWW-Authenticate header; what cannot be understood ends the list."""
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(header):
        if header[at] in " \t,":
            at += 1
        elif found and (match := _PARAMETER.match(header, at)):
            name, quoted, bare = match.groups()
            value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1].setdefault(name.lower(), value)
            at = match.end()
        elif match := _SCHEME.match(header, at):
            found.append((match[1].lower(), {}))
            at = match.end()
        else:
            break
    return [Challenge(scheme, parameters) for scheme, parameters in found]
