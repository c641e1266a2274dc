"""What a user writes about kits: how registries are reached, what is trusted, how much is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, field_validator, model_validator

from gateway.errors import InvalidReference
from gateway.kits.trust import Policy, PublicKey
from gateway.oci.mirrors import mirror_reference
from gateway.oci.options import RegistryOptions
from gateway.oci.reference import Digest, RegistryReference

_UNITS = {"us": 0.000001, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def read_seconds(value: object) -> object:
    """Read a number with its unit into seconds; leave anything else to who comes next."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h)", value)
    if found is None:
        raise ValueError(f"{value!r} is not a duration, such as 500ms, 30s, 5m or 2h")
    return float(found[1]) * _UNITS[found[2]]


Seconds = Annotated[float, BeforeValidator(read_seconds), Field(gt=0)]
"""A duration: a number of seconds, or a number with its unit."""


class Strict(BaseModel):
    """Something that a user writes: an unknown field in it is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Key(Strict):
    """A public key that signs kits: written as the name of its PEM file, kept as what is in it."""

    name: str
    pem: str

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return {"name": value, "pem": Path(value).read_text("utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the key {value} cannot be read: {error}") from None

    @model_validator(mode="after")
    def _usable(self) -> Key:
        self.public_key()
        return self

    def public_key(self) -> PublicKey:
        """The key as the trust room takes it."""
        return PublicKey.parse(self.name, self.pem)


class Trust(Strict):
    """Which kits may be served. A field that is not written is the whole config's, or sets no bound."""

    registries: tuple[str, ...] | None = None
    licenses: tuple[str, ...] | None = None
    keys: tuple[Key, ...] | None = None
    allow_code: tuple[str, ...] | None = None

    @field_validator("allow_code", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("allow_code")
    @classmethod
    def _digests(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for word in value or ():
            if word != "signed":
                try:
                    Digest.parse(word)
                except InvalidReference as error:
                    raise ValueError(f"{error}; write digests, or the word signed") from None
        return value

    def over(self, other: Trust) -> Trust:
        """Return what both say; where they differ, this."""
        return other.model_copy(update={name: value for name, value in self if value is not None})

    def policy(self) -> Policy:
        """What this means, as the trust room takes it."""
        code = self.allow_code or ()
        return Policy(
            registries=self.registries or (),
            licenses=self.licenses or (),
            keys=tuple(key.public_key() for key in self.keys or ()),
            code_digests=tuple(Digest.parse(word) for word in code if word != "signed"),
            code_if_signed="signed" in code,
        )


REGISTRY_FILES = ("password_file", "token_file", "ca_file", "client_cert_file", "client_key_file")
"""The fields of a registry that name files."""


class Registry(Strict):
    """How to reach one registry host. Secrets come from the environment or a file, never from here."""

    username: str | None = None
    password_env: str | None = None
    password_file: Path | None = None
    token_env: str | None = None
    token_file: Path | None = None
    plain_http: bool = False
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str | None = None
    mirrors: tuple[str, ...] = ()
    token_hosts: tuple[str, ...] = ()
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    stall_timeout: Seconds = 30.0
    pull_timeout: Seconds = 6 * 3600.0

    @field_validator("mirrors")
    @classmethod
    def _mirrors(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for mirror in value:
            try:
                mirror_reference(mirror, RegistryReference("r.io", "kit", "latest", None))
            except InvalidReference:
                raise ValueError(
                    f"{mirror!r} is not a mirror; write HOST, HOST:PORT or HOST/PREFIX"
                ) from None
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> Registry:
        ways = [name for name in ("username", "token_env", "token_file") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)}: a registry is given one of them")
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ValueError("client_cert_file and client_key_file belong together")
        return self

    def options(self) -> RegistryOptions:
        """The same, as the OCI room takes it."""
        return RegistryOptions(**dict(self))


class Cache(Strict):
    """How much of a node's disk kits may take, in blobs and unpacked; null: all of it."""

    max_size: ByteSize | None = None
