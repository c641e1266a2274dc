"""What Ray and Serve are told by the environment before they are imported."""

from __future__ import annotations

import os
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
    first = os.environ.pop("RAY_AUTH_TOKEN")
    prepare(None)
    assert len(first) == len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert first != os.environ["RAY_AUTH_TOKEN"]
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_on_a_cluster_the_token_and_the_addresses_are_the_clusters() -> None:
    prepare("10.0.0.1:6379")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert not set(LOCAL) & set(os.environ)


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_what_is_set_stays_but_no_call_goes_to_a_proxy(address: str | None) -> None:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "no_proxy": "registry.internal"}
    prepare(address)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    names = os.environ["no_proxy"].split(",")
    assert names[0] == "registry.internal"
    assert "127.0.0.1" in names


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_no_log_of_rays_grows_without_end(address: str | None) -> None:
    prepare(address)
    assert int(os.environ["RAY_ROTATION_MAX_BYTES"]) == LOG_BYTES
    assert os.environ["RAY_ROTATION_BACKUP_COUNT"] == "1"
