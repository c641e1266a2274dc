"""What a user writes about kits: how registries are reached, what is trusted, how much is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, LiteralString, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gateway.config.durations import seconds_of
from gateway.errors import InvalidReference
from gateway.files import read_regular
from gateway.kits.policy import Policy
from gateway.kits.public_keys import PublicKey
from gateway.oci.options import RegistryOptions, mirror_reference
from gateway.oci.reference import Digest, RegistryReference
from runtimes.python.requirements import Sources

READS_FILES = "reads_files"
"""In the context of a validation: whether files may be read that the config names; absent, they may."""
SIZE_PATTERN = r"^\s*[0-9]*\.?[0-9]+\s*([kKmMgGtTpPeE][iI]?)?([bB]([iI][tT])?)?\s*$"
"""A size with or without its unit, as pydantic reads it."""


def fault(text: str) -> PydanticCustomError:
    """Return the error that a validator raises for a value of a wrong type: its message is the text."""
    return PydanticCustomError("fault", "{text}", {"text": text})


def read_seconds(value: object) -> object:
    """Read a number with its unit into seconds; leave a plain number to the next validator."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PydanticCustomError("duration_type", "not a duration")
    return seconds_of(value) if isinstance(value, str) else value


_NUMBERS: Mapping[Any, LiteralString] = {int: "int_type", float: "float_type", ByteSize: "byte_size"}
"""The types of numbers, and the type of pydantic's error for a value that is none."""

Seconds = Annotated[float, BeforeValidator(read_seconds), Field(gt=0)]
"""A duration: a number of seconds, or a number with its unit."""


class Strict(BaseModel):
    """Something that a user writes: an unknown field in it is a fault."""

    # Most are parts of others, and built with these: built on their own as well, they would take 50 ms.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false for numbers: pydantic takes them for 1 and 0."""
        field = cls.model_fields[str(info.field_name)]
        number = _number_in(field.annotation, field.metadata) if isinstance(value, bool) else None
        if number is not None:
            raise PydanticCustomError(_NUMBERS[number], "not a number")
        return value


def _number_in(annotation: Any, metadata: Sequence[Any]) -> Any:
    """Return the type of number that a field takes; None where it takes another, or is read by us first."""
    if any(isinstance(part, BeforeValidator) for part in metadata):
        return None
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _number_in(inner, more)
    if get_origin(annotation) in (Union, UnionType):
        return next(filter(None, (_number_in(part, ()) for part in get_args(annotation))), None)
    return annotation if annotation in _NUMBERS else None


class Key(Strict):
    """A public key that signs kits: written as the name of its PEM file, kept as what is in it."""

    name: str
    pem: str

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, dict | Key):
            return value
        if not (info.context or {}).get(READS_FILES, True):
            raise fault("a key is sent as {name, pem}: no file is opened here; `kitserve apply` reads it")
        if not isinstance(value, str):
            raise fault("write the path of a PEM file, with a public key in it")
        try:
            return {"name": value, "pem": read_regular(Path(value)).decode()}
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the key {value} cannot be read: {error}") from None

    @model_validator(mode="after")
    def _usable(self) -> Key:
        self.public_key()
        return self

    def public_key(self) -> PublicKey:
        """Return the key as `gateway.kits.policy` takes it."""
        return PublicKey.parse(self.name, self.pem)


