"""Registries, kits and webhooks that lead elsewhere: to this machine, a cloud's metadata, others' servers."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from gateway.control.rollouts import webhooks
from gateway.control.rollouts.webhooks import Webhooks
from gateway.control.state.rollout_status import RolloutEvent
from gateway.errors import InvalidKitfile, RegistryUnavailable, Unauthorized
from gateway.foreign_text import MAX_CHARACTERS
from gateway.kits.library import Library
from gateway.kits.parents import check_parent
from gateway.oci.addresses import is_address, is_local, is_metadata, is_public
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import LayoutReference, LocalReference, RegistryReference, parse_reference
from gateway.oci.sessions import _AddressChecks
from gateway.oci.tokens import check_token_server
from tests.support.answers import Answers, Handler, read
from tests.support.artifacts import MODELKIT, LayoutBuilder

HOSTILE = b"\x1b[2J\x1b]0;owned\x07 " * 100 + b"\nwine:stable slot0\n" * 9000
METADATA = (
    "169.254.169.254",
    "fd00:ec2::254",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "64:ff9b::168.63.129.16",
    "fe80::5efe:a9fe:a9fe",
)
LOCAL = (
    "127.0.0.1",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "0.0.0.0",
    "::",
    "fe80::1%eth0",
    "169.254.1.1",
    "2001:db8::5efe:7f00:1",
)

PRIVATE = (
    "10.1.2.3",
    "192.168.0.1",
    "172.16.0.1",
    "100.64.0.1",
    "fd12::1",
    "::10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
    "::ffff:10.0.0.1",
    "64:ff9b:1::1",
    "224.0.0.1",
    "ff02::1",
    "2001:0:a00:1::",
)

PUBLIC = ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::")


def test_an_address_is_what_the_least_public_one_within_it_is() -> None:
    for address in METADATA:
        assert (is_metadata(address), is_local(address), is_public(address)) == (True, True, False), address
    for address in LOCAL:
        assert (is_metadata(address), is_local(address), is_public(address)) == (False, True, False), address
    for address in PRIVATE:
        assert (is_metadata(address), is_local(address), is_public(address)) == (False, False, False), address
    for address in PUBLIC:
        assert (is_metadata(address), is_local(address), is_public(address)) == (False, False, True), address
    assert [is_address(host) for host in ("::1", "1.2.3.4", "r.io", "2130706433")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_registry_redirects_to_private_networks_only_where_they_are_listed() -> None:
    checks = _AddressChecks("r.io/kit:v1", ("store.internal", "10.9.9.9:9000", "metadata.internal"))
    checks.check_registry("r.io", 443, "10.0.0.5")
    for address in (*METADATA, *LOCAL):
        for host in ("elsewhere", "metadata.internal"):
            with pytest.raises(RegistryUnavailable, match="on this machine or link-local"):
                checks.check_redirect(host, 443, address)
    for address in PRIVATE:
        with pytest.raises(RegistryUnavailable, match="list it in `redirect_hosts`"):
            checks.check_redirect("elsewhere", 443, address)
        checks.check_redirect("store.internal", 443, address)
    for address in (*PUBLIC, "10.0.0.5"):
        checks.check_redirect("elsewhere", 443, address)
    checks.check_redirect("10.9.9.9", 9000, "10.9.9.9")
    with pytest.raises(RegistryUnavailable, match="redirect_hosts"):
        checks.check_redirect("10.9.9.9", 9001, "10.9.9.9")
    for address in METADATA:
        with pytest.raises(RegistryUnavailable, match="and no registry"):
            checks.check_registry("r.io", 443, address)


def test_a_registry_on_this_machine_redirects_to_this_machine_but_to_no_metadata() -> None:
    checks = _AddressChecks("127.0.0.1:5000/kit:v1", ())
    checks.check_registry("127.0.0.1", 5000, "127.0.0.1")
    checks.check_redirect("localhost", 9000, "::1")
    for address in METADATA:
        with pytest.raises(RegistryUnavailable, match="not safe"):
            checks.check_redirect("elsewhere", 443, address)


def test_no_list_makes_a_token_server_of_a_clouds_metadata() -> None:
    for address in (*METADATA, *LOCAL, *PRIVATE):
        with pytest.raises(Unauthorized, match="which is not safe"):
            check_token_server("r.io/kit:v1", (), "elsewhere", 443, address)
    for address in METADATA:
        with pytest.raises(Unauthorized, match="which is not safe"):
            check_token_server("r.io/kit:v1", ("elsewhere",), "elsewhere", 443, address)
    for address in (*LOCAL, *PRIVATE):
        check_token_server("r.io/kit:v1", ("elsewhere",), "elsewhere", 443, address)


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("PASSWORD", "secret")
    return {"username": "ci", "password_env": "PASSWORD"}


def asks_for_tokens(server: Answers, realm: str) -> None:
    server.answer = lambda handler: handler.say(401, WWW_Authenticate=f'Bearer realm="{realm}",service="s"')


@pytest.mark.parametrize(
    "realm", ["http://auth.example.com/t", "http://127.0.0.1.example.com/t", "http://8.8.8.8/t"]
)
def test_a_password_goes_to_no_server_that_the_registry_alone_names(
    server: Answers, password: dict[str, str], realm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks_for_tokens(server, realm)
    source = server.source(**password)
    monkeypatch.setattr(socket, "getaddrinfo", _only_loopback(socket.getaddrinfo))
    with pytest.raises(Unauthorized, match="no password is sent to a server that the registry alone names"):
        read(source)
    assert len(server.seen) == 1


def _only_loopback(real: object) -> object:
    def resolve(host: str, *arguments: object, **options: object) -> object:
        assert host == "127.0.0.1", f"{host} was to be asked"
        assert callable(real)
        return real(host, *arguments, **options)

    return resolve


def test_a_password_goes_to_a_listed_server_and_nothing_is_needed_for_nobodys_tokens(
    server: Answers, elsewhere: Answers, password: dict[str, str]
) -> None:
    port = elsewhere.host.partition(":")[2]
    asks_for_tokens(server, f"http://localhost:{port}/token")
    elsewhere.answer = lambda handler: handler.say(200, b'{"token":"t"}')
    for options, is_sent in ((password, True), ({}, False)):
        elsewhere.seen.clear()
        with pytest.raises(Unauthorized, match="answered 401"):
            read(server.source(token_hosts=(f"localhost:{port}",), **options))
        assert {seen.authorization is not None for seen in elsewhere.seen} == {is_sent}


def test_what_a_registry_says_is_cut_and_made_printable(server: Answers) -> None:
    server.answer = lambda handler: handler.say(404, HOSTILE)
    with pytest.raises(Exception, match="answered 404") as caught:
        read(server.source())
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < MAX_CHARACTERS + 250
    assert text.endswith("; check repository and tag, or push the kit")


@pytest.mark.parametrize("parent", ["private:v1", "localhost/private:v1", "private@sha256:" + "1" * 64])
def test_a_kit_of_a_registry_has_no_parent_on_this_machine(
    tmp_path: Path, server: Answers, monkeypatch: pytest.MonkeyPatch, parent: str
) -> None:
    assert isinstance(parse_reference(parent), LocalReference)
    builder = LayoutBuilder(tmp_path / "layout")
    kitfile = {"model": {"path": parent}}
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    digest = builder.artifact("team/kit:v1", {"schemaVersion": 2, "config": config, "layers": None})
    blobs = tmp_path / "layout" / "blobs" / "sha256"

    def answer(handler: Handler) -> None:
        name = handler.path.rpartition("/")[2].removeprefix("sha256:")
        data = (blobs / (digest.removeprefix("sha256:") if name == "v1" else name)).read_bytes()
        headers = {
            "Docker_Content_Digest": digest,
            "Content_Type": "application/vnd.oci.image.manifest.v1+json",
        }
        handler.say(200, data, **headers)

    server.answer = answer
    library = Library(tmp_path / "library", SourceOptions({server.host: RegistryOptions(plain_http=True)}))
    with pytest.raises(
        InvalidKitfile, match="is on this machine, and a kit of a registry has its parents in"
    ):
        library.describe(RegistryReference(server.host, "team/kit", "v1", None))


def test_kits_of_this_machine_have_parents_wherever_they_are(tmp_path: Path) -> None:
    local, layout = parse_reference("kit:base:v1"), LayoutReference(tmp_path, "base", "v1", None)
    remote = parse_reference("r.io/base:v1")
    for child in (local, layout):
        for parent in (local, layout, remote):
            check_parent(child, parent)
    check_parent(remote, remote)
    for parent in (local, layout):
        with pytest.raises(InvalidKitfile):
            check_parent(remote, parent)


def test_a_webhook_at_a_clouds_metadata_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in METADATA:
        with pytest.raises(webhooks._RefusedAddress):
            webhooks._check_address("hook.example.com", 443, address)
    for address in ("127.0.0.1", "10.0.0.1", "8.8.8.8", "::1"):
        webhooks._check_address("hook.example.com", 443, address)
    # A name that leads there: the connection is made, and closed before anything is sent.
    with socket.create_server(("127.0.0.1", 0)) as server:
        received: list[bytes] = []
        over = threading.Event()

        def take() -> None:
            connection, _ = server.accept()
            with connection:
                received.append(connection.recv(65536))
            over.set()

        threading.Thread(target=take, daemon=True).start()
        monkeypatch.setattr(webhooks, "is_metadata", lambda address: address == "127.0.0.1")
        hooks = Webhooks(lambda: [f"http://localhost:{server.getsockname()[1]}/hook"])
        hooks.send(RolloutEvent(1.5, "iris", 1, "Degraded", "AnalysisFailed", "wrong", "v1", "v2", 0))
        assert over.wait(10)
        hooks.stop()
    assert received == [b""]
