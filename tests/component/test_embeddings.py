"""The OpenAI API on a model of texts: the official client, and raw calls, on a worker's own server."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from gateway.contract import Mirroring
from gateway.metrics.tally import Tally
from gateway.rollout.plan import Agreement
from gateway.serving import Batching, QueueLimits
from gateway.wire.headers import PLACED_HEADER
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Array, LoadedModel, Resources
from runtimes.encoders.model import TransformersTextModel
from runtimes.select import choose
from tests.support.hugging_face import TEXTS, texts, write_bert, write_modules
from tests.support.waiting import wait

DIGEST = "sha256:" + "ab" * 32
PROMPTS = {"prompts": {"query": "the city of "}}


class Serving:
    """A worker's server around a model of texts."""

    def __init__(self, model: LoadedModel, **options: Any) -> None:
        assert isinstance(model, TransformersTextModel)
        self.model = model
        self.tally = Tally()
        self.app = build_app(Identity("minds", "v1", DIGEST), model, self.tally, AppOptions(**options))
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()
        address = f"http://{self.server.host}:{self.server.port}"
        self.client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=30)

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=30)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, names)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        return answer.status, json.loads(content), dict(answer.headers)

    def stop(self) -> None:
        self.app.mirror(None)
        self.server.stop()
        self.app.stop()


def load(directory: Path) -> LoadedModel:
    choice = choose(directory)
    return choice.runtime.load(choice.path, Resources())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("embedding")
    write_bert(directory, matryoshka_dimensions=[4, 8])
    write_modules(directory, is_normalized=True)
    (directory / "config_sentence_transformers.json").write_text(json.dumps(PROMPTS))
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> LoadedModel:
    return load(directory)


@pytest.fixture(scope="module")
def serving(model: LoadedModel) -> Iterator[Serving]:
    serving = Serving(model)
    yield serving
    serving.stop()


@pytest.fixture(scope="module")
def expected(serving: Serving) -> Array:
    return serving.model.infer({"text": texts(*TEXTS)})["embedding"]


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("reranker")
    write_bert(directory, "BertForSequenceClassification", num_labels=1)
    serving = Serving(load(directory))
    yield serving
    serving.stop()


def vectors(answer: Any) -> Array:
    assert [entry.index for entry in answer.data] == list(range(len(answer.data)))
    return np.array([entry.embedding for entry in answer.data], np.float32)


def test_the_client_gets_embeddings(serving: Serving, expected: Array) -> None:
    before = serving.tally.numbers().tokens.input
    answer = serving.client.embeddings.create(model="minds:v1", input=list(TEXTS))
    np.testing.assert_allclose(vectors(answer), expected, atol=1e-5)
    tokens = sum(len(text.split()) + 2 for text in TEXTS)
    assert (answer.model, answer.object, answer.data[0].object) == ("minds", "list", "embedding")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert serving.tally.numbers().tokens.input == before + tokens
    single = serving.client.embeddings.create(model="minds", input=TEXTS[1], user="somebody")
    np.testing.assert_allclose(vectors(single), expected[1:2], atol=1e-5)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_forms(serving: Serving, expected: Array, form: Any) -> None:
    body = {"model": "minds", "input": list(TEXTS), "encoding_format": form}
    status, answer, _ = serving.ask("/v1/embeddings", body)
    assert status == 200
    for entry, row in zip(answer["data"], expected, strict=True):
        value = entry["embedding"]
        if form == "base64":
            value = np.frombuffer(base64.b64decode(value), "<f4")
        np.testing.assert_allclose(value, row, atol=1e-5)
    answer = serving.client.embeddings.create(model="minds", input=TEXTS[0], encoding_format=form)
    assert isinstance(answer.data[0].embedding, str if form == "base64" else list)


def test_tokens_are_those_of_the_model(serving: Serving, expected: Array) -> None:
    words = [2, 5, 7, 3]  # [CLS] a dog [SEP]
    one = serving.client.embeddings.create(model="minds", input=words)
    two = serving.client.embeddings.create(model="minds", input=[words, words[1:3]])
    np.testing.assert_allclose(vectors(one), expected[1:2], atol=1e-5)
    np.testing.assert_allclose(vectors(two), expected[[1, 1]], atol=1e-5)


def test_the_open_inference_protocol_gives_the_same(serving: Serving, expected: Array) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": list(TEXTS)}
    status, answer, _ = serving.ask("/v2/models/minds/infer", {"inputs": [tensor]})
    assert status == 200
    outputs = {output["name"]: output for output in answer["outputs"]}
    np.testing.assert_allclose(
        np.reshape(outputs["embedding"]["data"], outputs["embedding"]["shape"]), expected, atol=1e-5
    )
    assert outputs["tokens"]["data"] == [len(text.split()) + 2 for text in TEXTS]


