"""The OpenAI API of a worker: the official client, the worker's server, and llama.cpp behind it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import openai
import pytest

from gateway.codec.openai.request import read_call
from gateway.metrics.tally import Tally
from gateway.serving import Generation, QueueLimits
from gateway.wire.grpc_frames import framed
from gateway.wire.grpc_messages import message
from gateway.wire.server import HttpServer
from gateway.wire.texts import INFERENCE
from gateway.worker import openai_relay
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.engines.base import OpenAIModel
from tests.support.engines import Engine, LlamaEngine
from tests.support.models import smollm2
from tests.support.waiting import wait

DIGEST = "sha256:" + "ab" * 32
FINGERPRINT = "ab" * 6
HI: Any = [{"role": "user", "content": "Say hi."}]
STORY: Any = [{"role": "user", "content": "Tell me a long story about the sea, a ship and a storm."}]


class Serving:
    """A worker's server in front of an engine."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        assert isinstance(engine, OpenAIModel)
        self.engine = engine
        self.tally = Tally()
        identity = Identity("chat", "v1", DIGEST)
        self.app = build_app(identity, engine, self.tally, AppOptions(**options))
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()
        self.address = f"http://{self.server.host}:{self.server.port}"
        self.client = openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, data, names)
        answer = connection.getresponse()
        result = answer.status, answer.headers, answer.read()
        connection.close()
        return result

    def send(self, body: Any, path: str = "/v1/chat/completions") -> socket.socket:
        """Send a call, and leave its answer to who asked."""
        connection = socket.create_connection((self.server.host, self.server.port), timeout=60)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        return connection

    def stop(self) -> None:
        self.client.close()
        self.server.stop()
        self.app.stop()


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(smollm2())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def serving(engine: LlamaEngine) -> Iterator[Serving]:
    serving = Serving(engine)
    yield serving
    serving.stop()


@pytest.fixture
def client(serving: Serving) -> openai.OpenAI:
    return serving.client


