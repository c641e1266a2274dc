"""TLS with all that can be wrong with it, and proxies, on the way to a registry."""

from __future__ import annotations

import selectors
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from gateway.errors import RegistryUnavailable
from gateway.oci import transport
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import RegistryReference
from gateway.oci.sources import open_source
from tests.support.answers import BLOB, DATA, Answers, Handler, read, run_answers
from tests.support.certificates import Certificates, KeyPair, make_certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def _context(pair: KeyPair, asking: ssl.VerifyMode = ssl.CERT_NONE, ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert_file, pair.key_file)
    context.verify_mode = asking
    if ca is not None:
        context.load_verify_locations(ca)
    return context


@contextmanager
def _secure(certificates: Certificates, asking: ssl.VerifyMode = ssl.CERT_NONE) -> Iterator[Answers]:
    with run_answers(_context(certificates.server, asking, certificates.ca_file)) as server:
        yield server


def _tls(certificates: Certificates, **options: Any) -> dict[str, Any]:
    return {"plain_http": False, "ca_file": certificates.ca_file, **options}


def _shown(pair: KeyPair) -> dict[str, Any]:
    return {"client_cert_file": pair.cert_file, "client_key_file": pair.key_file}


def test_a_private_authority_is_trusted_where_it_is_named(certificates: Certificates) -> None:
    with _secure(certificates) as server, _secure(certificates) as other:
        assert read(server.source(**_tls(certificates))) == (0, DATA)
        registries = {
            server.host: RegistryOptions(ca_file=certificates.ca_file),
            other.host: RegistryOptions(),
        }
        assert read(server.with_options(registries)) == (0, DATA)
        with pytest.raises(
            RegistryUnavailable,
            match="authority of its certificate is not known on this machine; set `ca_file`",
        ):
            read(other.with_options(registries))
        assert not other.seen


@pytest.mark.parametrize(("pair", "message"), [("expired", "has expired"), ("elsewhere", "for another name")])
def test_a_certificate_that_is_not_right(certificates: Certificates, pair: str, message: str) -> None:
    with run_answers(_context(getattr(certificates, pair))) as server:
        with pytest.raises(RegistryUnavailable, match=f"team/kit:v1.*its certificate .*{message}"):
            read(server.source(**_tls(certificates)))
        assert not server.seen


