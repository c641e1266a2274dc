"""What a user writes about getting and trusting kits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.config.config import GatewayConfig, load_config, parse_config
from gateway.control.state.desired import KitUse, desired_from
from gateway.control.state.stored import desired_from_json, desired_to_json
from gateway.errors import ConfigError, NotTrusted
from gateway.kits.policy import ANYTHING, Policy, judge_registry
from gateway.oci.options import RegistryOptions
from gateway.oci.reference import Digest, parse_reference
from runtimes.python.requirements import Sources
from tests.support.signing import Signer

DIGEST = f"sha256:{'a' * 64}"


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value.faults


def test_every_option_of_a_registry_is_read() -> None:
    config = parse_config(
        """\
registries:
  r.io:
    token_env: TOKEN
    client_cert_file: client.pem
    client_key_file: client.key
    proxy: http://proxy:3128
    mirrors: [mirror.io, other.io:5000/cache]
    token_hosts: [auth.local:8443]
    connections: 8
    stall_timeout: 5s
    pull_timeout: 1.5h
"""
    )
    assert config.source_options().registry("r.io") == RegistryOptions(
        token_env="TOKEN",
        client_cert_file=Path("client.pem"),
        client_key_file=Path("client.key"),
        proxy="http://proxy:3128",
        mirrors=("mirror.io", "other.io:5000/cache"),
        token_hosts=("auth.local:8443",),
        connections=8,
        stall_timeout=5.0,
        pull_timeout=5400.0,
    )
    assert config.rooted(Path("/etc")).registries["r.io"].client_key_file == Path("/etc/client.key")
    assert parse_config("registries: {r.io: {}}").source_options().registry("r.io") == RegistryOptions()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{username: a, token_env: B}", "username and token_env: a registry is given one of them"),
        ("{username: a}", "a username needs password_env or password_file beside it"),
        ("{client_cert_file: a}", "client_cert_file and client_key_file belong together"),
        ("{stall_timeout: 5 minutes}", "is not a duration, such as 500ms, 30s, 5m or 2h"),
        ("{stall_timeout: 0s}", "must be more than 0"),
        ("{connections: 0}", "must be at least 1, not 0"),
        ("{mirrors: ['http://x']}", "'http://x' is not a mirror"),
    ],
)
def test_faults_of_a_registry(written: str, message: str) -> None:
    (fault,) = faults(f"registries:\n  r.io: {written}\n")
    assert fault.startswith("line 2: registries.r.io")
    assert message in fault


@pytest.mark.parametrize("host", ["https://r.io", "registry", "r.io/team", "", "localhost"])
def test_settings_of_a_host_with_which_no_reference_begins_are_a_fault(host: str) -> None:
    assert faults(f"models: []\nregistries:\n  {host!r}: {{plain_http: true}}\n") == [
        f"line 3: registries.{host}: {host!r} is not the host of a registry; write it as references begin: "
        "HOST.DOMAIN or HOST:PORT"
    ]


def test_sizes_have_units() -> None:
    assert parse_config("cache: {max_size: 20GiB}").cache.max_size == 20 * 2**30
    assert parse_config("").cache.max_size is None
    (fault,) = faults("cache: {max_size: much}")
    assert fault.startswith("line 1: cache.max_size: must be a size, such as 256MiB or 20GB, not 'much'")


def test_kits_own_storage_is_found_when_the_config_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker may run with another environment."""
    monkeypatch.setenv("KITOPS_HOME", str(tmp_path))
    assert parse_config("").rooted(Path("/x")).source_options().kitops_home == tmp_path
    assert parse_config("kitops_home: k").rooted(Path("/x")).source_options().kitops_home == Path("/x/k")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "cosign.pub"
    path.write_text(Signer().pem)
    return path


def test_any_kit_is_allowed_by_default() -> None:
    config = parse_config("models: [{name: a, kit: 'r.io/a:v1'}]")
    assert config.policy() == config.policy(config.model("a")) == ANYTHING