def test_answers_say_which_version_gave_them(serving: Serving) -> None:
    raw = serving.client.embeddings.with_raw_response.create(
        model="minds", input="a cat", extra_headers={"ModelKit-Role": "canary"}
    )
    assert (raw.headers["modelkit-digest"], raw.headers["modelkit-role"]) == (DIGEST, "canary")
    cards = serving.client.models.list().data
    assert [card.id for card in cards] == ["minds"]
    assert serving.client.models.retrieve("minds").model_dump()["tasks"] == ["embedding"]


def test_shorter_embeddings_have_length_1(serving: Serving, expected: Array) -> None:
    answer = serving.client.embeddings.create(model="minds", input=list(TEXTS), dimensions=8)
    shorter = expected[:, :8] / np.linalg.norm(expected[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(answer), shorter, atol=1e-5)
    whole = serving.client.embeddings.create(model="minds", input=list(TEXTS), dimensions=16)
    np.testing.assert_allclose(vectors(whole), expected, atol=1e-5)


def test_prompts(serving: Serving) -> None:
    prompted = serving.client.embeddings.create(
        model="minds", input=["paris"], extra_body={"prompt_name": "query"}
    )
    plain = serving.client.embeddings.create(model="minds", input=["the city of paris", "paris"])
    np.testing.assert_allclose(vectors(prompted)[0], vectors(plain)[0], atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="unknown prompt 'passage'; the model has 'query'"):
        serving.client.embeddings.create(model="minds", input="a", extra_body={"prompt_name": "passage"})


@pytest.mark.parametrize(
    ("members", "param", "message"),
    [
        ({"input": None}, "input", "the member 'input' is missing"),
        ({"input": ""}, "input", "input is empty"),
        ({"input": []}, "input", "input has 0 entries; it must have 1 to 2,048"),
        ({"input": ["a"] * 2049}, "input", "input has 2,049 entries"),
        ({"input": ["a", ""]}, "input", "input[1] is empty"),
        ({"input": ["a", 7]}, "input", "input[1] must be a string"),
        ({"input": {"text": "a"}}, "input", "input must be a string, tokens, or a list of these"),
        ({"input": [1, "a"]}, "input", "input must be a string, or tokens, which are whole numbers"),
        ({"input": [[4, 99]]}, "input", "input[0]: token 99 is none of the model's, which are 0 to 21"),
        ({"input": [[4, True]]}, "input", "input[0] must be a string, or tokens"),
        ({"encoding_format": "int8"}, "encoding_format", "encoding_format must be float or base64"),
        ({"dimensions": 5}, "dimensions", "the model's embeddings have 16 dimensions, and it does not say"),
        ({"dimensions": 0}, "dimensions", "dimensions must be a whole number above 0"),
        ({"dimensions": "8"}, "dimensions", "dimensions must be a whole number above 0"),
        ({"prompt_name": 7}, "prompt_name", "prompt_name must be a string"),
        ({"truncate": "END"}, "truncate", "unknown member 'truncate'; there are model, input"),
    ],
)
def test_a_call_that_is_wrong_names_its_member(
    serving: Serving, members: dict[str, Any], param: str, message: str
) -> None:
    status, answer, headers = serving.ask("/v1/embeddings", {"model": "minds", "input": "a", **members})
    assert (status, answer["error"]["type"], answer["error"]["param"]) == (
        400,
        "invalid_request_error",
        param,
    )
    assert answer["error"]["message"].startswith(message)
    assert headers["modelkit-digest"] == DIGEST


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object(serving: Serving, body: bytes) -> None:
    status, answer, _ = serving.ask("/v1/embeddings", body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_other_paths_say_what_the_model_does(serving: Serving, ranking: Serving) -> None:
    with pytest.raises(openai.NotFoundError, match=r"not served by this model: it makes embeddings"):
        serving.client.chat.completions.create(model="minds", messages=[])
    with pytest.raises(openai.NotFoundError, match=r"it ranks documents \(/v1/rerank\)"):
        ranking.client.embeddings.create(model="minds", input="a")
    status, answer, _ = serving.ask("/v1/nothing")
    assert (status, answer["error"]["type"]) == (404, "not_found_error")
    status, answer, headers = serving.ask("/v1/embeddings")
    assert (status, headers["allow"]) == (405, "POST")
    assert answer["error"]["type"] == "invalid_request_error"


def test_bodies_may_be_compressed(serving: Serving, expected: Array) -> None:
    body = gzip.compress(json.dumps({"input": list(TEXTS) * 20}).encode())
    status, answer, headers = serving.ask(
        "/v1/embeddings", body, Content_Encoding="gzip", Accept_Encoding="gzip"
    )
    assert (status, headers["content-encoding"]) == (200, "gzip")
    np.testing.assert_allclose([entry["embedding"] for entry in answer["data"][-5:]], expected, atol=1e-5)


def test_errors_beside_the_model_have_the_form_too(serving: Serving) -> None:
    body = {"input": "a"}
    status, answer, _ = serving.ask("/v1/embeddings", body, X_Request_Timeout="soon")
    assert status == 400
    assert "X-Request-Timeout must be seconds" in answer["error"]["message"]
    status, answer, _ = serving.ask("/v1/embeddings", body, Content_Encoding="snappy")
    assert (status, answer["error"]["type"]) == (415, "invalid_request_error")
    status, answer, _ = serving.ask("/v1/embeddings", body, X_Request_Timeout="1us")
    assert (status, answer["error"]["type"]) == (504, "timeout")


def test_a_full_queue_is_told_in_the_form(directory: Path) -> None:
    gate, model = threading.Event(), load(directory)
    assert isinstance(model, TransformersTextModel)
    infer = model.infer

    def infer_later(*arguments: Any) -> dict[str, Array]:
        gate.wait(30)
        return infer(*arguments)

    model.infer = infer_later  # type: ignore[method-assign, assignment]
    serving = Serving(model, limits=QueueLimits(max_requests=1))
    try:
        threads = [
            threading.Thread(target=serving.ask, args=("/v1/embeddings", {"input": "a"})) for _ in range(2)
        ]
        threads[0].start()
        wait(lambda: serving.tally.ongoing == 1 and serving.app.queued == 0)
        threads[1].start()
        wait(lambda: serving.app.queued == 1)
        status, answer, headers = serving.ask("/v1/embeddings", {"input": "a"})
        assert (status, answer["error"]["type"]) == (503, "service_unavailable")
        assert headers["retry-after"]
    finally:
        gate.set()
        for thread in threads:
            thread.join(30)
        serving.stop()


def test_calls_of_models_of_texts_are_batched_unless_the_config_says_otherwise(
    serving: Serving, model: LoadedModel
) -> None:
    _, config, _ = serving.ask("/v2/models/minds/config")
    assert config["max_batch_size"] == 32
    alone = Serving(model, batching=Batching(max_batch_size=1))
    _, config, _ = alone.ask("/v2/models/minds/config")
    alone.stop()
    assert config["max_batch_size"] == 1


def test_calls_at_once_get_their_own_rows(serving: Serving, expected: Array) -> None:
    answers: dict[int, Array] = {}

    def call(number: int) -> None:
        rows = [number % 5, (number + 1) % 5]
        answer = serving.client.embeddings.create(model="minds", input=[TEXTS[row] for row in rows])
        answers[number] = np.abs(vectors(answer) - expected[rows])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16
    assert max(difference.max() for difference in answers.values()) < 1e-5


def test_calls_are_mirrored(serving: Serving, directory: Path) -> None:
    canary = Serving(load(directory))
    address = (canary.server.host, canary.server.port)
    serving.app.mirror(Mirroring(1.0, (address,), Agreement()))
    try:
        placed = {PLACED_HEADER: "1"}
        serving.client.embeddings.create(model="minds", input=list(TEXTS), extra_headers=placed)
        body = {"input": "a cat", "prompt_name": "query"}
        serving.ask("/v1/embeddings", body, Accept_Encoding="gzip", **placed)
        wait(lambda: canary.tally.numbers().mirrored.compared == 2)
        assert canary.tally.numbers().mirrored.agreeing == pytest.approx(2)
    finally:
        serving.app.mirror(None)
        canary.stop()


def test_rerank(ranking: Serving) -> None:
    documents = [TEXTS[0], {"text": TEXTS[1]}, TEXTS[3]]
    inputs = {"query": texts(*["a cat"] * 3), "text": texts(TEXTS[0], TEXTS[1], TEXTS[3])}
    outputs = ranking.model.infer(inputs)
    order = np.argsort(-outputs["score"]).tolist()
    body = {"model": "minds", "query": "a cat", "documents": documents}
    status, answer, headers = ranking.ask("/v1/rerank", body)
    assert (status, headers["modelkit-digest"]) == (200, DIGEST)
    assert [result["index"] for result in answer["results"]] == order
    for result in answer["results"]:
        assert result.keys() == {"index", "relevance_score"}
        assert result["relevance_score"] == pytest.approx(outputs["score"][result["index"]], abs=1e-5)
    total = int(outputs["tokens"].sum())
    assert (answer["model"], answer["usage"]) == ("minds", {"prompt_tokens": total, "total_tokens": total})
    status, answer, _ = ranking.ask("/v1/rerank", {**body, "top_n": 1, "return_documents": True})
    best = [TEXTS[0], TEXTS[1], TEXTS[3]][order[0]]
    assert [result["document"] for result in answer["results"]] == [{"text": best}]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": [{"title": "a"}]}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
        ({"rank_fields": ["a"]}, "rank_fields"),
    ],
)
def test_a_wrong_call_of_rerank_names_its_member(ranking: Serving, members: Any, param: str) -> None:
    status, answer, _ = ranking.ask("/v1/rerank", {"query": "a", "documents": ["b"], **members})
    assert (status, answer["error"]["param"]) == (400, param)