def test_a_server_of_the_past(certificates: Certificates) -> None:
    context = _context(certificates.server)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with run_answers(context) as server, pytest.raises(RegistryUnavailable, match=r"TLS 1\.2 or newer"):
        read(server.source(**_tls(certificates)))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_wanted(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = _context(certificates.server, ssl.CERT_REQUIRED, certificates.ca_file)
    context.maximum_version = version
    client = {
        "client_cert_file": certificates.client.cert_file,
        "client_key_file": certificates.client.key_file,
    }
    stranger = _shown(certificates.stranger)
    with run_answers(context) as server:
        assert read(server.source(**_tls(certificates, **client))) == (0, DATA)
        with pytest.raises(RegistryUnavailable, match=r"client certificate.* `client_cert_file`"):
            read(server.source(**_tls(certificates)))
        with pytest.raises(RegistryUnavailable, match="refuses the certificate of `client_cert_file`"):
            read(server.source(**_tls(certificates, **stranger)))


def test_files_that_cannot_be_used(certificates: Certificates, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(certificates.client.key_file.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    for options in (
        {"ca_file": Path("/nowhere/ca.pem")},
        {"ca_file": certificates.client.key_file},
        {"client_cert_file": Path("/nowhere/client.pem")},
        {
            "client_cert_file": certificates.client.cert_file,
            "client_key_file": certificates.stranger.key_file,
        },
        {"client_cert_file": certificates.client.cert_file, "client_key_file": locked},
    ):
        with _secure(certificates) as server:
            named = str(next(iter(options.values())))
            with pytest.raises(RegistryUnavailable, match=f"{named} cannot be used"):
                read(server.source(**_tls(certificates, **options)))


def test_no_tls_without_leave(server: Answers) -> None:
    with pytest.raises(RegistryUnavailable, match=r"does not speak TLS; .*`plain_http: true`"):
        read(server.source(plain_http=False))
    assert not server.seen


def test_neither_certificate_nor_password_goes_to_another_server(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []

    def answer(handler: Handler) -> None:
        assert isinstance(handler.connection, ssl.SSLSocket)
        shown.append(bool(handler.connection.getpeercert()))
        if handler.server is other:
            handler.say(200, DATA)
        elif handler.headers.get("Authorization"):
            handler.say(307, Location=f"{other.url}/signed")
        else:
            handler.say(401, WWW_Authenticate='Basic realm="r"')

    monkeypatch.setenv("PASSWORD", "secret")
    client = {
        "client_cert_file": certificates.client.cert_file,
        "client_key_file": certificates.client.key_file,
    }
    asking = ssl.CERT_OPTIONAL
    with _secure(certificates, asking) as server, _secure(certificates, asking) as other:
        server.answer = other.answer = answer
        source = server.source(**_tls(certificates, **client, username="ci", password_env="PASSWORD"))
        assert read(source) == (0, DATA)
        assert shown == [True, True, False]
        assert [seen.authorization for seen in other.seen] == [None]


def test_a_redirect_never_leaves_tls(certificates: Certificates, elsewhere: Answers) -> None:
    with _secure(certificates) as server:
        server.answer = lambda handler: handler.say(307, Location=f"{elsewhere.url}/blob")
        with pytest.raises(RegistryUnavailable, match="which is not safe"):
            read(server.source(**_tls(certificates)))
    assert not elsewhere.seen


class _Proxy:
    """Sends on what is asked of it, and keeps what that was."""

    def __init__(self, server: Answers) -> None:
        self.url = server.url
        self.requests: list[tuple[str, str | None]] = []
        server.answer = self._answer
        self._server = server

    def _answer(self, handler: Handler) -> None:
        self.requests.append((handler.path, handler.headers.get("Proxy-Authorization")))
        if handler.command != "CONNECT":
            handler.say(200, DATA)
            return
        host, _, port = handler.path.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as upstream:
            handler.say(200)
            handler.close_connection = True
            with selectors.DefaultSelector() as ends:
                ends.register(upstream, selectors.EVENT_READ, handler.connection)
                ends.register(handler.connection, selectors.EVENT_READ, upstream)
                while not self._server.stopping.is_set():
                    for ready, _ in ends.select(0.05):
                        data = ready.fileobj.recv(65536)  # type: ignore[union-attr]  # both are sockets
                        if not data:
                            return
                        ready.data.sendall(data)


@pytest.fixture
def proxy(elsewhere: Answers) -> _Proxy:
    return _Proxy(elsewhere)


def test_a_proxy_is_used_for_its_registry(server: Answers, proxy: _Proxy) -> None:
    url = proxy.url.replace("http://", "http://me:secret@")
    assert read(server.source(proxy=url)) == (0, DATA)
    assert proxy.requests == [(f"{server.url}/v2/team/kit/blobs/{BLOB.digest}", "Basic bWU6c2VjcmV0")]
    assert read(server.source()) == (0, DATA)
    assert len(server.seen) == len(proxy.requests) == 1


def test_a_proxy_sees_nothing_of_tls(certificates: Certificates, proxy: _Proxy) -> None:
    with _secure(certificates) as server:
        assert read(server.source(**_tls(certificates, proxy=proxy.url))) == (0, DATA)
        assert [path for path, _ in proxy.requests] == [server.host]
        assert len(server.seen) == 1


def test_the_environment_names_a_proxy(
    server: Answers, proxy: _Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert read(server.source()) == (0, DATA)
    assert len(proxy.requests) == 1
    assert read(server.source(proxy="")) == (0, DATA)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert read(server.source()) == (0, DATA)
    assert len(proxy.requests) == 1
    assert [seen.authorization for seen in server.seen] == [None, None]


def test_a_proxy_that_does_not_help(
    server: Answers, elsewhere: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.001)
    with pytest.raises(RegistryUnavailable, match="its proxy must be an http:// or https:// address"):
        read(server.source(proxy="socks5://127.0.0.1:1"))
    with pytest.raises(RegistryUnavailable, match="through the proxy: Connection refused") as error:
        read(server.source(proxy="http://me:secret@127.0.0.1:1"))
    assert "secret" not in str(error.value)
    elsewhere.answer = lambda handler: handler.say(407)
    with pytest.raises(RegistryUnavailable, match="through the proxy: Tunnel connection failed: 407"):
        read(server.source(plain_http=False, proxy=elsewhere.url))
    assert not server.seen


def test_a_registry_does_not_lead_to_this_machine(
    server: Answers, elsewhere: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", elsewhere.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    elsewhere.answer = lambda handler: handler.say(307, Location=f"{server.url}/admin")
    reference = RegistryReference("registry.example.com", "team/kit", "v1", None)
    options = SourceOptions({reference.host: RegistryOptions(plain_http=True)})
    with pytest.raises(RegistryUnavailable, match="on this machine or link-local and not safe"):
        read(open_source(reference, options))
    assert not server.seen
