"""What a config says of callers."""

from __future__ import annotations

import pytest

from gateway.config.config import parse_config
from gateway.control.state.desired import desired_from
from gateway.errors import ConfigError

CALLERS = "callers: {max_requests_each: 200, trusted_proxies: [10.1.2.3/8, '::1']}"
HEALTH = "health: 127.0.0.1:9000"


def test_networks_are_read_as_they_are_meant() -> None:
    callers = parse_config(CALLERS).callers
    assert callers.trusted_proxies == ("10.0.0.0/8", "::1/128")
    assert (callers.max_requests_each, callers.max_connections) == (200, None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("callers: {trusted_proxies: [proxy.example.com]}", "no address and no network, such as 10.0.0.0/8"),
        ("callers: {max_connections: 1}", "16"),
        ("callers: {max_streams_per_connection: 0}", "1"),
        ("callers: {max_upload_each: 1kB}", "must be at least 1MiB, not "),
        ("health: 127.0.0.1:8080", "health: listen or admin wants port 8080, too"),
    ],
)
def test_what_cannot_be_is_a_fault(text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        parse_config(text)


def test_both_change_only_with_a_restart() -> None:
    before = desired_from(parse_config("models: []")).fixed
    assert before.changes(desired_from(parse_config("callers: {max_connections: null}")).fixed) == []
    after = desired_from(parse_config(f"{CALLERS}\n{HEALTH}")).fixed
    assert before.changes(after) == ["health", "callers"]
