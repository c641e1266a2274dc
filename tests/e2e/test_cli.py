"""The commands that need no running Kitserve: help, inspect, pull, and plain messages for errors."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gateway
from tests.support.artifacts import MODELKIT, LayoutBuilder, tar
from tests.support.cli import Cli
from tests.support.kitops import pack_kit
from tests.support.kitserve import KITSERVE
from tests.support.model_files import (
    external_onnx,
    identity_onnx,
    node,
    number,
    onnx_model,
    value_info,
    zipped,
)
from tests.support.ports import free_port
from tests.support.registry import Registry


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("KITSERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    return Cli(tmp_path / "home", monkeypatch, capsys)


def test_help_names_every_command(cli: Cli) -> None:
    for arguments in (["--help"], ["-h"]):
        text, _ = cli(*arguments)
        for command in ("serve", "apply", "status", "inspect", "pull", "--version"):
            assert command in text
    for command, option in (
        ("serve", "--address"),
        ("apply", "--no-wait"),
        ("status", "--admin"),
        ("inspect", "--no-pull"),
        ("pull", "--plain-http"),
    ):
        assert option in cli(command, "--help")[0]
    assert not cli.home.exists()


def test_the_installed_command_and_the_module_are_the_same() -> None:
    for command in ([str(Path(sys.executable).with_name("kitserve"))], KITSERVE):
        process = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert process.stdout == f"kitserve {gateway.__version__}\n"
        wrong = subprocess.run([*command, "sevre"], capture_output=True, text=True, check=False)
        assert wrong.returncode == 2
        assert "Usage: kitserve" in wrong.stderr


@pytest.mark.parametrize("arguments", [[], ["serve"], ["status", "-o", "yaml"], ["inspect", "--pul", "x"]])
def test_a_wrong_command_shows_the_usage_and_ends_with_two(cli: Cli, arguments: list[str]) -> None:
    text, error = cli(*arguments, code=2)
    assert "Usage: kitserve" in text + error


IRIS = [
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
    {"name": "label", "datatype": "INT64", "shape": [-1]},
]
SAMPLES: dict[str, dict[str, Any]] = {
    "iris:v1": {"runtime": "onnx", "file": "model/iris.onnx", "outputs": IRIS, "package": "iris 1.0.0"},
    "iris:v2": {"runtime": "onnx", "file": "model/iris.onnx", "outputs": IRIS, "package": "iris 2.0.0"},
    "iris:bad": {"runtime": "onnx", "file": "model/iris.onnx", "outputs": IRIS, "package": "iris bad.0.0"},
    "iris:v1-gzip": {"runtime": "onnx", "file": "model/iris.onnx", "outputs": IRIS, "package": "iris 1.0.0"},
    "iris-torchscript:v1": {"runtime": "torchscript", "file": "model/iris.pt", "outputs": []},
    "iris-export:v1": {
        "runtime": "torch-export",
        "file": "model/iris.pt2",
        "outputs": [{"name": "output_0", "datatype": "FP32", "shape": [-1, 3]}],
    },
    "iris-pickle:v1": {
        "runtime": "sklearn",
        "file": "model/iris.joblib",
        "outputs": [],
    },
    "iris-statedict:v1": {
        "runtime": None,
        "message": "model/weights.pt is a PyTorch checkpoint (pickle), which runs code when it is loaded: "
        "it imports collections, torch and torch._utils. It is not served in this form; it has weights",
    },
    "iris-child:v1": {"runtime": "onnx", "file": "model/iris.onnx", "outputs": IRIS},
}


def reference(layout: Path, name: str) -> str:
    return f"oci-layout:{layout}:samples/{name}"


def test_every_sample_is_in_the_table(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())["manifests"]
    names = {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index}
    assert names == {f"samples/{name}" for name in SAMPLES}


@pytest.mark.parametrize("name", SAMPLES)
def test_inspect_shows_what_a_sample_is(cli: Cli, layout: Path, name: str) -> None:
    expected = dict(SAMPLES[name])
    message = expected.pop("message", "")
    code = 1 if message else 0
    kit = cli.inspect(reference(layout, name), code=code)
    assert kit["servable"] is (not message)
    assert {key: kit[key] for key in expected} == expected
    assert message in kit["runtime_message"]
    assert kit["reference"] == f"{reference(layout, name)}@{kit['digest']}"
    assert kit["kitfile"]["package"]["name"] == name.partition(":")[0]
    assert [layer["role"] for layer in kit["layers"] if layer["served"]] == (["model"])
    text, _ = cli("inspect", reference(layout, name), code=code)
    lines = " ".join(text.split())
    for shown in (
        kit["reference"],
        f"digest {kit['digest']}",
        "format ModelKit",
        f"package {kit['package']}",
    ):
        assert shown in lines, "nothing is cut off, however narrow"
    assert (message if message else f"runtime: {kit['runtime']} ({kit['file']})") in lines
    for tensor in kit["inputs"] + kit["outputs"]:
        assert tensor["name"] in lines


def test_inspect_without_pulling_says_what_it_does_not_know(cli: Cli, layout: Path) -> None:
    kit = cli.inspect(reference(layout, "iris:v1"), "--no-pull")
    assert (kit["runtime"], kit["servable"]) == (None, None)
    assert kit["runtime_message"] == "not known before the model is pulled; use --pull"
    assert not list((cli.home / "cache/kits").iterdir())


def test_inspect_refuses_what_loading_would(cli: Cli, tmp_path: Path) -> None:
    """Each of these was called servable by its format, and cannot be served."""
    build = LayoutBuilder(tmp_path / "layout")
    custom = onnx_model([node("Thing", ["x"], ["y"], "com.example")], [value_info("x", 1, [2])], [])
    save = zipped({"m/constants.pkl": b"", "m/code/m.py": b"def forward(self): torch.save(1)"})
    for name, data, text in (
        (
            "missing",
            external_onnx("model.onnx.data")[0],
            "keeps weights in 'model.onnx.data', which is no regular",
        ),
        ("outside", external_onnx("../secret")[0], "they must be below its own directory"),
        ("custom", custom, "uses custom operators of com.example"),
        ("newer", number(1, 99) + identity_onnx()[2:], "has the IR version 99, and up to"),
        ("cut", identity_onnx()[:-3], "is an ONNX file that is cut short"),
        ("script", save, "code/m.py uses 'save', which reads or writes files"),
    ):
        pack_kit(build, f"{name}:v1", ("model", "model.onnx", {"model.onnx": data}))
        kit = cli.inspect(f"oci-layout:{build.directory}:{name}:v1", code=1)
        assert (kit["servable"], kit["runtime"], text in kit["runtime_message"]) == (False, None, True), kit


def test_inspect_shows_the_file_that_a_config_would_choose(cli: Cli, tmp_path: Path) -> None:
    build = LayoutBuilder(tmp_path / "layout")
    model, weights = external_onnx("model.onnx.data")
    pack_kit(
        build,
        "two:v1",
        ("model", "onnx/model.onnx", {"onnx/model.onnx": model}),
        ("part", "onnx/model_int8.onnx", {"onnx/model_int8.onnx": identity_onnx(3)}),
        ("code", ".", {"onnx/model.onnx.data": weights, "train.py": b""}),
    )
    kit = cli.inspect(f"oci-layout:{build.directory}:two:v1")
    assert (kit["servable"], kit["file"]) == (True, "onnx/model.onnx")
    assert [layer["served"] for layer in kit["layers"]] == [True, True, True]
    kit = cli.inspect(f"oci-layout:{build.directory}:two:v1", "--file", "onnx/model_int8.onnx")
    assert (kit["file"], kit["inputs"][0]["datatype"]) == ("onnx/model_int8.onnx", "INT8")
    kit = cli.inspect(f"oci-layout:{build.directory}:two:v1", "--runtime", "torchscript", code=1)
    assert "runtime 'torchscript' does not read onnx/model.onnx" in kit["runtime_message"]


def test_inspect_ends_with_one_where_the_policy_refuses(cli: Cli, layout: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("trust: {licenses: [MIT]}\nmodels: []\n")
    kit = cli.inspect(reference(layout, "iris:v1"), "--config", str(config), code=1)
    assert (kit["servable"], kit["trust"]["allowed"]) == (False, False)


def test_inspect_asks_a_registry(cli: Cli, registry: Registry) -> None:
    kit = cli.inspect(f"{registry.host}/samples/iris:v1", "--plain-http")
    assert kit["runtime"] == "onnx"
    assert kit["layers"][0]["size"] == 2560
    assert kit["reference"].startswith(f"{registry.host}/samples/iris:v1@sha256:")


def test_a_registry_that_speaks_no_tls_is_named(cli: Cli, registry: Registry) -> None:
    _, error = cli("inspect", f"{registry.host}/samples/iris:v1", code=1)
    assert "does not speak TLS; if that is meant, set `plain_http: true`" in error


def test_an_image_is_refused_by_what_it_is(cli: Cli, tmp_path: Path) -> None:
    build = LayoutBuilder(tmp_path / "layout")
    config = build.blob("application/vnd.oci.image.config.v1+json", b"{}")
    layer = build.blob("application/vnd.oci.image.layer.v1.tar", tar(("bin/sh", b"#!")))
    build.artifact("debian:12", {"schemaVersion": 2, "config": config, "layers": [layer]})
    for command in ("inspect", "pull"):
        text, error = cli(command, f"oci-layout:{build.directory}:debian:12", code=1)
        assert text == ""
        assert "is no kit: this is a container image; name a ModelKit or a ModelPack" in error


def test_text_of_a_kit_cannot_control_the_terminal(cli: Cli, tmp_path: Path) -> None:
    build = LayoutBuilder(tmp_path / "layout")
    layer = build.blob(f"{MODELKIT}.model.v1.tar", tar(("[/red].onnx", b"no model")))
    kitfile = {"package": {"name": "\x1b[2Jodd"}, "model": {"path": "[/red].onnx", "framework": "[red]"}}
    config = build.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    build.artifact("odd:v1", {"schemaVersion": 2, "config": config, "layers": [layer]})
    text, _ = cli("inspect", f"oci-layout:{build.directory}:odd:v1", code=1)
    assert "\x1b" not in text
    assert "package    \N{REPLACEMENT CHARACTER}[2Jodd\nframework  [red]\nmodel      [/red].onnx\n" in text


def test_a_kit_is_pulled_once_with_plain_lines(cli: Cli, registry: Registry) -> None:
    kit = f"{registry.host}/samples/iris:v1"
    text, error = cli("pull", kit, "--plain-http")
    digest = text.split("@", 1)[1].split()[0]
    path = cli.home / "cache/kits" / digest.removeprefix("sha256:")
    assert text == f"{kit}@{digest}\n{path}  2560 bytes pulled\n"
    assert error.splitlines() == [
        f"{kit}: 0 of 2560 bytes",
        f"{kit}: 2560 of 2560 bytes",
        f"{kit}: unpacking",
    ]
    assert (path / "model" / "iris.onnx").is_file()
    text, error = cli("pull", kit, "--plain-http")
    assert text == f"{kit}@{digest}\n{path}  already in the cache\n"
    assert error == ""


def test_the_pull_of_a_layer_that_is_found_to_be_needed_is_shown_too(cli: Cli, tmp_path: Path) -> None:
    build = LayoutBuilder(tmp_path / "layout")
    model, weights = external_onnx("w", 100_000)
    pack_kit(build, "kit:v1", ("model", "m", {"m": model}), ("code", ".", {"w": weights, "x.py": b""}))
    kit = f"oci-layout:{build.directory}:kit:v1"
    _, error = cli("pull", kit)
    lines = [line.removeprefix(f"{kit}: ") for line in error.splitlines()]
    assert lines[:3] == ["0 of 10240 bytes", "10240 of 10240 bytes", "unpacking"]
    assert lines[3] == "10240 of 419840 bytes"
    assert lines[-2:] == ["419840 of 419840 bytes", "unpacking"]


def test_on_a_terminal_a_bar_shows_the_bytes(cli: Cli, layout: Path) -> None:
    terminal, end = pty.openpty()
    kit = reference(layout, "iris-pickle:v1")
    process = subprocess.Popen(
        [*KITSERVE, "pull", kit, "--home", str(cli.home)],
        stdout=subprocess.PIPE,
        stderr=end,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "300"},
    )
    os.close(end)
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:
        os.close(terminal)  # how Linux reports that the other end is closed
    assert process.communicate()[0].decode().endswith("22528 bytes pulled\n")
    assert process.returncode == 0
    assert b"22.5/22.5 kB" in shown
    assert b"22528 bytes" not in shown
    assert b"\x1b[2K" in shown, "the bar is taken away at the end"


def test_plain_http_keeps_the_rest_that_the_config_says(
    cli: Cli, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"registries:\n  {registry.host}: {{username: ci, password_env: NOT_SET}}\n")
    arguments = ["pull", f"{registry.host}/samples/iris:v1", "--plain-http", "--config", str(config)]
    assert "NOT_SET" in cli(*arguments, code=1)[1]
    monkeypatch.setenv("NOT_SET", "open sesame")
    cli(*arguments)


def test_a_missing_kit_is_named(cli: Cli, registry: Registry, layout: Path) -> None:
    for kit in (f"{registry.host}/samples/iris:v9", reference(layout, "iris:v9")):
        for command in ("pull", "inspect"):
            text, error = cli(command, kit, "--plain-http", code=1)
            assert text == ""
            assert error.startswith("kitserve: ")
            assert "samples/iris:v9" in error


@pytest.mark.parametrize(
    ("kit", "advice"),
    [
        ("oci://registry.test/iris", "write HOST/REPOSITORY:TAG"),
        ("registry.test/Iris:v1", "lower-case letters"),
        ("registry.test/iris@sha256:12", "64 lower-case hex digits"),
        ("oci-layout:here", "write oci-layout:PATH:NAME:TAG"),
    ],
)
def test_an_invalid_reference_is_a_wrong_command(cli: Cli, kit: str, advice: str) -> None:
    for command in ("pull", "inspect"):
        _, error = cli(command, kit, code=2)
        assert advice in error


def test_without_a_running_kitserve_its_start_is_explained(cli: Cli, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    file = tmp_path / "kitserve.yaml"
    file.write_text(f"admin: {nobody}\nmodels: []\n")
    for arguments in (["status", "--admin", nobody], ["apply", str(file)]):
        text, error = cli(*arguments, code=1)
        assert text == ""
        assert f"no Kitserve answers at {nobody}; start one with `kitserve serve`" in error


def test_another_server_at_the_admin_port_is_no_kitserve(cli: Cli, registry: Registry) -> None:
    _, error = cli("status", "--admin", registry.host, code=1)
    assert f"{registry.host}" in error


def test_apply_names_the_faults_of_a_file_and_a_file_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "kitserve.yaml"
    assert "cannot be read" in cli("apply", str(file), code=2)[1]
    for text in ("", "access_log: all\n"):
        file.write_text(text)
        for command in ("apply", "serve"):
            assert "line 1: models: is missing; write the models" in cli(command, str(file), code=2)[1]
    file.write_text("models:\n  - name: iris\n")
    assert "line 2: models[0].kit: is missing, and must be written" in cli("apply", str(file), code=2)[1]


def test_a_home_that_cannot_be_used_is_named(cli: Cli, layout: Path) -> None:
    cli.home.write_text("a file")
    _, error = cli("pull", reference(layout, "iris:v1"), code=1)
    assert str(cli.home) in error
