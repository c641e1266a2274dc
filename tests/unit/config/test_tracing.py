"""What a config says of traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.tracing import otlp_settings, shown_endpoint
from gateway.config.config import load_config, parse_config
from gateway.config.tracing import Tracing
from gateway.control.admin.owner_fields import owner_changes, relative_paths
from gateway.control.state.desired import desired_from
from gateway.errors import ConfigError, ControlError
from gateway.tracing.settings import OtlpSettings


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tracing: {endpoint: collector:4318}", "not the address of a collector"),
        ("tracing: {endpoint: 'http://me:secret@collector'}", "not the address of a collector"),
        ("tracing: {sample: 2}", "1"),
        ("tracing: {sample: 1%}", "number"),
        ("tracing: {caller_rate: -1}", "0"),
        ("tracing: {headers_env: A, headers_file: b}", "two sources"),
        ("tracing: {insecure: true}", "insecure"),
    ],
)
def test_what_cannot_be_is_a_fault(text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        parse_config(text)


def test_it_changes_with_a_restart_and_by_the_owner(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("tracing: {headers_file: otlp.txt}")
    config = load_config(file)
    assert config.tracing is not None
    assert config.tracing.headers_file == Path.cwd() / "otlp.txt"
    before = parse_config("models: []")
    assert desired_from(before).fixed.changes(desired_from(config).fixed) == ["tracing"]
    documents = [
        each.model_dump(mode="json") for each in (before, parse_config("tracing: {headers_file: a}"))
    ]
    assert owner_changes(*documents) == ["tracing"]
    assert relative_paths(documents[1]) == ["a"]


def test_what_cannot_be_read_is_said_and_no_secret_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "headers"
    file.write_text("just-a-secret")
    for tracing, environment, text in (
        (Tracing(headers_file=file), {}, "is not NAME=VALUE"),
        (Tracing(headers_file=tmp_path), {}, "cannot be read"),
        (Tracing(headers_env="KEY"), {}, r"\$KEY is not set"),
        (Tracing(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "is no address"),
        (Tracing(), {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "no number of seconds"),
        (Tracing(), {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "not one of"),
    ):
        with pytest.raises(ControlError, match=text) as caught:
            otlp_settings(tracing, environment)
        assert "secret" not in str(caught.value)
    file.write_text("x-key=a%20b\nx-other=c=d\n")
    assert otlp_settings(Tracing(headers_file=file), {}).headers == (("x-key", "a b"), ("x-other", "c=d"))
    assert shown_endpoint(OtlpSettings("http://me:secret@collector:4318/v1/traces?key=secret")) == (
        "http://collector:4318/v1/traces"
    )
    monkeypatch.setattr("gateway.cli.tracing._LIBRARY", "no.such.library")
    with pytest.raises(ControlError, match=r"pip install 'kitserve\[otel\]'"):
        otlp_settings(Tracing(), {})