class Trust(Strict):
    """Which kits may be served, and parent kits too: every rule that is written must hold.

    Where a rule is absent, anything is allowed, but never code.
    """

    registries: tuple[str, ...] | None = None
    """Where kits may come from: `HOST`, `HOST/PATH` for all below it, and the words `oci-layout` and `kit`
    for what is on disk."""
    licenses: tuple[str, ...] | None = None
    """Which licenses a Kitfile may state, as SPDX identifiers. A kit that states none is refused."""
    keys: tuple[Key, ...] | None = None
    """Public keys, one of which must have signed the kit with cosign."""
    pickles: Literal["known", "never"] | None = None
    """Whether pickles of known libraries are served, which are loaded without running code: `known` or
    `never`. A kit that may run code may be any pickle."""
    allow_code: tuple[str, ...] | None = None
    """Which kits may be in a format that runs code when it is loaded: `signed` (which needs `keys`), the
    digest of a kit, or a list of these."""
    requirements: Sources | None = None
    """Where the packages in `requirements.txt` of a kit's own Python may come from: `kit`, its wheels and the
    packages that Kitserve has; `index`, the node's package index as well; `never`, a kit that has such a
    file is refused. Absent: `kit`."""

    @field_validator("allow_code", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        if value is None or isinstance(value, list | tuple):
            return value
        if not isinstance(value, str):
            raise fault("write `signed`, the digest of a kit, or a list of these")
        return (value,)

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
        """Return the rules of `other`, each replaced by the one here where there is one."""
        return other.model_copy(update={name: value for name, value in self if value is not None})

    def policy(self) -> Policy:
        """Return the rules as `gateway.kits.policy` takes them."""
        code = self.allow_code or ()
        return Policy(
            registries=self.registries or (),
            licenses=self.licenses or (),
            keys=tuple(key.public_key() for key in self.keys or ()),
            code_digests=tuple(Digest.parse(word) for word in code if word != "signed"),
            code_if_signed="signed" in code,
            requirements=self.requirements or Sources.KIT,
            known_pickles=self.pickles != "never",
        )


REGISTRY_FILES = ("password_file", "token_file", "ca_file", "client_cert_file", "client_key_file")
"""The fields of a registry that name files."""


class Registry(Strict):
    """How one registry is reached. Secrets are read from the environment or from files, never from here."""

    username: str | None = None
    """The user's name; it needs `password_env` or `password_file`."""
    password_env: str | None = None
    """The environment variable that holds the password."""
    password_file: Path | None = None
    """The file that holds the password."""
    token_env: str | None = None
    """The environment variable that holds a bearer token, in place of a user's name and password."""
    token_file: Path | None = None
    """The file that holds such a token."""
    plain_http: bool = False
    """Whether to speak HTTP without TLS."""
    ca_file: Path | None = None
    """A PEM file of authorities that are trusted beside the public ones."""
    client_cert_file: Path | None = None
    """The certificate (PEM) that is shown to the registry; it needs `client_key_file`."""
    client_key_file: Path | None = None
    """The certificate's key (PEM), without a passphrase."""
    proxy: str | None = None
    """The address of a proxy, or `""` for none; absent, the usual environment variables decide
    (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`)."""
    mirrors: tuple[str, ...] = ()
    """Registries that are asked first, in this order, for content by its digest: `HOST`, `HOST:PORT` or
    `HOST/PREFIX`."""
    token_hosts: tuple[str, ...] = ()
    """Token servers that may be in a private network, and that may be sent the password although they have
    another host than the registry: `HOST` or `HOST:PORT`."""
    redirect_hosts: tuple[str, ...] = ()
    """Servers in a private network that the registry may redirect to: `HOST` or `HOST:PORT`."""
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    """How many transfers run at a time for one kit."""
    stall_timeout: Seconds = 30.0
    """How long a transfer may stay below 1 KiB/s before it is broken off and continued."""
    pull_timeout: Seconds = 6 * 3600.0
    """How long everything for one kit may take."""

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
    def _one_login(self) -> Registry:
        logins = [name for name in ("username", "token_env", "token_file") if getattr(self, name) is not None]
        if len(logins) > 1:
            raise ValueError(f"{' and '.join(logins)}: a registry is given one of them")
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ValueError("client_cert_file and client_key_file belong together")
        if self.username is not None and self.password_env is None and self.password_file is None:
            raise ValueError("a username needs password_env or password_file beside it")
        return self

    def options(self) -> RegistryOptions:
        """Return these settings as `gateway.oci` takes them."""
        return RegistryOptions(**dict(self))


class Cache(Strict):
    """How much disk the kits may take on each node."""

    max_size: ByteSize | None = None
    """How large blobs and unpacked kits may be together, such as `100GiB`. The least recently used kits are
    removed first, those in use never. Absent: as large as the disk."""
