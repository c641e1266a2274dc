"""What a registry is told about who asks: from the options, else from where kit and Docker keep logins.

A login file is Docker's config.json, which kit's credentials.json is too. For each host it names programs
that know the login (credHelpers, then credsStore), and holds logins itself (auths); they are asked in this
order, and the first that knows the host decides. A file or program that cannot be read is an error, never
passed over: who configured it expects to be known.
"""

import base64
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gateway.errors import NotFound, Unauthorized
from gateway.oci.credential_helpers import ask_helper
from gateway.oci.documents import read_json
from gateway.oci.kit_storage import kit_home
from gateway.oci.options import RegistryOptions

# A helper's user name for a token that is no password (Docker credential helpers, "Usage").
_TOKEN_USER = "<token>"  # noqa: S105 - a name
# `docker login` without a host writes Docker Hub's entry under its old index address.
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io")
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Basic:
    """A name and a password; the password is in no repr."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """An OAuth2 refresh token, which a token server exchanges; `username` is whose, where that is known."""

    username: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token that the registry takes as it is."""

    token: str = field(repr=False)


Credential = Basic | IdentityToken | BearerToken


def configured_credential(host: str, options: RegistryOptions) -> Credential | None:
    """Return what the options of a registry say; None when they say nothing.

    Raises Unauthorized when they name something that cannot be read.
    """
    if options.token_env is not None or options.token_file is not None:
        token = _secret(host, "token", options.token_env, options.token_file)
        if re.fullmatch(r"[\x21-\x7e]+", token) is None:
            raise Unauthorized(f"registry {host}: the token is empty or has spaces in it; set it anew")
        return BearerToken(token)
    if options.username is None:
        return None
    if options.password_env is None and options.password_file is None:
        raise Unauthorized(
            f"registry {host} has a username and no password; set password_env or password_file for it"
        )
    return Basic(options.username, _secret(host, "password", options.password_env, options.password_file))


def stored_credential(host: str, kitops_home: Path | None) -> Credential | None:
    """Return the login that kit has for a host, else Docker's; None when neither has one.

    `kitops_home` None is kit's own choice of directory. May run a credential helper, for at most ten
    seconds. Raises Unauthorized when a login cannot be read.
    """
    for path, command in ((_kit_file(kitops_home), "kit"), (_docker_file(), "docker")):
        credential = _from_file(path, host, f"{command} login {host}") if path else None
        if credential is not None:
            return credential
    return None


def _secret(host: str, what: str, variable: str | None, path: Path | None) -> str:
    if variable is not None:
        value = os.environ.get(variable)
        if value is None:
            raise Unauthorized(
                f"registry {host}: the environment variable {variable} is not set; set it to the {what}"
            )
        return value
    assert path is not None
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Unauthorized(
            f"registry {host}: the {what} file {path} cannot be read "
            f"({type(error).__name__}); make it a text file that this user may read"
        ) from None


def _kit_file(home: Path | None) -> Path | None:
    try:
        return (home or kit_home()) / "credentials.json"
    except NotFound:  # a user without a home directory
        return None


def _docker_file() -> Path | None:
    if chosen := os.environ.get("DOCKER_CONFIG"):
        return Path(chosen) / "config.json"
    try:
        return Path.home() / ".docker" / "config.json"
    except RuntimeError:  # likewise
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


class _Answer(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    Username: str
    Secret: str


def _from_file(path: Path, host: str, again: str) -> Credential | None:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unauthorized(f"registry {host}: {path} cannot be read ({error.strerror})") from None
    try:
        logins = _Logins.model_validate(read_json(data))
    except ValueError:
        raise Unauthorized(f"registry {host}: {path} cannot be read; run `{again}` again") from None
    keys = _keys(host)
    helpers = [next((name for key in keys if (name := (logins.credHelpers or {}).get(key))), None)]
    for helper in [*helpers, logins.credsStore]:
        credential = _from_helper(helper, host, path, again) if helper else None
        if credential is not None:
            return credential
    entry = next((entry for key in keys if (entry := (logins.auths or {}).get(key))), None)
    try:
        return _from_entry(entry) if entry else None
    except ValueError:
        raise Unauthorized(
            f"registry {host}: its entry in {path} cannot be read; run `{again}` again"
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


def _from_helper(name: str, host: str, path: Path, again: str) -> Credential | None:
    what = f"registry {host}: the credential helper {name!r} of {path}"
    if not _HELPER_NAME.fullmatch(name):
        raise Unauthorized(f"{what} is no name of a program; correct the file")
    answer = ask_helper(f"docker-credential-{name}", _keys(host)[0], what)
    if answer is None:
        return None
    try:
        login = _Answer.model_validate(read_json(answer))
    except ValueError:
        raise Unauthorized(f"{what} gave no login that can be read; run `{again}` again") from None
    kind = IdentityToken if login.Username == _TOKEN_USER else Basic
    return kind(login.Username, login.Secret)


def _keys(host: str) -> list[str]:
    hub = _HUB_KEYS if host == "docker.io" else ()
    return [*hub, host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
