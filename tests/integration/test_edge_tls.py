"""TLS on the data port: what clients of each protocol get, and certificates that change while it runs."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import openai
import pytest
import tritonclient.grpc

from gateway.config.config import GatewayConfig
from gateway.edge.access_files import AccessFiles
from gateway.edge.files import EdgeFiles
from gateway.edge.haproxy import HAProxy
from gateway.edge.routes import Route, RoutingTable
from gateway.errors import EdgeError
from runtimes.base import TensorSpec
from tests.support.certificates import Authority, KeyPair, make_certificates
from tests.support.echo import Echo
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.grpc_plane import Version
from tests.support.waiting import wait

INFER = "/v2/models/iris/infer"


class Encrypted:
    """An edge with TLS, whose files the tests may change."""

    def __init__(self, directory: Path, workers: Workers, clients: bool = False) -> None:
        self.certificates = make_certificates(directory)
        self.authority = Authority(directory, "second-authority")
        self.cert_file, self.key_file = directory / "tls.crt", directory / "tls.key"
        self.client_ca_file = directory / "clients.crt"
        self.put(self.certificates.server)
        shutil.copy(self.certificates.ca_file, self.client_ca_file)
        tls = {"cert_file": self.cert_file, "key_file": self.key_file}
        if clients:
            tls["client_ca_file"] = self.client_ca_file
        files = EdgeFiles(directory / "edge")
        self.access = AccessFiles(GatewayConfig.model_validate({"tls": tls}), files)
        self.edge = RunningEdge(files.directory, access=self.access.access)
        self.echo = Version("echo", "v1", Echo(TensorSpec("x_FP32", "FP32", (-1, 2))))
        routes = Route("iris", backend("v1", workers.start("v1"))), Route("echo", self.echo.backend)
        self.edge.control.apply(RoutingTable(routes))

    def put(self, pair: KeyPair) -> None:
        """Put a certificate and its key in the place of those before, as programs that renew them do."""
        for source, target in ((pair.cert_file, self.cert_file), (pair.key_file, self.key_file)):
            shutil.copy(source, f"{target}.new")
            Path(f"{target}.new").replace(target)

    def context(self, client: KeyPair | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificates.ca_file))
        context.load_verify_locations(self.authority.ca_file)
        if client is not None:
            context.load_cert_chain(client.cert_file, client.key_file)
        return context

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.edge.port), timeout=5)
        try:
            return (context or self.context()).wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise

    def shown(self) -> str:
        """Return the fingerprint of the certificate that it shows."""
        with self.connect() as connection:
            return (connection.getpeercert(binary_form=True) or b"").hex()

    def stop(self) -> None:
        self.access.stop()
        self.edge.stop()
        self.echo.stop()


def fingerprint(pair: KeyPair) -> str:
    return ssl.PEM_cert_to_DER_cert(pair.cert_file.read_text()).hex()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    workers = Workers()
    encrypted = Encrypted(tmp_path_factory.mktemp("tls"), workers)
    yield encrypted
    encrypted.stop()
    workers.stop()


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    workers = Workers()
    mutual = Encrypted(tmp_path_factory.mktemp("mutual"), workers, clients=True)
    yield mutual
    mutual.stop()
    workers.stop()


def test_clients_of_each_protocol_call_over_tls(encrypted: Encrypted) -> None:
    url, ca_file = f"https://127.0.0.1:{encrypted.edge.port}", encrypted.certificates.ca_file
    for option, version in (("--http1.1", "1.1"), ("--http2", "2")):
        command = [
            "curl",
            "-sS",
            option,
            "--cacert",
            str(ca_file),
            "-w",
            " %{http_code} %{http_version}",
            url + INFER,
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        assert said.stdout.split()[-2:] == ["200", version]
    with openai.DefaultHttpxClient(verify=encrypted.context()) as http_client:
        client = openai.OpenAI(base_url=f"{url}/models/iris/v1", api_key="none", http_client=http_client)
        assert client.models.with_raw_response.list().status_code == 200
    with tritonclient.grpc.InferenceServerClient(
        f"localhost:{encrypted.edge.port}", ssl=True, root_certificates=str(ca_file)
    ) as triton:
        assert triton.is_model_ready("echo")
    credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
    with grpc.secure_channel(f"localhost:{encrypted.edge.port}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/inference.GRPCInferenceService/ModelReady")(b"\n\x04none", timeout=5)
        assert error.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_old_or_not_encrypted_is_refused(encrypted: Encrypted) -> None:
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = encrypted.context()
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            encrypted.connect(context)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = encrypted.context()
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        with encrypted.connect(context) as connection:
            assert connection.selected_alpn_protocol() == "h2"
    with socket.create_connection(("127.0.0.1", encrypted.edge.port), timeout=5) as plain:
        plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert plain.recv(100) == b""


def test_a_new_certificate_is_shown_and_no_connection_is_lost(
    encrypted: Encrypted, caplog: pytest.LogCaptureFixture
) -> None:
    call = b"GET /v2/models/iris/infer HTTP/1.1\r\nHost: localhost\r\n\r\n"
    old, new = encrypted.certificates.server, encrypted.authority.issue("renewed", Authority.LOOPBACK)
    process = encrypted.edge.master_pid()
    with encrypted.connect() as kept:
        kept.sendall(call)
        assert kept.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert encrypted.shown() == fingerprint(old)
        encrypted.put(new)
        encrypted.access.refresh()
        assert encrypted.shown() == fingerprint(new)
        kept.sendall(call)
        assert kept.recv(4096).startswith(b"HTTP/1.1 200 ")
    # It is the one from which HAProxy starts again, too.
    assert encrypted.edge.control.old_processes() == 0
    assert encrypted.edge.master_pid() == process
    _refuse(encrypted, new, caplog)
    # HAProxy starts from what was right, too.
    HAProxy(encrypted.edge.files).reload()
    assert encrypted.shown() == fingerprint(new)
    # As a thread, it sees the change by itself.
    encrypted.access.start()
    encrypted.put(old)
    wait(lambda: encrypted.shown() == fingerprint(old), seconds=6)


def _refuse(encrypted: Encrypted, current: KeyPair, caplog: pytest.LogCaptureFixture) -> None:
    """Check that files which are wrong change nothing, and are told."""
    other = encrypted.authority.issue("another", Authority.LOOPBACK)
    ended = encrypted.authority.issue("ended", Authority.LOOPBACK, ended=1)
    damaged = encrypted.cert_file.with_name("damaged")
    damaged.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    huge = encrypted.cert_file.with_name("huge")
    huge.write_bytes(b"\n" * 2**21)
    for pair, reason in [
        (KeyPair(other.cert_file, current.key_file), "do not belong together"),
        (KeyPair(damaged, current.key_file), "certificate cannot be read"),
        (KeyPair(current.cert_file, damaged), "private key cannot be read"),
        (KeyPair(huge, current.key_file), "larger than"),
        (ended, "ended on"),
    ]:
        caplog.clear()
        encrypted.put(pair)
        with caplog.at_level(logging.WARNING):
            encrypted.access.refresh()
            assert caplog.messages == [], "it may be half written"
            encrypted.access.refresh()
            encrypted.access.refresh()
        assert len(caplog.messages) == 1, reason
        assert reason in caplog.text
        assert encrypted.shown() == fingerprint(current)
    encrypted.cert_file.unlink()
    os.mkfifo(encrypted.cert_file)
    encrypted.access.refresh()
    encrypted.cert_file.unlink()
    encrypted.access.refresh()
    assert encrypted.shown() == fingerprint(current)


def test_only_clients_with_a_certificate_may_call(mutual: Encrypted) -> None:
    def answer(client: KeyPair | None) -> bytes:
        try:
            with mutual.connect(mutual.context(client)) as connection:
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return connection.recv(100)
        except (ssl.SSLError, ConnectionError):
            return b""

    assert answer(mutual.certificates.client).startswith(b"HTTP/1.1 200 ")
    assert answer(None) == b""
    assert answer(mutual.certificates.stranger) == b""
    later = mutual.authority.issue("later-client")
    assert answer(later) == b""
    shutil.copy(mutual.authority.ca_file, mutual.client_ca_file)
    mutual.access.refresh()
    assert answer(later).startswith(b"HTTP/1.1 200 ")
    assert answer(mutual.certificates.client) == b""


def test_files_that_are_wrong_are_told_before_anything_starts(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    server, client = certificates.server, certificates.client
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for cert_file, key_file, reason in [
        (server.cert_file, client.key_file, "do not belong together"),
        (tmp_path / "none.pem", server.key_file, "cannot be read: No such file"),
        (server.cert_file, tmp_path, "cannot be read: it is a directory, not a regular file"),
        (fifo, server.key_file, "cannot be read: it is a pipe, not a regular file"),
        (server.cert_file, server.cert_file, "private key cannot be read"),
    ]:
        config = GatewayConfig.model_validate({"tls": {"cert_file": cert_file, "key_file": key_file}})
        with pytest.raises(EdgeError, match=reason):
            AccessFiles(config, EdgeFiles(tmp_path / "edge"))
