"""What goes through a proxy: never what the processes of one Kitserve say to each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from requests.utils import get_environ_proxies

from gateway import proxies
from gateway.proxies import bypass_proxies
from tests.support.ports import free_port

NAMES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy")
NODE = "192.0.2.7"
USUAL = "localhost,127.0.0.1,.internal"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        # Set first, so that what a test leaves is taken back whether it was there or not.
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "")
            monkeypatch.delenv(spelling)


@pytest.fixture
def on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "_node_addresses", lambda: [NODE])


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("exceptions", ["no_proxy", "NO_PROXY"])
@pytest.mark.usefixtures("on_a_node")
def test_only_this_node_is_excepted(proxy: str, exceptions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(proxy, "http://proxy.test:3128")
    monkeypatch.setenv(exceptions, USUAL)
    assert get_environ_proxies(f"http://{NODE}:1/") != {}
    bypass_proxies()
    for own in (NODE, "127.0.0.1", "localhost", "[::1]", "registry.internal"):
        assert get_environ_proxies(f"http://{own}:1/") == {}, own
    for other in ("192.0.2.8", "hooks.example.com"):
        assert "http://proxy.test:3128" in get_environ_proxies(f"http://{other}/").values(), other


@pytest.mark.usefixtures("on_a_node")
def test_both_spellings_keep_what_their_user_wrote() -> None:
    environment = {"no_proxy": "a.test", "NO_PROXY": "b.test, c.test"}
    bypass_proxies(environment)
    assert environment["no_proxy"].split(",") == ["a.test", "localhost", "127.0.0.1", "::1", NODE]
    assert environment["NO_PROXY"].split(",")[:2] == ["b.test", "c.test"]
    assert environment["no_grpc_proxy"].startswith("a.test,")
    again = dict(environment)
    bypass_proxies(again)
    assert again == environment


@pytest.mark.usefixtures("on_a_node")
def test_an_exception_for_everything_stays_one() -> None:
    environment = {"no_proxy": "*"}
    bypass_proxies(environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == "*"
    assert "0.0.0.0/0" in environment["no_grpc_proxy"].split(",")


def test_a_node_without_a_network_has_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> socket.socket:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", refuse)
    environment: dict[str, str] = {}
    bypass_proxies(environment)
    assert environment["no_proxy"] == "localhost,127.0.0.1,::1"


@pytest.fixture
def address() -> Iterator[str]:
    """A gRPC server at an address of this node that no list of exceptions names."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port(f"127.0.0.2:{free_port()}")
    server.start()
    yield f"127.0.0.2:{port}"
    server.stop(None)


@pytest.mark.parametrize("proxy", ["http_proxy", "https_proxy", "grpc_proxy"])
@pytest.mark.parametrize("exceptions", ["no_proxy", "no_grpc_proxy"])
def test_grpc_by_address_bypasses_every_proxy_that_it_knows(
    proxy: str, exceptions: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(proxy, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv(exceptions, USUAL)
    assert not answers(address, seconds=1)
    bypass_proxies()
    assert answers(address, seconds=20)
    assert os.environ[proxy]


def answers(address: str, seconds: float) -> bool:
    """Tell whether a new channel connects; channels to one address share what they connected with."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        try:
            grpc.channel_ready_future(channel).result(seconds)
        except grpc.FutureTimeoutError:
            return False
        return True
