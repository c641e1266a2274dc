from __future__ import annotations

from gateway.loopback import is_loopback, is_loopback_host


def test_loopback_is_more_than_one_address() -> None:
    for address in (
        "127.0.0.1",
        "127.0.0.2",
        "127.255.0.3",
        "::1",
        "::ffff:127.0.0.1",
        "::1%lo",
        "127.1",
        "0x7f.1",
        "2130706433",
    ):
        assert is_loopback(address), address
    for address in (
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "localhost",
        "",
        "128.0.0.1",
        "::ffff:10.0.0.1",
        "10.1",
        "127.1 x",
        "1.127",
    ):
        assert not is_loopback(address), address
    assert not is_loopback_host("127.0.0.1.evil.test")
    assert not is_loopback_host("[evil.test]")
    assert is_loopback_host("[::1]:80")
    for host in ("127.1:80", "[::ffff:127.0.0.1]:80", "localhost:80", "LOCALHOST"):
        assert is_loopback_host(host), host
