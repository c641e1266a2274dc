"""A language model from a registry, called by the client that everybody has."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.support.chat_kits import chat_layout, embedding_layout
from tests.support.kitserve import Running
from tests.support.registry import Registry

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
COUNT = [{"role": "user", "content": "Count from one to five hundred, in words."}]
ENGINE = {"slots": 4, "context": 4096}
END_OF_ANSWER = "2"  # the token <|im_end|>


@pytest.fixture(scope="module")
def kits(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The registry, with kits of language models."""
    directory = tmp_path_factory.mktemp("chat")
    registry.push_layout(chat_layout(directory / "chat"))
    registry.push_layout(embedding_layout(directory / "embed"))
    return registry


@pytest.fixture(scope="module")
def loaded(shared: Running, kits: Registry) -> Iterator[Running]:
    """A Kitserve with `smollm2`, ready."""
    shared.models = {"smollm2": {"kit": f"{kits.host}/chat/smollm2:v1", "engine": ENGINE}}
    shared.apply()
    yield shared
    shared.models = {}
    shared.apply()


@pytest.fixture
def chat(loaded: Running) -> Iterator[Running]:
    """The same; what a test adds to the model is taken away after it."""
    model = dict(loaded.models["smollm2"])
    yield loaded
    if loaded.models != {"smollm2": model}:
        loaded.models = {"smollm2": model}
        loaded.apply()


def client(kitserve: Running, path: str = "/v1") -> Any:
    """The official client; its types know only OpenAI's own models."""
    return OpenAI(base_url=f"{kitserve.url}{path}", api_key="none", max_retries=0, timeout=60)


def ask(kitserve: Running, model: str = "smollm2", path: str = "/v1", **members: Any) -> Any:
    members = {"messages": FRANCE, "max_tokens": 16, **members}
    return client(kitserve, path).chat.completions.with_raw_response.create(model=model, **members)


def busy(kitserve: Running) -> int:
    """How many answers are made now."""
    lines = [
        line for line in kitserve.metrics().splitlines() if line.startswith("kitserve_requests_generating{")
    ]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


def test_it_answers_whoever_asks_by_name_tag_or_digest(chat: Running) -> None:
    digest = chat.model("smollm2")["versions"][0]["digest"]
    first = ask(chat)
    assert first.headers["ModelKit-Version"] == "v1"
    assert first.headers["ModelKit-Digest"] == digest
    answer = first.parse()
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0
    assert answer.system_fingerprint.endswith(digest.removeprefix("sha256:")[:12])
    for name in ("smollm2:v1", f"smollm2@{digest}", f"smollm2@{digest.removeprefix('sha256:')[:12]}"):
        assert "Paris" in ask(chat, name).parse().choices[0].message.content
    for path in ("/models/smollm2/v1", "/models/smollm2/versions/v1/v1"):
        assert "Paris" in ask(chat, "whatever", path).parse().choices[0].message.content
    listed = {model.id for model in client(chat).models.list()}
    assert listed >= {"smollm2", "smollm2:v1"}
    for missing in ("nobody", "smollm2:v9", "smollm2@sha256:" + "0" * 64):
        with pytest.raises(openai.NotFoundError) as refusal:
            ask(chat, missing)
        assert refusal.value.code == "model_not_found"


def test_every_endpoint_of_a_chat_model(chat: Running) -> None:
    api = client(chat)
    pieces = list(
        api.chat.completions.create(
            model="smollm2",
            messages=FRANCE,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert "Paris" in text
    assert pieces[-1].usage.completion_tokens > 0
    completion = api.completions.create(model="smollm2", prompt="One, two, three,", max_tokens=4)
    assert completion.choices[0].text
    response = api.responses.create(
        model="smollm2", input="What is the capital of France?", max_output_tokens=16
    )
    assert "Paris" in response.output_text
    with pytest.raises(openai.APIStatusError) as refusal:
        api.embeddings.create(model="smollm2", input="x")
    assert refusal.value.status_code in (400, 404, 501)
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    answer = api.chat.completions.create(
        model="smollm2", messages=FRANCE, max_tokens=40, response_format=wanted
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"city"}
    body = json.dumps({"model": "smollm2", "messages": FRANCE, "max_tokens": 8, "stream": True})
    arguments = ["curl", "-sN", f"{chat.url}/v1/chat/completions", "-d", body]
    streamed = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout
    assert streamed.rstrip().endswith("data: [DONE]")


def test_twelve_streams_at_once_and_callers_who_hang_up(chat: Running) -> None:
    def stream(_: int) -> str:
        pieces = client(chat).chat.completions.create(
            model="smollm2", messages=FRANCE, max_tokens=12, stream=True
        )
        return "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(stream, range(12)))
    assert all("Paris" in answer for answer in answers)
    for streamed in (True, False):
        hang_up(chat, streamed)
        wait_until_busy(chat, 0)


def hang_up(kitserve: Running, streamed: bool) -> None:
    """Ask for an answer that takes a quarter of a minute, and close the connection in the middle of it."""
    body = {"model": "smollm2", "messages": COUNT, "max_tokens": 3500, "stream": streamed}
    payload = json.dumps({**body, "logit_bias": {END_OF_ANSWER: -100}}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(payload)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", kitserve.port), timeout=10) as connection:
        connection.sendall(head.encode() + payload)
        wait_until_busy(kitserve, 1)


def wait_until_busy(kitserve: Running, answers: int) -> None:
    """Wait until so many answers are made; workers report it each second."""
    deadline = time.monotonic() + 6
    while busy(kitserve) != answers:
        assert time.monotonic() < deadline, f"{busy(kitserve)} answers are made, not {answers}"
        time.sleep(0.1)


def test_a_canary_with_another_prompt_and_a_damaged_file(chat: Running, kits: Registry) -> None:
    chat.models["smollm2"]["canary"] = {"kit": f"{kits.host}/chat/smollm2:v2", "weight": 50}
    chat.apply()
    versions = {ask(chat, max_tokens=1).headers["ModelKit-Version"] for _ in range(20)}
    assert versions == {"v1", "v2"}
    assert ask(chat, "smollm2:v2").headers["ModelKit-Version"] == "v2"
    chat.models["smollm2"]["canary"]["kit"] = f"{kits.host}/chat/smollm2:cut"
    assert chat.apply(check=False).returncode == 1
    problems = json.dumps(chat.model("smollm2"))
    assert "cut short" in problems or "ends" in problems, problems
    assert "Paris" in ask(chat).parse().choices[0].message.content


def test_embeddings(chat: Running, kits: Registry) -> None:
    chat.models["minilm"] = {"kit": f"{kits.host}/embed/minilm:v1"}
    chat.apply()
    texts = ["A cat sits on the mat.", "A kitten is on the rug.", "Interest rates rose."]
    vectors = [item.embedding for item in client(chat).embeddings.create(model="minilm", input=texts).data]
    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert near > 0.5 > far
