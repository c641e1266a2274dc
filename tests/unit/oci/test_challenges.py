from __future__ import annotations

import pytest

from gateway.oci.challenges import Challenge, parse_challenges

_REALM = {"realm": "https://a.io/token", "service": "r.io"}


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ('Bearer realm="https://a.io/token",service="r.io"', [("bearer", _REALM)]),
        ('bearer   Realm = "https://a.io/token" ,  SERVICE=r.io , ', [("bearer", _REALM)]),
        ("Bearer realm=https://a.io/token,service=r.io", [("bearer", _REALM)]),
        (
            'Basic realm="x, y", Bearer realm="https://a.io/token", service="r.io"',
            [("basic", {"realm": "x, y"}), ("bearer", _REALM)],
        ),
        (
            'Negotiate, NTLM abc==, Bearer realm="https://a.io/token",service="r.io", Basic realm=""',
            [("negotiate", {}), ("ntlm", {}), ("bearer", _REALM), ("basic", {"realm": ""})],
        ),
        (
            'Bearer realm="r",scope="repository:a/b:pull,push repository:c:pull",error="insufficient_scope"',
            [
                (
                    "bearer",
                    {
                        "realm": "r",
                        "scope": "repository:a/b:pull,push repository:c:pull",
                        "error": "insufficient_scope",
                    },
                )
            ],
        ),
        (r'Basic realm="a \"b\" \\"', [("basic", {"realm": 'a "b" \\'})]),
        ('Bearer realm="a", realm="b"', [("bearer", {"realm": "a"})]),
        ('realm="a"', []),
        ('Bearer realm="a', [("bearer", {})]),
        ('Basic realm="a"; Bearer realm="b"', [("basic", {"realm": "a"})]),
    ],
)
def test_challenges(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [Challenge(scheme, parameters) for scheme, parameters in challenges]


def test_long_headers_take_no_time() -> None:
    for piece in ("a", "a ", 'a="', "a=,", "\\", '"', "=", "a b, "):
        parse_challenges("Bearer " + piece * 60_000)
