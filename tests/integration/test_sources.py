"""Kits of every format, from every kind of source, with every kind of login.

Every format is tried with every source and every login, and every login with every source that asks for it.
The kit is the same each time: its digest, its files, and the number of bytes that were pulled.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import RegistryUnavailable, Unauthorized
from gateway.kits.library import Library
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import LayoutReference, LocalReference, Reference, RegistryReference
from tests.support.artifacts import FORMATS, MODEL_PATH, LayoutBuilder, iris
from tests.support.certificates import Certificates, make_certificates
from tests.support.checks import check_clean, tree
from tests.support.kitops import kit_storage
from tests.support.registry import PASSWORD, USERNAME, Registry, run_registry
from tests.support.tokens import TokenServer, run_token_server

SAMPLES = Path(__file__).parents[2] / "configs" / "samples"
REAL_STORAGE = Path(__file__).parents[3] / "shared" / "kits" / "kitops-home"
_REF_NAME = "org.opencontainers.image.ref.name"
_NESTED = "nested/in"  # a nested repository, as most registries have them
WRONG = "not-the-secret-of-anyone"


def _samples() -> dict[str, dict[str, Any]]:
    """Return the sample kits that kit made and that have a model of their own, by name."""
    manifests = json.loads((SAMPLES / "index.json").read_text())["manifests"]
    named = {entry["annotations"][_REF_NAME]: entry for entry in manifests}
    return {name: entry for name, entry in named.items() if "child" not in name}


def _slug(name: str) -> str:
    return name.replace(" ", "-").replace("+", "-")


KITS = {**{f"{_NESTED}/{_slug(name)}:v1": name for name in FORMATS}, **{name: name for name in _samples()}}
"""Every kit of the table, with the name of its format."""


@dataclass(frozen=True)
class Sources:
    """The kits of one layout in every kind of source. `digests` is by kit."""

    directory: Path
    layout: Path
    digests: dict[str, str]
    certificates: Certificates
    tokens: TokenServer
    registries: dict[str, Registry]

    @property
    def storage(self) -> Path:
        return self.directory / "kitops"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    directory = tmp_path_factory.mktemp("sources")
    builder = LayoutBuilder(directory / "layout")
    digests = {
        f"{_NESTED}/{_slug(name)}:v1": store(builder, f"{_NESTED}/{_slug(name)}:v1")
        for name, store in FORMATS.items()
    }
    shutil.copytree(SAMPLES / "blobs", builder.directory / "blobs", dirs_exist_ok=True)
    index = json.loads((builder.directory / "index.json").read_text())
    index["manifests"] += _samples().values()
    (builder.directory / "index.json").write_text(json.dumps(index))
    digests |= {name: entry["digest"] for name, entry in _samples().items()}
    kit_storage(directory / "kitops", builder.directory, "registry.example.com")
    for name in ("certificates", "public", "private"):
        (directory / name).mkdir()
    certificates = make_certificates(directory / "certificates")
    with ExitStack() as stack:
        public = stack.enter_context(run_token_server(directory / "public", public=("",)))
        private = stack.enter_context(run_token_server(directory / "private"))
        plain = stack.enter_context(run_registry(directory / "plain"))
        plain.push_layout(builder.directory)
        kinds: dict[str, dict[str, Any]] = {
            "htpasswd": {"htpasswd": True},
            "public tokens": {"tokens": public},
            "tokens": {"tokens": private},
            "tls": {"certificates": certificates},
            "mutual tls": {"certificates": certificates, "client_certificates": True, "htpasswd": True},
        }
        registries = {"plain": plain} | {
            kind: stack.enter_context(run_registry(directory / _slug(kind), storage=plain.storage, **options))
            for kind, options in kinds.items()
        }
        yield Sources(directory, builder.directory, digests, certificates, private, registries)


@dataclass(frozen=True)
class Login:
    """The secrets of one test, and the files and variables that it may put them in, below `directory`."""

    host: str
    secret: str
    identity: str
    directory: Path
    monkeypatch: pytest.MonkeyPatch

    def docker(self, document: dict[str, object]) -> None:
        (self.directory / "docker").mkdir()
        (self.directory / "docker" / "config.json").write_text(json.dumps(document))

    def kit(self, document: dict[str, object]) -> None:
        (self.directory / "kitops").mkdir()
        (self.directory / "kitops" / "credentials.json").write_text(json.dumps(document))

    def file(self) -> Path:
        path = self.directory / "secret"
        path.write_text(f"{self.secret}\n")
        return path

    def variable(self) -> str:
        self.monkeypatch.setenv("REGISTRY_SECRET", self.secret)
        return "REGISTRY_SECRET"

    def helper(self) -> str:
        program = self.directory / "programs" / "docker-credential-tests"
        program.parent.mkdir()
        answer = json.dumps({"ServerURL": self.host, "Username": USERNAME, "Secret": self.secret})
        program.write_text(
            f'#!/bin/sh\ntest "$1" = get && test "$(cat)" = {self.host} && echo \'{answer}\'\n'
        )
        program.chmod(0o755)
        self.monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return "tests"

    def entry(self) -> dict[str, object]:
        return {
            "auths": {self.host: {"auth": base64.b64encode(f"{USERNAME}:{self.secret}".encode()).decode()}}
        }

    def identity_entry(self) -> dict[str, object]:
        return {"auths": {self.host: {"identitytoken": self.identity}}}


LOGINS: dict[str, Callable[[Login], dict[str, Any] | None]] = {
    "password_env": lambda login: {"username": USERNAME, "password_env": login.variable()},
    "password_file": lambda login: {"username": USERNAME, "password_file": login.file()},
    "docker login": lambda login: login.docker(login.entry()),
    "docker's store": lambda login: login.docker({"auths": {login.host: {}}, "credsStore": login.helper()}),
    "docker's helper": lambda login: login.docker({"credHelpers": {login.host: login.helper()}}),
    "kit login": lambda login: login.kit(login.entry()),
    "kit's helper": lambda login: login.kit({"credHelpers": {login.host: login.helper()}}),
}
"""Ways to give a username and a password. Each returns what it adds to the options of a registry."""

TOKEN_LOGINS: dict[str, Callable[[Login], dict[str, Any] | None]] = {
    "token_env": lambda login: {"token_env": login.variable()},
    "token_file": lambda login: {"token_file": login.file()},
    "docker's identity token": lambda login: login.docker(login.identity_entry()),
    "kit's identity token": lambda login: login.kit(login.identity_entry()),
}
"""Ways to give a token, or an identity token that is exchanged for one."""

OPEN = ("directory", "archive", "kit storage", "plain", "public tokens", "tls")
ASKING = ("htpasswd", "tokens", "mutual tls")


def rows() -> list[tuple[str, str, str]]:
    """Return cases (kit, source, login) with every pair of them that is possible."""
    cases = []
    for number, kit in enumerate(KITS):
        cases += [(kit, source, "nobody") for source in OPEN]
        cases += [(kit, ASKING[(number + index) % 3], login) for index, login in enumerate(LOGINS)]
        cases += [(kit, "tokens", login) for login in TOKEN_LOGINS]
    return cases


@dataclass(frozen=True)
class Opened:
    digest: str
    files: dict[str, bytes]
    size: int


@pytest.fixture(scope="module")
def opened_kits() -> dict[str, Opened]:
    """Each kit as it was when it was first opened, from any source."""
    return {}


@dataclass(frozen=True)
class Visitor:
    """A user on a node of their own."""

    sources: Sources
    directory: Path
    monkeypatch: pytest.MonkeyPatch

    def library(self, source: str, login: str, name: str, secret: str | None = None) -> Library:
        """Return a library of a user with this login; a `secret` replaces the right one."""
        if source not in self.sources.registries:
            return Library(self.directory / "node", SourceOptions(kitops_home=self.sources.storage))
        sources, registry = self.sources, self.sources.registries[source]
        options = RegistryOptions(plain_http="tls" not in source)
        if "tls" in source:
            options = replace(options, ca_file=sources.certificates.ca_file)
        if source == "mutual tls":
            client = sources.certificates.client
            options = replace(options, client_cert_file=client.cert_file, client_key_file=client.key_file)
        if "tokens" in source:
            options = replace(options, token_hosts=("127.0.0.1",))
        if login != "nobody":
            scope = f"repository:{name.partition(':')[0]}:pull"
            right = sources.tokens.issue((scope,)) if login in TOKEN_LOGINS else PASSWORD
            credentials = Login(
                registry.host,
                secret or right,
                secret or sources.tokens.refresh_token,
                self.directory,
                self.monkeypatch,
            )
            options = replace(options, **({**LOGINS, **TOKEN_LOGINS}[login](credentials) or {}))
        return Library(self.directory / "node", SourceOptions({registry.host: options}))

    def reference(self, source: str, name: str) -> Reference:
        repository, _, tag = name.partition(":")
        match source:
            case "directory":
                return LayoutReference(self.sources.layout, repository, tag, None)
            case "archive":
                return LayoutReference(self._archive(name), repository, tag, None)
            case "kit storage":
                return LocalReference("registry.example.com", repository, tag, None)
        return RegistryReference(self.sources.registries[source].host, repository, tag, None)

    def _archive(self, name: str) -> Path:
        skopeo = shutil.which("skopeo")
        assert skopeo, "skopeo is not installed"
        archive = self.directory / "kit.tar"
        locations = (f"oci:{self.sources.layout}:{name}", f"oci-archive:{archive}:{name}")
        subprocess.run(
            [skopeo, "copy", "-q", "--preserve-digests", *locations], check=True, capture_output=True
        )
        return archive


@pytest.fixture
def visitor(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visitor:
    return Visitor(sources, tmp_path, monkeypatch)


@pytest.mark.parametrize(("kit", "source", "login"), rows())
def test_a_kit_is_the_same_from_everywhere(
    visitor: Visitor, opened_kits: dict[str, Opened], kit: str, source: str, login: str
) -> None:
    opened = visitor.library(source, login, kit).open(visitor.reference(source, kit))
    files = tree(opened.path)
    assert str(opened.kit.digest) == visitor.sources.digests[kit]
    assert opened.pulled_bytes == opened.kit.size > 0
    assert opened.model_path.exists()
    check_clean(visitor.directory / "node")
    if kit.startswith(_NESTED):
        assert files[MODEL_PATH] == iris()
    else:
        assert files == _files_of_sample(kit)
    outcome = Opened(str(opened.kit.digest), files, opened.kit.size)
    assert opened_kits.setdefault(kit, outcome) == outcome


def _files_of_sample(name: str) -> dict[str, bytes]:
    """Return the files of a sample's model and its parts, read by Python's own tarfile."""

    def blob(descriptor: dict[str, Any]) -> bytes:
        return Path(SAMPLES, "blobs", *descriptor["digest"].split(":")).read_bytes()

    files = {}
    for layer in json.loads(blob(_samples()[name]))["layers"]:
        if ".model.v1" in layer["mediaType"] or ".modelpart.v1" in layer["mediaType"]:
            with tarfile.open(fileobj=io.BytesIO(blob(layer))) as archive:
                for member in archive:
                    if content := archive.extractfile(member):
                        files[member.name] = content.read()
    return files


@pytest.mark.parametrize(
    ("source", "login"),
    [
        *((source, login) for source in ASKING for login in ("nobody", *LOGINS)),
        *(("tokens", login) for login in TOKEN_LOGINS),
    ],
)
def test_a_wrong_secret_is_refused_at_once_and_shown_to_nobody(
    visitor: Visitor, caplog: pytest.LogCaptureFixture, source: str, login: str
) -> None:
    caplog.set_level(logging.DEBUG)
    library = visitor.library(source, login, "samples/iris:v1", secret=WRONG)
    begun = time.monotonic()
    with pytest.raises(Unauthorized, match=r"samples/iris:v1.*(credentials|username)") as refused:
        library.open(visitor.reference(source, "samples/iris:v1"))
    assert time.monotonic() - begun < 2
    encoded = base64.b64encode(f"{USERNAME}:{WRONG}".encode()).decode()
    for text in (str(refused.value), repr(refused.value), caplog.text, repr(library)):
        assert WRONG not in text
        assert encoded not in text
    check_clean(visitor.directory / "node")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ca_file": None}, "authority of its certificate is not known"),
        ({"client_cert_file": None, "client_key_file": None}, "client certificate"),
        ({"plain_http": True}, "400|TLS|HTTPS"),
    ],
)
def test_the_wrong_options_for_a_registry_are_named(
    sources: Sources, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    client = sources.certificates.client
    right = RegistryOptions(
        ca_file=sources.certificates.ca_file,
        client_cert_file=client.cert_file,
        client_key_file=client.key_file,
    )
    host = sources.registries["mutual tls"].host
    library = Library(tmp_path / "node", SourceOptions({host: replace(right, **changes)}))
    begun = time.monotonic()
    with pytest.raises(RegistryUnavailable, match=message):
        library.open(RegistryReference(host, "samples/iris", "v1", None))
    assert time.monotonic() - begun < 2


def test_what_kit_itself_stored(tmp_path: Path) -> None:
    if not REAL_STORAGE.exists():
        pytest.skip("no storage of kit's own is here")
    library = Library(tmp_path / "node", SourceOptions(kitops_home=REAL_STORAGE))
    for name, entry in _samples().items():
        repository, _, tag = name.partition(":")
        opened = library.open(LocalReference("127.0.0.1:5055", repository, tag, None))
        assert str(opened.kit.digest) == entry["digest"]
        assert tree(opened.path) == _files_of_sample(name)
    check_clean(tmp_path / "node")
