"""A password that was mended on disk counts at the next try, with no new config."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from gateway.config.config import GatewayConfig
from gateway.contract import Passing
from gateway.control.loop.resolver import resolve
from gateway.control.state.desired import desired_from
from gateway.errors import Unauthorized
from gateway.oci.reference import parse_reference
from tests.support.registry import PASSWORD, USERNAME, run_registry


@pytest.mark.parametrize("kind", ["password_file", "docker login"])
def test_a_mended_password_counts_at_the_next_try(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with run_registry(tmp_path / "registry", htpasswd=True) as registry:
        registry.push_layout(layout)
        kit = f"{registry.host}/samples/iris:v1"
        options: dict[str, object] = {"plain_http": True}

        def write(password: str) -> None:
            if kind == "password_file":
                (tmp_path / "password").write_text(password)
                options.update(username=USERNAME, password_file=str(tmp_path / "password"))
            else:
                auth = base64.b64encode(f"{USERNAME}:{password}".encode()).decode()
                logins = {"auths": {registry.host: {"auth": auth}}}
                (tmp_path / "config.json").write_text(json.dumps(logins))

        write("wrong")
        config = {"models": [{"name": "iris", "kit": kit}], "registries": {registry.host: options}}
        desired = desired_from(GatewayConfig.model_validate(config))
        with pytest.raises(Unauthorized) as caught:
            resolve(parse_reference(kit), tmp_path / "home", desired)
        assert Passing.of(caught.value) == Passing()
        write(PASSWORD)
        assert resolve(parse_reference(kit), tmp_path / "home", desired)
