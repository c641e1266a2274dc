"""`/openapi.json` and `/docs`, from a real server: for programs and for people."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis

from gateway.codec.statuses import STATUSES
from gateway.contract import AppName, Description
from gateway.control.front import docs as docs_module
from gateway.control.front import openapi
from gateway.control.front.docs import Docs
from gateway.control.front.operations import FAULTS
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.wire.server import tcp_socket
from runtimes.base import Signature, TensorSpec
from tests.support.overview import FixedOverview

DIGESTS = {"v1": "sha256:" + "1" * 64, "v2": "sha256:" + "2" * 64}
IRIS = Signature((TensorSpec("input", "FP32", (-1, 4)),), (TensorSpec("scores", "FP32", (-1, 3)),))
OTHER = Signature((TensorSpec("pixels", "UINT8", (-1, 64, 64, 3)),), ())
LISTEN = "127.0.0.1:8080"


def version(model: str, tag: str, role: str = "stable", weight: int = 100) -> VersionStatus:
    app = AppName(f"{model}.{tag}")
    return VersionStatus(tag, DIGESTS[tag], "", app, role, weight, ModelState.READY, 1, "onnx")


@dataclass
class Api(FixedOverview):
    address: str = ""

    def get(self, path: str, host: str = "kit.test:8080") -> requests.Response:
        headers = {"X-Forwarded-Host": host}
        return requests.get(f"http://{self.address}{path}", headers=headers, timeout=5)

    def document(self) -> dict[str, Any]:
        answer = self.get("/openapi.json")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        schemathesis.openapi.from_dict(answer.json()).validate()
        document: dict[str, Any] = answer.json()
        return document


@pytest.fixture
def api() -> Iterator[Api]:
    versions = (version("iris", "v2", "canary", 20), version("iris", "v1", "stable", 80))
    loading = version("iris", "v1", "")
    api = Api(
        status=Status(
            1,
            (
                ModelStatus("iris", ModelState.READY, "", (*versions, loading)),
                ModelStatus("camera", ModelState.READY, "", (version("camera", "v1"),)),
                ModelStatus("lilac", ModelState.PULLING, "12 MB of 90 MB", ()),
            ),
        ),
        descriptions={
            "iris.v1": Description(
                "onnxruntime_onnx", IRIS, "Sorts <i>flowers</i>.", "MIT", {"": ("setosa", "<b>")}
            ),
            "iris.v2": Description("onnxruntime_onnx", IRIS, "Sorts them better.", "MIT"),
            "camera.v1": Description("onnxruntime_onnx", OTHER),
        },
    )
    docs = Docs(api, lambda: LISTEN)
    server = WebServer(web_app(docs.routes()), tcp_socket("127.0.0.1", 0))
    server.start()
    api.address = f"127.0.0.1:{server.address[1]}"
    yield api
    server.stop()


def test_each_version_has_paths_of_its_own(api: Api) -> None:
    paths = api.document()["paths"]
    own = [
        path
        for path in paths
        if path.startswith(("/v2/models/iris", "/v2/models/camera", "/v2/models/lilac"))
    ]
    assert own == [
        "/v2/models/iris",
        "/v2/models/iris/infer",
        "/v2/models/iris/predict",
        "/v2/models/iris/versions/v1",
        "/v2/models/iris/versions/v1/infer",
        "/v2/models/iris/versions/v1/predict",
        "/v2/models/iris/versions/v2",
        "/v2/models/iris/versions/v2/infer",
        "/v2/models/iris/versions/v2/predict",
        "/v2/models/camera",
        "/v2/models/camera/infer",
        "/v2/models/camera/predict",
        "/v2/models/camera/versions/v1",
        "/v2/models/camera/versions/v1/infer",
        "/v2/models/camera/versions/v1/predict",
    ]


def test_each_call_has_an_example_that_its_schema_takes(api: Api) -> None:
    document = api.document()
    call = document["paths"]["/v2/models/iris/versions/v2/infer"]["post"]
    content = call["requestBody"]["content"]["application/json"]
    root = {"components": document["components"], **content["schema"]}
    jsonschema_rs.Draft202012Validator(root).validate(content["example"])
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}
    assert content["example"] == {"inputs": [tensor]}
    answer = call["responses"]["200"]["content"]["application/json"]
    assert (answer["example"]["model_name"], answer["example"]["model_version"]) == ("iris", "v2")
    assert answer["example"]["outputs"][0]["shape"] == [1, 3]
    (sample,) = call["x-codeSamples"]
    assert sample["source"].startswith("curl http://kit.test:8080/v2/models/iris/versions/v2/infer ")


def test_a_large_call_is_shown_as_raw_bytes(api: Api) -> None:
    call = api.document()["paths"]["/v2/models/camera/infer"]["post"]
    assert "example" not in call["requestBody"]["content"]["application/json"]
    assert "head -c 12288 /dev/zero" in call["x-codeSamples"][0]["source"]


def test_shapes_that_no_file_records_are_said_to_stand_for_others(api: Api) -> None:
    api.descriptions["camera.v1"] = Description("p", Signature((TensorSpec("x", "FP32"),), ()))
    call = api.document()["paths"]["/v2/models/camera/infer"]["post"]
    assert "does not record which shapes" in call["description"]
    assert "does not record which shapes" in api.get("/v2/models/camera/docs").text


def test_every_status_that_a_worker_gives_is_described(api: Api) -> None:
    call = api.document()["paths"]["/v2/models/{model}/infer"]["post"]
    assert {str(status) for status in STATUSES.values()} <= call["responses"].keys()
    assert set(STATUSES.values()) <= FAULTS.keys()


def test_nothing_served_is_a_document_too(api: Api) -> None:
    api.status = Status()
    assert "/v2/models/{model}/infer" in api.document()["paths"]
    assert "No model is in the config yet." in api.get("/docs").text


class Page(HTMLParser):
    """Collects what a page would load or run, and whether its elements are closed as they were opened."""

    VOID = frozenset({"meta", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("link", "img", "iframe", "i", "b"):
            self.loaded.append(tag)
        self.loaded += [
            value or "" for name, value in attrs if name in ("src", "style") or name.startswith("on")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_models_and_takes_nothing_from_elsewhere(api: Api) -> None:
    answer = api.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith(
        "default-src 'none'; style-src 'unsafe-inline';"
    )
    assert Page(answer.text).loaded == []
    for text in [
        "Sorts &lt;i&gt;flowers&lt;/i&gt;.",
        "setosa, &lt;b&gt;",
        "pulling",
        "curl http://kit.test:8080/v2/models/iris/infer",
        'tritonclient.grpc.InferenceServerClient("kit.test:8080")',
        "<td>20 %</td>",
    ]:
        assert text in answer.text, text
    assert "12 MB of 90 MB" not in answer.text, "what is known of a kit's way is told on the admin port alone"


def test_the_page_runs_its_own_script_alone(api: Api) -> None:
    for path in ("/docs", "/v2/models/camera/docs"):
        answer = api.get(path)
        (script,) = Page(answer.text).scripts
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
        assert policy["script-src"] == f"'sha256-{digest}'"
        assert policy["connect-src"] == "'self'"
        assert policy["form-action"] == policy["default-src"] == "'none'"
        assert "innerHTML" not in script
        assert "<" not in script.replace("<=", ""), "it would be read as HTML by some readers"


def test_each_model_has_a_form_with_an_example(api: Api) -> None:
    flowers = Signature((TensorSpec("petal", "FP32", (-1, 1)), TensorSpec("<b>", "BYTES", (-1,))), ())
    infer = {"inputs": [{"name": "petal", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 2.5]}]}
    api.descriptions["iris.v1"] = Description("p", flowers)
    page = api.get("/v2/models/iris/docs").text
    assert page.index("/v2/models/iris/predict") < page.index("/v2/models/iris/infer")
    assert 'data-path="/v2/models/iris/predict"' in page
    assert '<label for="body-iris">' in page
    assert "&#34;petal&#34;: 0.1," in page
    assert "&#34;&lt;b&gt;&#34;: &#34;text&#34;" in page
    assert 'type="file"' not in page
    own = Signature(flowers.inputs[:1], ())
    api.descriptions["iris.v1"] = Description("p", own, example=json.dumps(infer))
    content = api.document()["paths"]["/v2/models/iris/predict"]["post"]["requestBody"]["content"]
    assert content["application/json"]["example"] == {"rows": [{"petal": 1.5}, {"petal": 2.5}]}
    assert "text/csv" in content
    page = api.get("/v2/models/camera/docs").text
    assert "<form" not in page, "its values are too many to write, and nothing says that it takes images"
    api.descriptions["camera.v1"] = Description("p", OTHER, takes_images=True)
    page = api.get("/v2/models/camera/docs").text
    assert '<input id="file-camera" name="file" type="file" accept="image/png,image/jpeg">' in page
    assert "--data-binary @image.png" in page


def test_a_model_has_a_page_of_its_own(api: Api) -> None:
    page = api.get("/v2/models/camera/docs").text
    assert "pixels" in page
    assert "setosa" not in page
    assert Page(page).loaded == []
    assert api.get("/v2/models/nothing/docs").status_code == 404


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("kit.test", "kit.test"),
        ("[::1]:80", "[::1]:80"),
        ("x;rm -rf ~", LISTEN),
        ("kit.test'", LISTEN),
        ("$(id)", LISTEN),
        ("a/b", LISTEN),
        ("", LISTEN),
        ("user@kit.test", LISTEN),
    ],
)
def test_commands_name_the_host_that_was_called_if_it_is_one(api: Api, forwarded: str, expected: str) -> None:
    answer = requests.get(
        f"http://{api.address}/openapi.json", headers={"X-Forwarded-Host": forwarded}, timeout=5
    ).json()
    source = answer["paths"]["/v2/models/iris/infer"]["post"]["x-codeSamples"][0]["source"]
    assert f"http://{expected}/v2/models/iris/infer" in source.splitlines()[0]


def test_a_language_model_is_shown_with_a_call_of_the_openai_api(api: Api) -> None:
    nothing = Signature((), ())
    api.status = Status(
        1,
        (
            ModelStatus("chat", ModelState.READY, "", (version("chat", "v1"),)),
            ModelStatus("embed", ModelState.READY, "", (version("embed", "v1"),)),
        ),
    )
    api.descriptions = {
        "chat.v1": Description("gguf", nothing, tasks=("completion", "chat")),
        "embed.v1": Description("transformers", IRIS, tasks=("embedding",)),
    }
    paths = api.document()["paths"]
    assert "/v2/models/chat/infer" not in paths, "it has no tensors"
    assert {"/v2/models/chat", "/v2/models/embed/infer"} <= paths.keys()
    call = paths["/models/chat/v1/chat/completions"]["post"]
    messages = [{"role": "user", "content": "What is a ModelKit?"}]
    example = call["requestBody"]["content"]["application/json"]["example"]
    assert example == {"model": "chat", "messages": messages}
    assert call["x-codeSamples"][0]["source"].startswith("curl http://kit.test:8080/v1/chat/completions ")
    assert "/models/embed/v1/embeddings" in paths
    page = api.get("/v2/models/chat/docs").text
    assert "A call of the OpenAI API" in page
    assert "http://kit.test:8080/v1/chat/completions" in page
    assert "/v2/models/chat/versions/v1/infer" not in page
    page = api.get("/v2/models/embed/docs").text
    assert "http://kit.test:8080/v1/embeddings" in page
    assert "http://kit.test:8080/v2/models/embed/infer" in page


def test_names_that_are_html_stay_text(api: Api) -> None:
    evil = "</textarea></script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    specs = (TensorSpec(evil, "BYTES", (-1, 1)), TensorSpec(f"{evil}2", "FP32", (-1, 1)))
    example = {"inputs": [{"name": evil, "datatype": "BYTES", "shape": [1, 1], "data": [evil]}]}
    labels = {evil: (evil, f"{evil}2")}
    api.descriptions["iris.v1"] = Description(
        evil, Signature(specs, specs[:1]), evil, evil, labels, example=json.dumps(example)
    )
    for path in ("/docs", "/v2/models/iris/docs"):
        page = Page(api.get(path).text)
        assert page.loaded == []
        assert len(page.scripts) == 1
    api.document()


def test_documents_are_written_once_for_each_change(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = openapi.document
    monkeypatch.setattr(docs_module, "document", lambda *given: written.append(given) or real(*given))  # type: ignore[func-returns-value]
    hosts = ["kit.test:8080", "other.test", "[::1]:8080", "[fd00::2]"]
    texts = {host: api.get("/openapi.json", host).text for host in hosts * 5}
    assert len(written) == 2
    for host, text in texts.items():
        assert f"http://{host}/v2/models/iris/infer" in text
        assert not any(f"http://{other}/" in text for other in hosts if other != host)
    assert "curl 'http://[::1]:8080/v2" in texts["[::1]:8080"]
    assert "curl http://other.test/v2" in texts["other.test"]
    written.clear()
    pages = {host: api.get("/docs", host).text for host in hosts * 5}
    assert len(written) == 2
    assert all(f"at http://{host}</small>" in page for host, page in pages.items())
    written.clear()
    about = Description("onnxruntime_onnx", IRIS, "Knows more.", "MIT")
    api.descriptions = {**api.descriptions, "iris.v1": about}
    api.status = replace(api.status, generation=2)
    assert "Knows more." in api.get("/openapi.json").text
    assert "Knows more." in api.get("/docs").text
    assert len(written) == 2
