"""What Ray and Serve are told by the environment before they are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.control.loop.environment import LOG_BYTES, prepare

LOCAL = ("RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """An environment without settings of Ray, which is put back as a whole."""
    kept = dict(os.environ)
    for name in [name for name in kept if name.startswith("RAY_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(kept)


def test_on_one_machine_ray_has_a_token_of_this_start_and_loopback_alone() -> None:
    prepare(None)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    first = os.environ["RAY_AUTH_TOKEN"]
    prepare(None)
    assert len(first) == len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert first != os.environ["RAY_AUTH_TOKEN"]
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_on_a_cluster_the_token_and_the_addresses_are_the_clusters() -> None:
    prepare("10.0.0.1:6379")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert not set(LOCAL) & set(os.environ)


def test_on_one_machine_the_users_environment_opens_nothing() -> None:
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_AUTH_TOKEN": "known",
        "RAY_AUTH_TOKEN_PATH": "/tmp/anybodys",
        "RAY_ENABLE_K8S_TOKEN_AUTH": "1",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
    }
    prepare(None)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not {"RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_K8S_TOKEN_AUTH"} & set(os.environ)
    for name in (
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS",
        "RAY_SERVE_ENABLE_HA_PROXY",
    ):
        assert os.environ[name] == "0", name


def test_on_a_cluster_what_is_set_stays() -> None:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "the cluster's"}
    prepare("10.0.0.1:6379")
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert os.environ["RAY_AUTH_TOKEN"] == "the cluster's"


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_what_else_is_set_stays_but_no_call_goes_to_a_proxy(address: str | None) -> None:
    os.environ |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0", "no_proxy": "registry.internal"}
    prepare(address)
    assert os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "0"
    names = os.environ["no_proxy"].split(",")
    assert names[0] == "registry.internal"
    assert "127.0.0.1" in names


READ_BY_RAY = """
import os
from gateway.control.loop.environment import prepare
prepare(None)
from gateway.control.loop.ray_token import require_token
require_token(os.environ["RAY_AUTH_TOKEN"])
prepare(None)
require_token(os.environ["RAY_AUTH_TOKEN"])
from gateway.errors import ControlError
from ray import _raylet
def is_refused(token):
    try:
        require_token(token)
    except ControlError as error:
        return "Ray would take calls of every user" in str(error)
assert is_refused("another")
_raylet.get_authentication_mode = lambda: _raylet.AuthenticationMode.DISABLED
assert is_refused(os.environ["RAY_AUTH_TOKEN"])
"""


def test_ray_reads_the_token_of_each_start_and_another_or_none_is_refused() -> None:
    hostile = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "known"}
    subprocess.run([sys.executable, "-c", READ_BY_RAY], env=hostile, check=True)


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_no_log_of_rays_grows_without_end(address: str | None) -> None:
    prepare(address)
    assert int(os.environ["RAY_ROTATION_MAX_BYTES"]) == LOG_BYTES
    assert os.environ["RAY_ROTATION_BACKUP_COUNT"] == "1"


def test_rays_object_manager_waits_no_second_for_its_socket() -> None:
    attempts, pause = (
        f"RAY_raylet_client_{name}" for name in ("num_connect_attempts", "connect_timeout_milliseconds")
    )
    os.environ[attempts] = "7"
    prepare(None)
    assert (os.environ[attempts], os.environ[pause]) == ("7", "50"), "what a user has set stays"
