"""Who may call, as a user writes it: the config and the file of keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.config import parse_config
from gateway.config.keys import parse_keys
from gateway.errors import ConfigError

HASH = "ab" * 32
TOKENS = "{name: t, issuer: i, audience: a, algorithm: RS256, key_file: k.pem}"
QUOTED = 'issuer: "i\'} or {"'


def faults(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return "\n".join(caught.value.faults)


def test_paths_count_from_the_directory() -> None:
    text = f"tls: {{cert_file: a, key_file: /b, client_ca_file: c}}\nkeys: {{file: k, tokens: [{TOKENS}]}}"
    config = parse_config(text).rooted(Path("/home"))
    assert config.tls is not None
    assert config.keys is not None
    assert config.tls.model_dump(mode="json") == {
        "cert_file": "/home/a",
        "key_file": "/b",
        "client_ca_file": "/home/c",
    }
    assert config.keys.file == Path("/home/k")
    assert config.keys.tokens[0].key_file == Path("/home/k.pem")
    # As the CLI sends it to the gateway.
    assert parse_config(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("keys: {}", "write {file: keys.yaml}, tokens, or both"),
        (f"keys: {{tokens: [{TOKENS}, {TOKENS}]}}", "two issuers have the name 't'"),
        ("keys: {{tokens: [{}]}}".format(TOKENS.replace("RS256", "HS256")), "must be 'RS256'"),
        ("keys: {{tokens: [{}]}}".format(TOKENS.replace("RS256", "none")), "must be 'RS256'"),
        (
            "keys: {{tokens: [{}]}}".format(TOKENS.replace("issuer: i", 'issuer: "i\'} or {"')),
            "compared with",
        ),
        ("keys: {{tokens: [{}]}}".format(TOKENS.replace("issuer: i", 'issuer: ""')), "compared with"),
        ("tls: {cert_file: a}", "tls.key_file: is missing"),
        ("allowed_hosts: [https://a.example.com]", "is not the name of a host"),
        ("allowed_hosts: ['*']", "is not the name of a host"),
        ("allowed_hosts: ['a b']", "is not the name of a host"),
        ("allowed_origins: [app.example.com]", "is not SCHEME://HOST"),
        ("allowed_origins: [https://app.example.com/]", "is not SCHEME://HOST"),
        ("allowed_origins: ['https://a.example.com } or { always_true']", "is not SCHEME://HOST"),
    ],
)
def test_what_cannot_be_is_a_fault(text: str, fault: str) -> None:
    assert fault in faults(text)


def test_names_of_hosts_have_no_case() -> None:
    config = parse_config("allowed_hosts: [A.Example.com, '*.Lab']\nallowed_origins: ['*', HTTPS://A:8443]")
    assert config.allowed_hosts == ("a.example.com", "*.lab")
    assert config.allowed_origins == ("*", "https://a:8443")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- name: a", "must be a mapping"),
        ("keys: [{name: a}]", "keys[0].sha256: is missing"),
        ("keys: [{name: a, sha256: abc}]", "this is no SHA-256 of a key"),
        (f"keys: [{{name: 'a b', sha256: {HASH}}}]", "is no name of a key"),
        (f"keys: [{{name: ':ready', sha256: {HASH}}}]", "is no name of a key"),
        (f"keys: [{{name: a, sha256: {HASH}, models: [a/b]}}]", "is not MODEL, MODEL@VERSION"),
        (f"keys: [{{name: a, sha256: {HASH}, per_second: 0}}]", "at least 1"),
        (f"keys: [{{name: a, sha256: {HASH}, admin: true}}]", "unknown field"),
        (
            f"keys: [{{name: a, sha256: {HASH}}}, {{name: b, sha256: {HASH.upper()}}}]",
            "the hash of a key above",
        ),
        (f"keys: [{{name: idp, sha256: {HASH}}}]", "the name 'idp' is there twice"),
    ],
)
def test_a_file_of_keys_is_read_strictly(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_keys(text, "keys.yaml", ["idp"])
    assert fault in "\n".join(caught.value.faults)


def test_an_empty_file_lets_nobody_in() -> None:
    assert parse_keys("", "keys.yaml") == ()