class TestChat:
    def test_an_answer_in_one_piece(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="chat", messages=HI, max_tokens=4, temperature=0)
        assert answer.object == "chat.completion"
        assert answer.model == "chat"
        assert answer.system_fingerprint == FINGERPRINT
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4

    def test_a_stream_says_the_same(self, client: openai.OpenAI) -> None:
        whole = client.chat.completions.create(model="chat", messages=HI, max_tokens=6, temperature=0)
        stream = client.chat.completions.create(
            model="chat", messages=HI, max_tokens=6, temperature=0, stream=True
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content
        assert all(chunk.usage is None for chunk in chunks)
        assert {chunk.model for chunk in chunks} == {"chat"}
        assert {chunk.system_fingerprint for chunk in chunks} == {FINGERPRINT}
        assert chunks[-1].choices[0].finish_reason == "length"

    def test_a_stream_tells_its_usage_to_who_asks(self, client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(
            model="chat", messages=HI, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        last = list(stream)[-1]
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens == 3

    def test_the_name_that_was_used_comes_back(self, client: openai.OpenAI) -> None:
        name = f"chat@{DIGEST}"
        assert client.chat.completions.create(model=name, messages=HI, max_tokens=1).model == name

    def test_every_answer_says_which_kit_gave_it(self, serving: Serving) -> None:
        for stream in (False, True):
            body = {"messages": HI, "max_tokens": 1, "stream": stream}
            status, headers, _ = serving.ask("POST", "/v1/chat/completions", body, modelkit_role="canary")
            assert status == 200
            assert headers["modelkit-digest"] == DIGEST
            assert headers["modelkit-version"] == "v1"
            assert headers["modelkit-role"] == "canary"
        assert headers["content-type"] == "text/event-stream; charset=utf-8"

    def test_stop_words_end_an_answer(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(
            model="chat", prompt="1 2 3 4 5", max_tokens=20, temperature=0, stop=[" 8"]
        )
        assert answer.choices[0].text == " 6 7"
        assert answer.choices[0].finish_reason == "stop"

    def test_a_seed_repeats_an_answer(self, client: openai.OpenAI) -> None:
        def text(seed: int) -> str:
            answer = client.completions.create(
                model="chat", prompt="Once", max_tokens=10, temperature=1.5, seed=seed
            )
            return answer.choices[0].text

        assert text(7) == text(7)
        assert len({text(seed) for seed in range(3)}) > 1

    def test_several_answers(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="chat", messages=HI, max_tokens=3, n=2)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert all(choice.message.content for choice in answer.choices)
        assert answer.usage is not None
        alone = client.chat.completions.create(model="chat", messages=HI, max_tokens=3)
        assert alone.usage is not None
        assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
        assert answer.usage.completion_tokens == 6

    def test_several_answers_streamed_have_one_usage(self, client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(
            model="chat", messages=HI, max_tokens=2, n=2, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [4]
        assert chunks[-1].choices == []
        assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}

    def test_likelihoods(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="chat", messages=HI, max_tokens=3, logprobs=True, top_logprobs=2, temperature=0
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert len(logprobs.content) == 3
        assert all(len(token.top_logprobs) == 2 for token in logprobs.content)
        assert "".join(token.token for token in logprobs.content) == answer.choices[0].message.content

    def test_a_schema_is_obeyed(self, client: openai.OpenAI) -> None:
        schema: Any = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
        answer = client.chat.completions.create(
            model="chat",
            messages=HI,
            max_tokens=40,
            seed=1,
            response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
        )
        assert isinstance(json.loads(answer.choices[0].message.content or "")["age"], int)

    def test_long_prompts_are_the_callers_fault(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refusal:
            client.completions.create(model="chat", prompt="hello there " * 1000, max_tokens=1)
        assert refusal.value.code == "context_length_exceeded"
        assert "context size" in refusal.value.message

    def test_answers_longer_than_the_context_are_cut(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="chat", messages=HI, max_tokens=10**9, stop=[" "], seed=1
        )
        assert answer.choices[0].finish_reason == "stop"


class TestOtherPaths:
    def test_completions(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model="chat", prompt="Once upon", max_tokens=3, temperature=0)
        assert answer.object == "text_completion"
        assert answer.model == "chat"
        assert answer.system_fingerprint == FINGERPRINT
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3
        chunks = list(
            client.completions.create(
                model="chat", prompt="Once upon", max_tokens=3, temperature=0, stream=True
            )
        )
        assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
        assert all(chunk.usage is None for chunk in chunks)

    def test_likelihoods_of_completions(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(
            model="chat", prompt="Once upon", max_tokens=3, temperature=0, logprobs=2
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert "".join(logprobs.tokens or []) == answer.choices[0].text
        assert [len(top) for top in logprobs.top_logprobs or []] == [2, 2, 2]
        assert logprobs.text_offset is not None
        assert logprobs.text_offset[0] == 0

    def test_several_answers_of_completions(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model="chat", prompt="Once upon", max_tokens=3, n=2)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 6

    def test_completions_of_several_prompts(self, client: openai.OpenAI) -> None:
        prompts = ["One two", "Red and", "The"]
        answer = client.completions.create(model="chat", prompt=prompts, max_tokens=2)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 6
        stream = client.completions.create(
            model="chat", prompt=prompts, max_tokens=2, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2}
        assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [6]

    def test_responses(self, client: openai.OpenAI) -> None:
        answer = client.responses.create(model="chat", input="Say hi.", max_output_tokens=4, temperature=0)
        assert answer.object == "response"
        assert answer.model == "chat"
        assert answer.output_text
        assert answer.usage is not None
        assert answer.usage.output_tokens == 4
        stream = client.responses.create(
            model="chat", input="Say hi.", max_output_tokens=4, temperature=0, stream=True
        )
        events = list(stream)
        assert (
            "".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text
        )
        last = events[-1]
        assert last.type == "response.completed"
        assert last.response.model == "chat"

    def test_a_stream_of_responses_is_put_together(self, client: openai.OpenAI) -> None:
        with client.responses.stream(
            model="chat", input="Say hi.", max_output_tokens=4, temperature=0
        ) as stream:
            events = list(stream)
            answer = stream.get_final_response()
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == answer.output_text != ""
        created = events[0]
        assert created.type == "response.created"
        assert (created.response.model, created.response.output) == ("chat", [])

    def test_responses_obey_a_schema(self, client: openai.OpenAI) -> None:
        schema: Any = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
        answer = client.responses.create(
            model="chat",
            input="How old are you?",
            max_output_tokens=40,
            text={"format": {"type": "json_schema", "name": "person", "schema": schema}},
            extra_body={"seed": 1},
        )
        assert isinstance(json.loads(answer.output_text)["age"], int)

    def test_models(self, client: openai.OpenAI) -> None:
        (model,) = client.models.list().data
        assert model.id == "chat"
        assert client.models.retrieve("chat").id == "chat"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")

    def test_what_the_model_does_not_do_is_said(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match=r"answers chats .*/v1/chat/completions"):
            client.embeddings.create(model="chat", input="a")

    @pytest.mark.parametrize("path", ["/slots", "/props", "/v1/chat/completions/control", "/tokenize", "/v1"])
    def test_the_engines_other_paths_are_not_there(self, serving: Serving, path: str) -> None:
        assert serving.ask("GET", path)[0] == 404
        assert serving.ask("POST", path, {})[0] == 404

    def test_errors_under_v1_are_openais(self, serving: Serving) -> None:
        for method, path, status in (("GET", "/v1/chat/completions", 405), ("POST", "/v1/none", 404)):
            answer = serving.ask(method, path)
            assert answer[0] == status
            assert set(json.loads(answer[2])["error"]) == {"message", "type", "param", "code"}

    def test_readiness_and_metadata(self, serving: Serving) -> None:
        assert json.loads(serving.ask("GET", "/v2/health/ready")[2]) == {"name": "chat", "ready": True}
        assert serving.ask("GET", "/v2/models/chat/versions/v1/ready")[0] == 200
        metadata = json.loads(serving.ask("GET", "/v2/models/chat")[2])
        assert metadata["inputs"] == metadata["outputs"] == []
        assert serving.ask("POST", "/v2/models/chat/infer", {})[0] == 404

    @pytest.mark.parametrize(
        "path",
        ["/v2/models/chat/predict", "/v1/models/chat:predict", "/invocations", "/models/chat/invocations"],
    )
    def test_it_takes_no_rows_and_says_what_it_does(self, serving: Serving, path: str) -> None:
        status, _, body = serving.ask("POST", path, {"rows": []})
        assert status == 404
        assert "answers chats (/v1/chat/completions" in json.loads(body)["error"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("members", "param"),
        [
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"audio": {"voice": "alloy"}}, "audio"),
            ({"store": True}, "store"),
            ({"id_slot": 0}, "id_slot"),
            ({"n": 9}, "n"),
            ({"max_tokens": -1}, "max_tokens"),
        ],
    )
    def test_what_is_not_served(self, client: openai.OpenAI, members: dict[str, Any], param: str) -> None:
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(model="chat", messages=HI, extra_body=members)
        assert refusal.value.param == param
        assert param in refusal.value.message

    def test_images_are_not_fetched(self, client: openai.OpenAI) -> None:
        content: Any = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]
        with pytest.raises(openai.BadRequestError, match="no projector"):
            client.chat.completions.create(model="chat", messages=[{"role": "user", "content": content}])

    def test_bodies_that_are_no_calls(self, serving: Serving) -> None:
        for body in (b"", b"[]", b'{"messages":1}', b'{"model":"a","model":"b"}', b'{"messages":[]}'):
            status, headers, answer = serving.ask("POST", "/v1/chat/completions", body)
            assert status == 400, answer
            assert headers["modelkit-digest"] == DIGEST
            assert json.loads(answer)["error"]["type"] == "invalid_request_error"

    def test_timeouts_that_are_none(self, serving: Serving) -> None:
        body = {"messages": HI}
        assert serving.ask("POST", "/v1/chat/completions", body, x_request_timeout="soon")[0] == 400


class TestManyCalls:
    def test_twelve_streams_at_once(self, serving: Serving, engine: LlamaEngine) -> None:
        async def run() -> list[str]:
            async with openai.AsyncOpenAI(base_url=f"{serving.address}/v1", api_key="none") as client:

                async def one(number: int) -> str:
                    stream = await client.chat.completions.create(
                        model="chat", messages=HI, max_tokens=8, temperature=0, seed=number, stream=True
                    )
                    texts = [c.choices[0].delta.content or "" async for c in stream]
                    return "".join(texts)

                return await asyncio.gather(*(one(number) for number in range(12)))

        texts = asyncio.run(run())
        assert len(texts) == 12
        assert all(texts)
        wait(lambda: not serving.tally.ongoing)
        assert serving.tally.generating == 0
        assert engine.busy == 0

    @pytest.mark.parametrize("stream", [True, False])
    def test_who_hangs_up_frees_the_slot(self, serving: Serving, engine: LlamaEngine, stream: bool) -> None:
        connection = serving.send({"messages": STORY, "max_tokens": 900, "stream": stream})
        wait(lambda: engine.busy == 1)
        time.sleep(0.5)
        dropped = serving.tally.numbers().dropped["cancelled"]
        connection.close()
        closed = time.perf_counter()
        wait(lambda: engine.busy == 0, 10)
        seconds = time.perf_counter() - closed
        assert seconds < 1.0
        assert serving.tally.numbers().dropped["cancelled"] == dropped + 1
        assert serving.tally.ongoing == serving.tally.generating == 0

    def test_who_hangs_up_while_the_prompt_is_read_frees_the_slot(
        self, serving: Serving, engine: LlamaEngine
    ) -> None:
        prompt = " ".join(f"word{number * 7919 % 9973}" for number in range(180))
        connection = serving.send({"messages": [{"role": "user", "content": prompt}], "max_tokens": 1})
        time.sleep(0.3)
        connection.close()
        # One batch of the prompt is read to its end.
        wait(lambda: engine.busy == 0, 3)
        for path, said in (("chat/completions", {"messages": HI}), ("responses", {"input": "Say hi."})):
            status, _, answer = serving.ask("POST", f"/v1/{path}", {**said, "stream": True})
            assert status == 200
            assert b"prompt_progress" not in answer
            assert answer.count(b"event: response.in_progress") == (path == "responses")

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_deadline_ends_an_answer(self, serving: Serving, engine: LlamaEngine, stream: bool) -> None:
        body = {"messages": STORY, "max_tokens": 900, "stream": stream}
        status, _, answer = serving.ask("POST", "/v1/chat/completions", body, x_request_timeout="700ms")
        if stream and status == 200:
            answer = answer.strip().rpartition(b"\n\n")[2].removeprefix(b"data: ")
        else:
            assert status == 504
        assert "not complete after" in json.loads(answer)["error"]["message"]
        wait(lambda: engine.busy == 0, 1)

    def test_calls_wait_and_are_too_many(self, engine: LlamaEngine) -> None:
        serving = Serving(engine, limits=QueueLimits(max_requests=1, timeout=0.5))
        try:
            running = [serving.send({"messages": STORY, "max_tokens": 900}) for _ in range(4)]
            wait(lambda: serving.tally.generating == 4)
            late: list[Any] = []
            call = {"messages": HI, "max_tokens": 1}
            waiting = threading.Thread(
                target=lambda: late.append(serving.ask("POST", "/v1/chat/completions", call))
            )
            waiting.start()
            wait(lambda: serving.app.queued == 1)
            status, headers, body = serving.ask("POST", "/v1/chat/completions", call)
            assert status == 503
            assert int(headers["retry-after"]) >= 1
            assert json.loads(body)["error"]["type"] == "service_unavailable"
            waiting.join()
            assert late[0][0] == 504
            for connection in running:
                connection.close()
            wait(lambda: not serving.tally.ongoing)
            assert serving.ask("POST", "/v1/chat/completions", call)[0] == 200
        finally:
            serving.stop()

    def test_tokens_are_counted(self, engine: LlamaEngine) -> None:
        serving = Serving(engine)
        try:
            for stream in (False, True):
                body = {"messages": HI, "max_tokens": 5, "stream": stream, "temperature": 0}
                assert serving.ask("POST", "/v1/chat/completions", body)[0] == 200
            wait(lambda: not serving.tally.ongoing)
            tokens = serving.tally.numbers().tokens
            assert tokens.output == 10
            assert tokens.input > 20
            assert 0 < tokens.cached < tokens.input
            assert sum(tokens.first.counts) == 2
            # between five tokens, and to the event that says why the answer ended; some come together
            assert 6 <= sum(tokens.between.counts) <= 10
        finally:
            serving.stop()


class TestDefaults:
    def test_what_the_kit_says_of_generation(self, engine: LlamaEngine) -> None:
        sampling = (("temperature", 0), ("max_tokens", 3))
        serving = Serving(engine, generation=Generation(sampling, (" 8",), "Answer in French."))
        try:
            answer = serving.client.chat.completions.create(model="chat", messages=HI)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 3
            assert serving.client.chat.completions.create(model="chat", messages=HI, max_tokens=1).usage
            text = serving.client.completions.create(model="chat", prompt="1 2 3 4 5", max_tokens=20)
            assert text.choices[0].text == " 6 7"
        finally:
            serving.stop()


class TestOtherProtocols:
    """Who calls a language model as a model of tensors is told how it is called."""

    DOES = "model chat answers chats (/v1/chat/completions, /v1/responses), completes texts (/v1/completions)"

    @pytest.mark.parametrize("path", ["infer", "versions/v1/infer", "generate", "config"])
    def test_over_rest(self, serving: Serving, path: str) -> None:
        path = f"/v2/models/chat/{path}"
        status, _, body = serving.ask("POST", path, {})
        assert (status, json.loads(body)) == (404, {"error": f"no such path: {path}; {self.DOES}"})

    @pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer", "ModelConfig"])
    def test_over_grpc(self, serving: Serving, method: str) -> None:
        path = f"/{INFERENCE}/{method}"
        _, headers, _ = serving.ask("POST", path, bytes(5), content_type="application/grpc")
        assert headers["grpc-status"] == "12"
        assert unquote(headers["grpc-message"]) == f"tensors are not served: {self.DOES}"

    def test_over_grpc_it_is_ready(self, serving: Serving) -> None:
        request = message("inference.ModelReadyRequest")(name="chat").SerializeToString()
        path, body = f"/{INFERENCE}/ModelReady", framed([request])
        status, _, answer = serving.ask("POST", path, body, content_type="application/grpc")
        assert (status, answer[5:]) == (200, b"\x08\x01")


def test_a_large_call_is_read_beside_the_others(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noted(*values: Any) -> Any:
        threads.append(threading.current_thread().name)
        return read_call(*values)

    monkeypatch.setattr(openai_relay, "read_call", noted)
    large = [{"role": "user", "content": "word " * 100_000}]
    for messages, status in ((HI, 200), (large, 400), ([], 400)):
        body = {"model": "chat", "messages": messages, "max_tokens": 1}
        assert serving.ask("POST", "/v1/chat/completions", body)[0] == status
    assert threads[0] == threads[2] != threads[1]
    assert serving.tally.ongoing == 0


def test_a_dead_engine_is_said(engine: LlamaEngine) -> None:
    engine = LlamaEngine(smollm2(), slots=1, context=256)
    serving = Serving(engine)
    try:
        stream = serving.client.chat.completions.create(
            model="chat", messages=STORY, max_tokens=200, stream=True
        )
        next(iter(stream))
        engine.process.kill()
        engine.process.wait()
        with pytest.raises(openai.APIError, match="the model's engine has ended"):
            list(stream)
        assert not serving.app.is_alive()
        assert serving.app.failure().startswith("the engine has ended: it ended with status")
        with pytest.raises(openai.InternalServerError, match="the model's engine has ended"):
            serving.client.chat.completions.create(model="chat", messages=HI)
        assert serving.ask("GET", "/v2/health/ready")[0] == 503
    finally:
        serving.stop()
        engine.close()


def test_embeddings_of_an_engine() -> None:
    engine = LlamaEngine(smollm2(), slots=1, context=256, what="embedding")
    serving = Serving(engine)
    try:
        answer = serving.client.embeddings.create(model="chat", input=["a cat", "a dog"])
        assert [row.index for row in answer.data] == [0, 1]
        assert len(answer.data[0].embedding) == 576
        assert answer.model == "chat"
        with pytest.raises(openai.NotFoundError, match="makes embeddings"):
            serving.client.chat.completions.create(model="chat", messages=HI)
    finally:
        serving.stop()
        engine.close()


class TestLog:
    @pytest.fixture
    def logged(self, engine: LlamaEngine, caplog: pytest.LogCaptureFixture) -> Iterator[Serving]:
        caplog.set_level("INFO", "gateway.worker.generated_log")
        serving = Serving(engine, access_log="all")
        yield serving
        serving.stop()

    @pytest.mark.parametrize("is_streamed", [False, True])
    def test_each_call_is_logged_with_its_tokens_and_without_its_words(
        self, logged: Serving, caplog: pytest.LogCaptureFixture, is_streamed: bool
    ) -> None:
        body = {"model": "chat", "messages": HI, "max_tokens": 3, "stream": is_streamed}
        logged.ask("POST", "/v1/chat/completions", body, x_request_id="r-7")
        wait(lambda: len(caplog.records) == 1)
        fields = vars(caplog.records[0])
        assert (fields["request_id"], fields["model"], fields["digest"]) == ("r-7", "chat", DIGEST)
        assert (fields["status"], fields["output_tokens"], fields["finish_reasons"]) == (200, 3, ["length"])
        assert fields["input_tokens"] > 3
        assert 0 < fields["first_token_seconds"] <= fields["seconds"]
        assert "Say hi" not in str(fields)

    def test_a_call_whose_caller_hung_up_is_logged(
        self, logged: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = logged.send({"model": "chat", "messages": STORY, "stream": True})
        connection.recv(1000)
        connection.close()
        wait(lambda: len(caplog.records) == 1)
        fields = vars(caplog.records[0])
        assert (fields["status"], fields["finish_reasons"]) == (0, [])
