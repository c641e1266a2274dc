"""vLLM as a child process: a stand-in checks what it is given, and answers as vLLM would."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path

import pytest

from runtimes.base import Resources
from runtimes.engines import sockets, vllm
from runtimes.engines.base import EngineOptions, EngineRuntime, OpenAIModel
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.select import choose
from runtimes.transformers_generation import TransformersGenerationRuntime, VllmRuntime
from tests.support.waiting import wait

GPU = Resources(gpus=1)
OPTIONS = EngineOptions(context=256, slots=2, chat_template="{{ messages }}")

# Does as `vllm serve` does; what is in its way comes first.
_STAND_IN = """
#!{python}
import argparse, http.server, json, os, socketserver, sys, threading

{before}
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("command", choices=["serve"])
parser.add_argument("model_tag")
for flag in ("uds", "served-model-name", "generation-config", "uvicorn-log-level", "chat-template"):
    parser.add_argument("--" + flag)
for flag in ("max-model-len", "max-num-seqs", "max-num-batched-tokens"):
    parser.add_argument("--" + flag, type=int, required=True)
for flag in ("enable-chunked-prefill", "enable-prompt-tokens-details", "disable-uvicorn-access-log",
             "disable-fastapi-docs", "no-enable-log-requests", "no-trust-remote-code"):
    parser.add_argument("--" + flag, action="store_true", required=True)
options = parser.parse_args()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        body = {{"options": vars(options), "environment": dict(os.environ), "pid": os.getpid()}}
        self.wfile.write(json.dumps(body).encode())
    def address_string(self):
        return "unix"
    def log_message(self, *_):
        pass

socketserver.ThreadingUnixStreamServer(options.uds, Handler).serve_forever()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}  ")
    return path


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str = "") -> None:
    path = tmp_path / "vllm"
    path.write_text(textwrap.dedent(_STAND_IN).strip().format(python=sys.executable, before=before))
    path.chmod(0o755)
    monkeypatch.setenv(vllm.VARIABLE, str(path))


def health(model: OpenAIModel) -> dict[str, dict[str, str]]:
    connection = sockets.UnixConnection(model.socket, timeout=10)
    try:
        connection.request("GET", "/health")
        answer: dict[str, dict[str, str]] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


def test_it_is_started_where_there_is_a_gpu(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    model = TransformersGenerationRuntime().start(directory, GPU, OPTIONS)
    try:
        assert isinstance(model, OpenAIModel)
        assert (model.platform, model.device) == ("vllm_safetensors", "cuda:0")
        assert (model.context, model.slots, model.has_tools) == (256, 2, False)
        assert model.tasks == {Task.CHAT, Task.COMPLETION}
        answer = health(model)
        assert answer["options"]["uds"] == str(model.socket)
        assert answer["options"]["model_tag"] == str(directory)
        environment = answer["environment"]
        assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert "PYTHONPATH" not in environment
    finally:
        model.close()
    pid = int(str(answer["pid"]))
    wait(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("sys.exit('ValueError: CUDA out of memory')", "CUDA out of memory"),
        ("os.kill(os.getpid(), 6)", "SIGABRT"),
        ("sys.argv.append('--unknown')", "unrecognized arguments: --unknown"),
    ],
)
def test_the_reason_of_a_failed_start_is_told(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, reason: str
) -> None:
    stand_in(tmp_path, monkeypatch, before)
    with pytest.raises(LoadError, match=reason):
        VllmRuntime().start(directory, GPU, OPTIONS)


def test_its_death_is_noticed(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    model = VllmRuntime().start(directory, Resources(), OPTIONS)
    try:
        assert model.device == "cpu"
        os.kill(int(str(health(model)["pid"])), 9)
        wait(lambda: not model.is_alive())
        assert "SIGKILL" in model.failure()
    finally:
        model.close()


def test_a_config_that_says_transformers_gets_no_vllm(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch)
    runtime = choose(directory, "transformers-generation").runtime
    assert isinstance(runtime, EngineRuntime)
    assert runtime.name == "transformers-generation"
    with pytest.raises(LoadError, match="or serve a GGUF file"):
        runtime.start(directory, GPU, EngineOptions(projector=tmp_path / "mmproj.gguf"))


def test_a_config_that_says_vllm_gets_no_other(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vllm.VARIABLE, vllm.NONE)
    with pytest.raises(LoadError, match="is to be served by vLLM, which is not here; install it"):
        VllmRuntime().start(directory, GPU, OPTIONS)
