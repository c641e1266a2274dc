"""What a user writes about who may call: certificates, keys, tokens, and web pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.config.kits import Strict
from gateway.config.names import MODEL_NAME

ANY_MODEL = "*"
"""What stands for every model."""
MAX_KEYS = 1000
"""How many keys there may be: each name is a label of metrics."""
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VERSION_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|sha256:[0-9a-f]{64}")
# What stands in single quotes in HAProxy's configuration, and in a token.
_CLAIM = re.compile(r"[A-Za-z0-9._:/@+=~?&,-]{1,256}")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:]+\]")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def check_key_name(value: str) -> str:
    """Refuse a name that no key can have."""
    if not _KEY_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name of a key: letters, digits, '.', '_' and '-', at most 63")
    return value


def _model(value: str) -> str:
    name, separator, version = value.partition("@")
    is_version = _VERSION_NAME.fullmatch(version) if separator else True
    if value != ANY_MODEL and not (MODEL_NAME.fullmatch(name) and is_version):
        raise ValueError(f"{value!r} is not MODEL, MODEL@VERSION or '*'")
    return value


def _claim(value: str) -> str:
    if not _CLAIM.fullmatch(value):
        raise ValueError(
            f"{value!r} is not what a token can be compared with, such as https://id.example.com"
        )
    return value


def _host(value: str) -> str:
    if not _HOST.fullmatch(value.lower()):
        raise ValueError(f"{value!r} is not the name of a host, such as models.example.com or *.example.com")
    return value.lower()


def _origin(value: str) -> str:
    if value != "*" and not _ORIGIN.fullmatch(value.lower()):
        raise ValueError(
            f"{value!r} is not SCHEME://HOST or SCHEME://HOST:PORT, such as https://app.example.com"
        )
    return value.lower()


Claim = Annotated[str, AfterValidator(_claim)]
AllowedHost = Annotated[str, AfterValidator(_host)]
AllowedOrigin = Annotated[str, AfterValidator(_origin)]


class Tls(Strict):
    """The certificate of the data port. A file that changes is in use within seconds, and no call is lost."""

    cert_file: Path
    """The certificate and those of the authorities between, in PEM."""
    key_file: Path
    """Its private key, in PEM, without a password."""
    client_ca_file: Path | None = None
    """The authorities that sign certificates of clients, in PEM. With it, nobody calls without such a one."""

    def rooted(self, directory: Path) -> Self:
        """Return this with its paths made absolute from `directory`."""
        files = {"cert_file": directory / self.cert_file, "key_file": directory / self.key_file}
        if self.client_ca_file is not None:
            files["client_ca_file"] = directory / self.client_ca_file
        return self.model_copy(update=files)


class KeyRights(Strict):
    """What callers may do who have a key, or a token of an issuer."""

    name: Annotated[str, AfterValidator(check_key_name)]
    """What the access log and the metrics say in place of the key."""
    models: Annotated[tuple[Annotated[str, AfterValidator(_model)], ...], Field(max_length=100)] = (
        ANY_MODEL,
    )
    """The models that it may call; absent, all. `MODEL@VERSION` allows calls that name this version, by this
    name."""
    per_second: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many calls it may make within a second; of tokens, those of each subject."""
    per_minute: Annotated[int, Field(ge=1, le=60_000_000)] | None = None
    """How many calls it may make within a minute; of tokens, those of each subject."""
    may_choose_canary: bool = False
    """Whether it may call a canary by its name, or by a header that leads there. Its share of the calls that
    name no version may go there in any case."""


class TokenIssuer(KeyRights):
    """Who signs JSON Web Tokens that stand in place of a key."""

    issuer: Claim
    """What `iss` must say."""
    audience: Claim
    """What `aud` must say, or have among its first four."""
    algorithm: Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
    """The algorithm of its signatures; others are refused, whatever the token says."""
    key_file: Path
    """Its public key, in PEM."""


class Keys(Strict):
    """Who may call. Without it, anybody may who reaches the data port."""

    file: Path | None = None
    """The file of keys, which has their hashes: `kitserve key new` writes it. Changes are in force within
    seconds."""
    tokens: Annotated[tuple[TokenIssuer, ...], Field(max_length=16)] = ()
    """Whose tokens stand in place of a key, each with what they may call."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.file is None and not self.tokens:
            raise ValueError("write {file: keys.yaml}, tokens, or both; without either nobody could call")
        names = [issuer.name for issuer in self.tokens]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"two issuers have the name {repeated!r}")
        return self

    def rooted(self, directory: Path) -> Self:
        """Return this with its paths made absolute from `directory`."""
        tokens = tuple(
            issuer.model_copy(update={"key_file": directory / issuer.key_file}) for issuer in self.tokens
        )
        file = None if self.file is None else directory / self.file
        return self.model_copy(update={"file": file, "tokens": tokens})
