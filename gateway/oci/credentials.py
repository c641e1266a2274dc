"""The credential for a registry: from its options, else from the login files of kit and Docker.

A login file has the form of Docker's config.json; kit's credentials.json has it, too. For each host it may
name credential helpers (credHelpers, then credsStore) and hold logins itself (auths). They are tried in this
order, and the first that has a login for the host is used. A file or helper that fails is an error and never
skipped: whoever configured it expects it to be used.
"""

import base64
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gateway.errors import NotFound, Unauthorized
from gateway.files import read_regular
from gateway.oci.credential_helpers import ask_helper
from gateway.oci.documents import read_json
from gateway.oci.options import RegistryOptions, kit_home

# The username that a helper returns with an identity token (docker-credential-helpers, "Usage").
_TOKEN_USER = "<token>"  # noqa: S105 - a name
# `docker login` without a host writes Docker Hub's entry under its old index address.
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io")
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Basic:
    """A username and a password; no secret is in the repr of a credential."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """An OAuth2 refresh token, which a token server exchanges; `username` is its owner, where known."""

    username: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token that is sent to the registry as it is."""

    token: str = field(repr=False)


Credential = Basic | IdentityToken | BearerToken


def configured_credential(host: str, options: RegistryOptions) -> Credential | None:
    """Return the credential in the options of a registry; None where there is none.

    Raises Unauthorized when they name a variable or file that cannot be read.
    """
    if options.token_env is not None or options.token_file is not None:
        token = _secret(host, "token", options.token_env, options.token_file)
        if re.fullmatch(r"[\x21-\x7e]+", token) is None:
            raise Unauthorized(f"registry {host}: the token is empty or has spaces in it; set it again")
        return BearerToken(token)
    if options.username is None:
        return None
    if options.password_env is None and options.password_file is None:
        raise Unauthorized(
            f"registry {host} has a username and no password; set password_env or password_file for it"
        )
    return Basic(options.username, _secret(host, "password", options.password_env, options.password_file))


def stored_credential(host: str, kitops_home: Path | None) -> Credential | None:
    """Return the login that kit has for a host, else Docker's; None where neither has one.

    `kitops_home` is kit's directory, its default for None. May run a credential helper, for at most ten
    seconds. Raises Unauthorized when a login cannot be read.
    """
    for path, command in ((_kit_file(kitops_home), "kit"), (_docker_file(), "docker")):
        credential = _from_file(path, host, f"{command} login {host}") if path else None
        if credential is not None:
            return credential
    return None


def _secret(host: str, name: str, variable: str | None, path: Path | None) -> str:
    if variable is not None:
        value = os.environ.get(variable)
        if value is None:
            raise Unauthorized(
                f"registry {host}: the environment variable {variable} is not set; set it to the {name}"
            )
        return value
    assert path is not None
    try:
        return read_regular(path).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Unauthorized(
            f"registry {host}: the {name} file {path} cannot be read "
            f"({_reason(error)}); make it a text file that this user may read"
        ) from None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file cannot be read, without any of its bytes."""
    return str(error) if type(error) is OSError and error.errno is None else type(error).__name__


def _kit_file(home: Path | None) -> Path | None:
    try:
        return (home or kit_home()) / "credentials.json"
    except NotFound:  # a user without a home directory
        return None


def _docker_file() -> Path | None:
    if directory := os.environ.get("DOCKER_CONFIG"):
        return Path(directory) / "config.json"
    try:
        return Path.home() / ".docker" / "config.json"
    except RuntimeError:  # a user without a home directory
        return None


class _Auth(BaseModel):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


class _Logins(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    auths: dict[str, _Auth] | None = None
    credsStore: str | None = None  # noqa: N815 - Docker's name
    credHelpers: dict[str, str] | None = None  # noqa: N815


class _HelperAnswer(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    Username: str
    Secret: str


def _from_file(path: Path, host: str, login_command: str) -> Credential | None:
    try:
        data = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unauthorized(f"registry {host}: {path} cannot be read ({error.strerror or error})") from None
    try:
        logins = _Logins.model_validate(read_json(data))
    except ValueError:
        raise Unauthorized(f"registry {host}: {path} cannot be read; run `{login_command}` again") from None
    keys = _keys(host)
    helpers = [next((name for key in keys if (name := (logins.credHelpers or {}).get(key))), None)]
    for helper in [*helpers, logins.credsStore]:
        credential = _from_helper(helper, host, path, login_command) if helper else None
        if credential is not None:
            return credential
    entry = next((entry for key in keys if (entry := (logins.auths or {}).get(key))), None)
    try:
        return _from_entry(entry) if entry else None
    except ValueError:
        raise Unauthorized(
            f"registry {host}: its entry in {path} cannot be read; run `{login_command}` again"
        ) from None


def _from_entry(entry: _Auth) -> Credential | None:
    if entry.registrytoken:
        return BearerToken(entry.registrytoken)
    username, password = entry.username or "", entry.password or ""
    if entry.auth:
        decoded = base64.b64decode(entry.auth, validate=True).decode().rstrip("\0")
        username, colon, password = decoded.partition(":")
        if not colon:
            raise ValueError("has no password")
    if entry.identitytoken:
        return IdentityToken(username, entry.identitytoken)
    return Basic(username, password) if username or password else None


def _from_helper(name: str, host: str, path: Path, login_command: str) -> Credential | None:
    label = f"registry {host}: the credential helper {name!r} of {path}"
    if not _HELPER_NAME.fullmatch(name):
        raise Unauthorized(f"{label} is no name of a program; correct the file")
    answer = ask_helper(f"docker-credential-{name}", _keys(host)[0], label)
    if answer is None:
        return None
    try:
        login = _HelperAnswer.model_validate(read_json(answer))
    except ValueError:
        raise Unauthorized(
            f"{label} returned no login that can be read; run `{login_command}` again"
        ) from None
    credential_type = IdentityToken if login.Username == _TOKEN_USER else Basic
    return credential_type(login.Username, login.Secret)


def _keys(host: str) -> list[str]:
    """Return the names under which login files may have a host."""
    hub = _HUB_KEYS if host == "docker.io" else ()
    return [*hub, host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
