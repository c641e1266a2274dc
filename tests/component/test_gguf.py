"""GGUF models on a real llama.cpp, which runs as a child process and answers on its socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimes import gguf
from runtimes.base import Resources
from runtimes.engines import sockets
from runtimes.engines.base import (
    DEFAULT_OPTIONS,
    Adapter,
    EngineOptions,
    OpenAIModel,
    Outline,
    OutliningRuntime,
)
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.gguf import GgufRuntime, LlamaModel
from tests.support import gguf_files
from tests.support.models import smollm2
from tests.support.waiting import wait

Start = Callable[..., LlamaModel]
SMALL = {"context": 256, "slots": 2}


@pytest.fixture
def start() -> Iterator[Start]:
    """Start models, with two slots of 256 tokens; they are closed after the test."""
    models: list[LlamaModel] = []

    def _start(path: Path, **options: Any) -> LlamaModel:
        model = GgufRuntime().start(path, Resources(), EngineOptions(**(SMALL | options)))
        models.append(model)
        return model

    yield _start
    for model in models:
        model.close()


def ask(model: OpenAIModel, path: str, body: object = None) -> tuple[int, Any]:
    """The status and the JSON of the engine's answer."""
    connection = sockets.UnixConnection(model.socket, 60)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def chat(model: OpenAIModel, text: str = "Hi", **more: object) -> tuple[int, Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0} | more
    return ask(model, "/v1/chat/completions", body)


def test_it_is_an_engine_by_its_protocols(start: Start, tmp_path: Path) -> None:
    runtime = GgufRuntime()
    assert isinstance(runtime, OutliningRuntime)
    model = start(gguf_files.tiny_llama(tmp_path / "m.gguf"))
    assert isinstance(model, OpenAIModel)
    assert runtime.signature(tmp_path / "m.gguf") is None
    assert (model.platform, model.device) == ("llamacpp_gguf", "cpu")


def test_a_chat(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_llama(tmp_path / "m.gguf"), name="iris")
    assert model.tasks == {Task.CHAT, Task.COMPLETION}
    assert (model.slots, model.context, model.has_tools) == (2, 256, False)
    assert model.is_alive()
    assert model.failure() == ""
    status, answer = chat(model)
    assert status == 200
    assert answer["model"] == "iris"
    assert answer["usage"]["completion_tokens"] == 8


def test_a_real_model_answers(start: Start) -> None:
    model = start(smollm2(), context=512, slots=1)
    status, answer = chat(model, "What is the capital of France?", max_tokens=24)
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    assert model.context == 512


def test_nothing_is_asked_for_that_the_relay_does_not_need(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_llama(tmp_path / "m.gguf"))
    assert ask(model, "/metrics")[0] == 501
    assert ask(model, "/")[0] == 404
    assert ask(model, "/props", {"n": 1})[0] == 501


def test_slots_tell_how_full_they_are_and_nothing_of_what_is_in_them(start: Start) -> None:
    model = start(smollm2(), context=512, slots=1)
    chat(model, "What is the capital of France?", max_tokens=2)
    status, slots = ask(model, "/slots")
    assert (status, slots[0]["n_ctx"], slots[0]["is_processing"]) == (200, 512, False)
    assert 10 < slots[0]["n_prompt_tokens"] < 100
    assert "France" not in str(slots)