def test_a_models_trust_is_the_whole_configs_but_for_what_it_says(key: Path) -> None:
    text = f"""\
trust:
  registries: [r.io]
  keys: ["{key}"]
  allow_code: signed
  requirements: index
models:
  - {{name: a, kit: r.io/a:v1, trust: {{licenses: [MIT], allow_code: ["{DIGEST}"]}}}}
  - {{name: b, kit: r.io/b:v1, trust: {{keys: [], allow_code: [], requirements: kit}}}}
"""
    config = parse_config(text)
    a = config.policy(config.model("a"))
    assert (a.registries, a.licenses, len(a.keys)) == (("r.io",), ("MIT",), 1)
    assert (a.code_digests, a.code_if_signed) == ((Digest.parse(DIGEST),), False)
    assert a.requirements is Sources.INDEX
    b = config.policy(config.model("b"))
    assert b == Policy(registries=("r.io",))
    assert config.policy().code_if_signed
    assert desired_from(config).uses(parse_reference("r.io/a:v1")) == (KitUse(a),)


def test_pickles_of_known_libraries_are_allowed_unless_the_config_says_never() -> None:
    config = parse_config("""\
trust: {pickles: never}
models:
  - {name: a, kit: r.io/a:v1}
  - {name: b, kit: r.io/b:v1, trust: {pickles: known}}
""")
    assert not config.policy(config.model("a")).known_pickles
    assert config.policy(config.model("b")) == ANYTHING
    desired = desired_from(config)
    assert desired_from_json(desired_to_json(desired), desired.generation) == desired
    older = desired_to_json(desired).replace('"known_pickles"', '"a field of another release"')
    assert all(model.policy.known_pickles for model in desired_from_json(older, 1).models)


def test_a_key_is_kept_as_what_is_in_its_file(key: Path) -> None:
    """The gateway may not have the file, and a key that is replaced is another config."""
    config = parse_config(f"trust: {{keys: ['{key}']}}")
    restored = GatewayConfig.model_validate(json.loads(config.model_dump_json()))
    key.unlink()
    assert restored == config
    assert restored.policy() == config.policy()
    assert restored.policy().keys[0].name == str(key)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trust: {keys: [nowhere.pub]}", "the key nowhere.pub cannot be read"),
        ("trust: {keys: [{name: k, pem: x}]}", "k is no usable public key"),
        ("trust: {allow_code: [yes please]}", "write digests, or the word signed"),
        ("trust: {key: [x]}", "unknown field; did you mean 'keys'?"),
        (
            "models: [{name: a, kit: 'r.io/a:v1', trust: {allow_code: signed}}]",
            "models[0].trust: code is to be allowed if signed, and no keys are given",
        ),
        (
            "trust: {registries: [r.io/team]}\nmodels: [{name: a, kit: 'r.io/other/a:v1'}]",
            "line 2: models[0].kit: r.io/other/a:v1: the policy allows kits from r.io/team only",
        ),
        (
            "trust: {registries: [r.io]}\n"
            "models: [{name: a, kit: 'r.io/a:v1', canary: {kit: 'x.io/a:v2', weight: 1}}]",
            "line 2: models[0].canary.kit: x.io/a:v2: the policy allows kits from r.io only",
        ),
    ],
)
def test_a_policy_that_means_nothing_is_a_fault(text: str, message: str) -> None:
    (fault,) = faults(text)
    assert message in fault


def test_places_are_named_by_whole_parts() -> None:
    policy = Policy(registries=("r.io/team", "kit"))
    for allowed in ("r.io/team/a:v1", "r.io/team:v1", "kit:a:v1"):
        judge_registry(parse_reference(allowed), policy)
    for refused in ("r.io/teams/a:v1", "r.io/a:v1", "r.io:443/team/a:v1", "oci-layout:x:a:v1"):
        with pytest.raises(NotTrusted):
            judge_registry(parse_reference(refused), policy)


def test_a_key_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    for path, reason in (
        (tmp_path / "pipe", "it is a pipe, not a regular file"),
        (Path("/dev/zero"), "it is a device, not a regular file"),
        (tmp_path, "it is a directory, not a regular file"),
        (tmp_path / "large", "it is larger than 1048576 bytes"),
    ):
        with pytest.raises(ConfigError, match=f"the key {path} cannot be read: {reason}"):
            parse_config(f"models: []\ntrust: {{keys: [{path}]}}")
        with pytest.raises(ConfigError, match=f"cannot be read: {reason}"):
            load_config(path)
