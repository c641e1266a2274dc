"""The name and password that a registry is given."""

import base64
import os
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gateway.errors import Unauthorized
from gateway.oci.documents import read_json
from gateway.oci.options import RegistryOptions


@dataclass(frozen=True, slots=True)
class Credential:
    """A name and a password; the password is in no repr."""

    username: str
    password: str = field(repr=False)


def find_credential(host: str, options: RegistryOptions) -> Credential | None:
    """Return the credential for a registry host: from its options, else from Docker's config.json.

    None means anonymous. Raises Unauthorized when one is configured and cannot be read.
    """
    if options.username is None:
        return _from_docker(host)
    if options.password_env is not None:
        password = os.environ.get(options.password_env)
        if password is None:
            raise Unauthorized(
                f"registry {host}: the environment variable {options.password_env} is not set; "
                "set it to the password"
            )
        return Credential(options.username, password)
    if options.password_file is not None:
        try:
            password = options.password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Unauthorized(
                f"registry {host}: the password file {options.password_file} cannot be read "
                f"({type(error).__name__}); make it a text file that this user may read"
            ) from None
        return Credential(options.username, password)
    raise Unauthorized(
        f"registry {host} has a username and no password; set password_env or password_file for it"
    )


class _Auth(BaseModel):
    auth: str | None = None


class _DockerConfig(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    auths: dict[str, _Auth] | None = None


def _from_docker(host: str) -> Credential | None:
    directory = os.environ.get("DOCKER_CONFIG")
    path = (Path(directory) if directory else Path.home() / ".docker") / "config.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unauthorized(f"registry {host}: {path} cannot be read ({error.strerror})") from None
    try:
        auths = _DockerConfig.model_validate(read_json(data)).auths or {}
        encoded = next((auths[key].auth for key in _docker_keys(host) if key in auths), None)
        return _decode(encoded) if encoded else None
    except ValueError:
        raise Unauthorized(
            f"registry {host}: its entry in {path} cannot be read; run `docker login {host}` again"
        ) from None


def _decode(encoded: str) -> Credential:
    username, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    if not colon:
        raise ValueError("has no password")
    return Credential(username, password)


def _docker_keys(host: str) -> list[str]:
    # `docker login` without a host writes Docker Hub's entry under its old index address.
    hub = ["https://index.docker.io/v1/"] if host == "docker.io" else []
    return [*hub, host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