def test_tools_are_told_by_the_chat_template(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    assert start(path, chat_template=gguf_files.TOOL_TEMPLATE).has_tools
    assert start(gguf_files.tiny_llama(tmp_path / "t.gguf", template=gguf_files.TOOL_TEMPLATE)).has_tools
    bare = start(gguf_files.tiny_llama(tmp_path / "b.gguf", template=None))
    assert bare.tasks == {Task.COMPLETION}
    assert not bare.has_tools


def test_a_chat_template_in_place_of_the_models(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    model = start(path, chat_template="{{ messages[0]['content'] }}!")
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    assert ask(model, "/apply-template", body)[1] == {"prompt": "Hi!"}


def test_a_context_beyond_the_training_is_cut_to_it(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf", context=512)
    model = start(path, context=100_000)
    assert model.context == 512
    status, answer = chat(model, "x" * 600)
    assert (status, answer["error"]["type"]) == (400, "exceed_context_size_error")
    assert GgufRuntime().memory(path, EngineOptions(context=100_000)) == GgufRuntime().memory(
        path, EngineOptions(context=512)
    )


def test_embeddings(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_bert(tmp_path / "m.gguf"))
    assert model.tasks == {Task.EMBEDDING}
    status, answer = ask(model, "/v1/embeddings", {"input": ["the cat sat", "the dog"]})
    assert status == 200
    assert [len(row["embedding"]) for row in answer["data"]] == [32, 32]


def test_a_text_that_fills_the_context_is_embedded_at_once(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_bert(tmp_path / "m.gguf", context=512), context=512, batch=64)
    assert ask(model, "/v1/embeddings", {"input": "the cat " * 250})[0] == 200


def test_a_context_is_rounded_up_with_what_is_computed_at_once(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_bert(tmp_path / "m.gguf", context=512), context=100)
    assert model.context == 256
    assert ask(model, "/v1/embeddings", {"input": "the cat " * 120})[0] == 200


def test_a_generative_model_that_is_said_to_embed(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_llama(tmp_path / "m.gguf"), task=Task.EMBEDDING)
    assert model.tasks == {Task.EMBEDDING}
    assert len(ask(model, "/v1/embeddings", {"input": "abc"})[1]["data"][0]["embedding"]) == 64


def test_a_reranker(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_bert(tmp_path / "m.gguf", pooling=4))
    assert model.tasks == {Task.RERANK}
    body = {"query": "the cat", "documents": ["the cat sat", "moon", "the dog"]}
    status, answer = ask(model, "/v1/rerank", body)
    assert status == 200
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2]


def test_a_split_model(start: Start, tmp_path: Path) -> None:
    whole = chat(start(gguf_files.tiny_llama(tmp_path / "m.gguf")))[1]
    parts = chat(start(gguf_files.split(tmp_path, "m")[0]))[1]
    assert parts["choices"] == whole["choices"]


def test_an_adapter_changes_what_is_said(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    adapter = gguf_files.tiny_adapter(tmp_path / "a.gguf", scale=300.0)
    plain = chat(start(path))[1]["choices"]
    assert chat(start(path, adapters=(Adapter(adapter, 1.0),)))[1]["choices"] != plain
    assert chat(start(path, adapters=(Adapter(adapter, 0.0),)))[1]["choices"] == plain


def test_an_adapter_that_does_not_fit_is_refused(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    other = gguf_files.tiny_adapter(tmp_path / "a.gguf", architecture="qwen2")
    with pytest.raises(LoadError, match=r"a\.gguf is one for qwen2, and .*m\.gguf is llama"):
        start(path, adapters=(Adapter(other),))
    with pytest.raises(LoadError, match=r"m\.gguf is a model, and not a LoRA adapter"):
        start(path, adapters=(Adapter(path),))
    (tmp_path / "peft").mkdir()
    with pytest.raises(LoadError, match=r"peft is an adapter of PEFT.*convert_lora_to_gguf\.py"):
        start(path, adapters=(Adapter(tmp_path / "peft"),))


def test_a_draft_model_speaks_first(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    plain = chat(start(path))[1]
    drafted = chat(start(path, draft=path))[1]
    assert drafted["choices"] == plain["choices"]
    assert drafted["timings"]["draft_n_accepted"] > 0


def test_a_draft_model_of_another_vocabulary_is_refused(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(
        LoadError, match=r"d\.gguf is no draft model for .*m\.gguf: their vocabularies differ"
    ):
        start(path, draft=gguf_files.tiny_bert(tmp_path / "d.gguf"))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(255, -1, -1))]
    other = gguf_files.tiny_llama(tmp_path / "o.gguf", tokenizer__ggml__tokens=tokens)
    with pytest.raises(LoadError, match=r"refuses .*m\.gguf: .*(draft|vocab)"):
        start(path, draft=other)


def test_a_projector_that_is_none_is_refused(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(LoadError, match=r"m\.gguf is a model, and not a projector"):
        start(path, projector=path)
    with pytest.raises(LoadError, match=r"llama\.cpp refuses .*m\.gguf: .*CLIP"):
        start(path, projector=gguf_files.projector(tmp_path / "p.gguf"))


def test_a_chat_template_that_is_wrong_is_refused_with_the_reason(start: Start, tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(LoadError, match=r"llama\.cpp refuses .*chat template"):
        start(path, chat_template="{% for m in %}")


def test_what_the_header_does_not_show_is_told_by_the_engine(start: Start, tmp_path: Path) -> None:
    metadata, tensors = gguf_files.llama_parts()
    del tensors["blk.1.ffn_up.weight"]
    path = gguf_files.write(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(LoadError, match=r"refuses .*m\.gguf: .*tensor 'blk\.1\.ffn_up\.weight' not found"):
        start(path)
    path = gguf_files.tiny_llama(path, general__architecture="llamb", llamb__context_length=64)
    with pytest.raises(LoadError, match="unknown model architecture: 'llamb'"):
        start(path)


def test_an_abort_of_the_engine_is_an_error_with_its_reason(start: Start, tmp_path: Path) -> None:
    metadata, tensors = gguf_files.llama_parts()
    tokens = ["<unk>", "<s>", "</s>", *["<0x00>"] * 256]
    path = gguf_files.write(tmp_path / "m.gguf", metadata | {"tokenizer.ggml.tokens": tokens}, tensors)
    with pytest.raises(LoadError, match=r"refuses .*m\.gguf: .* killed by SIGABRT: .*GGML_ASSERT"):
        start(path)


def test_numbers_that_are_none_are_found(start: Start, tmp_path: Path) -> None:
    metadata, tensors = gguf_files.llama_parts()
    tensors["blk.0.attn_q.weight"][3, 3] = float("nan")
    path = gguf_files.write(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(LoadError, match="invalid data"):
        start(path)


@pytest.mark.parametrize("trained", [64, 512, 1_000, 100_000])
def test_the_outline_is_what_the_model_becomes(start: Start, tmp_path: Path, trained: int) -> None:
    runtime = GgufRuntime()
    assert isinstance(runtime, OutliningRuntime)
    path = gguf_files.tiny_llama(tmp_path / "m.gguf", context=trained)
    for context in (100, 512, 1_000):
        model = start(path, context=context)
        assert runtime.outline(path, EngineOptions(context=context)) == Outline(model.tasks, model.context)


def test_a_kill_is_noticed_and_said(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_llama(tmp_path / "m.gguf"))
    os.kill(model.pid, signal.SIGKILL)
    wait(lambda: not model.is_alive())
    assert "killed by SIGKILL" in model.failure()


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    code = (
        "import sys, time; from pathlib import Path; from runtimes.base import Resources\n"
        "from runtimes.gguf import GgufRuntime\n"
        "model = GgufRuntime().load(Path(sys.argv[1]), Resources())\n"
        "print(model.pid, flush=True); time.sleep(99)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = parent.stdout.readline().strip()
        assert Path(f"/proc/{pid}/cmdline").read_text().endswith("runtimes.engines.llama_server\0")
        parent.kill()
    wait(lambda: not Path(f"/proc/{pid}").exists() or "(zombie)" in Path(f"/proc/{pid}/status").read_text())


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ("no such file", r"xllamacpp is missing: pip install xllamacpp \(no such file\)"),
        ("libgomp.so.1: cannot open shared object file", "xllamacpp needs libgomp: apt-get install libgomp1"),
    ],
)
def test_what_is_missing_is_named(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, text: str
) -> None:
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({failure!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LoadError, match=text):
        start(gguf_files.tiny_llama(tmp_path / "m.gguf"))


def test_close_ends_the_process(start: Start, tmp_path: Path) -> None:
    model = start(gguf_files.tiny_llama(tmp_path / "m.gguf"))
    model.close()
    model.close()
    assert not model.is_alive()
    assert not model.socket.parent.exists()


def test_a_gpu_that_the_build_cannot_use_is_refused(tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(LoadError, match=r"has no GPU support: .* or set resources\.gpus to 0"):
        GgufRuntime().start(path, Resources(gpus=1), DEFAULT_OPTIONS)


def test_a_cpu_that_lacks_instructions_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx f16c bmi1\nbugs\t\t: \n")
    monkeypatch.setattr(gguf, "_CPUINFO", tmp_path / "cpuinfo")
    with pytest.raises(LoadError, match=r"needs AVX2, FMA, BMI2, which this CPU does not"):
        GgufRuntime().load(path, Resources())


def test_the_memory_of_a_real_model_is_foreseen() -> None:
    options = EngineOptions(context=1_024, slots=2)
    expected = GgufRuntime().memory(smollm2(), options)
    # 30 layers, 3 heads of 64 numbers, keys and values of 2 bytes.
    assert expected.cache == 30 * 3 * 64 * 2 * 2 * 2_048
    model = GgufRuntime().start(smollm2(), Resources(), options)
    try:
        assert chat(model, "word " * 300, max_tokens=1)[0] == 200
        status = Path(f"/proc/{model.pid}/status").read_text()
    finally:
        model.close()
    resident = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    assert 0.75 * expected.total < resident < expected.total
