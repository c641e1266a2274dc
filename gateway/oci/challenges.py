"""Authentication challenges in WWW-Authenticate headers (RFC 9110, section 11.6.1)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's grammar, not a secret
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$)))?(?=[ \t,]|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge; its scheme and the names of its parameters are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Parse a WWW-Authenticate header, up to the first thing in it that is malformed."""
    challenges: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(header):
        if header[position] in " \t,":
            position += 1
        elif challenges and (match := _PARAMETER.match(header, position)):
            name, quoted, bare = match.groups()
            value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            challenges[-1][1].setdefault(name.lower(), value)
            position = match.end()
        elif match := _SCHEME.match(header, position):
            challenges.append((match[1].lower(), {}))
            position = match.end()
        else:
            break
    return [Challenge(scheme, parameters) for scheme, parameters in challenges]
