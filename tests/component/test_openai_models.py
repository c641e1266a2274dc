"""The list of models as clients of the OpenAI API read it: a real server, and openai's own client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import openai
import pytest
import requests

from gateway.contract import AppName, Description
from gateway.control.front.openai_models import OpenAIModels
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.wire.server import tcp_socket
from runtimes.base import Signature
from tests.support.overview import FixedOverview

DIGESTS = {tag: "sha256:" + tag[1] * 64 for tag in ("v1", "v2", "v3")}
CHAT = Description("gguf", Signature((), ()), tasks=("chat", "completion"))
EMBED = replace(CHAT, tasks=("embedding",))
TENSORS = replace(CHAT, tasks=())


def version(
    model: str, tag: str, role: str = "stable", state: ModelState = ModelState.READY
) -> VersionStatus:
    return VersionStatus(tag, DIGESTS[tag], "", AppName(f"{model}.{tag}"), role, 50, state, 1, "gguf")


def status(name: str, *versions: VersionStatus) -> ModelStatus:
    return ModelStatus(name, ModelState.READY, "", versions)


STATUS = Status(
    1,
    (
        status("chat", version("chat", "v2", "canary"), version("chat", "v1"), version("chat", "v3", "")),
        status("embed", version("embed", "v1", state=ModelState.ASLEEP)),
        status("iris", version("iris", "v1")),
        status("new", version("new", "v1", state=ModelState.LOADING)),
        status("unknown", version("unknown", "v1")),
        status("none"),
    ),
)
DESCRIPTIONS = {
    **{f"chat.{tag}": CHAT for tag in DIGESTS},
    "embed.v1": EMBED,
    "iris.v1": TENSORS,
    "new.v1": CHAT,
}


@dataclass
class Front(FixedOverview):
    url: str = ""

    def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        answer = requests.request(method, self.url + path, timeout=5)
        return answer.status_code, answer.json()


@pytest.fixture
def front() -> Iterator[Front]:
    front = Front(STATUS, descriptions=DESCRIPTIONS)
    server = WebServer(web_app(OpenAIModels(front).routes()), tcp_socket("127.0.0.1", 0))
    server.start()
    front.url = f"http://127.0.0.1:{server.address[1]}/v1"
    yield front
    server.stop()


def test_what_can_be_called_is_listed_by_every_name(front: Front) -> None:
    client = openai.OpenAI(base_url=front.url, api_key="-")
    models = list(client.models.list())
    assert [model.id for model in models] == ["chat", "chat:v1", "chat:v2", "embed", "embed:v1"]
    assert {(model.object, model.owned_by) for model in models} == {("model", "kitserve")}
    assert all(model.created > 1_700_000_000 for model in models)
    shown = models[2].to_dict()
    assert (shown["version"], shown["digest"]) == ("v2", DIGESTS["v2"])
    assert shown["tasks"] == ["chat", "completion"]
    assert models[0].to_dict()["version"] == "v1", "the stable one's"


def test_a_model_is_shown_by_each_of_its_names(front: Front) -> None:
    client = openai.OpenAI(base_url=front.url, api_key="-")
    digest = DIGESTS["v2"]
    for name in ("chat:v2", f"chat@{digest}", f"chat@{digest[7:19]}"):
        model = client.models.retrieve(name)
        assert (model.id, model.to_dict()["version"]) == (name, "v2")
    assert client.models.retrieve("chat").to_dict()["version"] == "v1"


@pytest.mark.parametrize("name", ["none", "new", "unknown", "chat:v3", "chat:", "chat@v1:v1", "%20", ":@"])
def test_what_is_not_listed_is_not_found(front: Front, name: str) -> None:
    status, document = front.ask(f"/models/{name}")
    assert status == 404
    assert (document["error"]["code"], document["error"]["param"]) == ("model_not_found", "model")
    client = openai.OpenAI(base_url=front.url, api_key="-")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("absent")


def test_another_model_is_ready_as_kserve_has_it(front: Front) -> None:
    assert front.ask("/models/iris") == (200, {"name": "iris", "ready": True})
    assert front.ask("/models/iris:v1")[0] == 404
    failed = version("iris", "v1", state=ModelState.FAILED)
    front.status = Status(1, (status("iris", failed),))
    assert front.ask("/models/iris") == (503, {"name": "iris", "ready": False})


def test_a_key_for_certain_models_is_told_of_no_others(front: Front) -> None:
    def ask(path: str, models: str) -> tuple[int, Any]:
        answer = requests.get(front.url + path, headers={"Kitserve-Models": models}, timeout=5)
        return answer.status_code, answer.json()

    listed = ask("/models", "embed,iris")[1]["data"]
    assert [model["id"] for model in listed] == ["embed", "embed:v1"]
    for name in ("chat", "chat:v1", "iris"):
        assert ask(f"/models/{name}", "embed")[0] == 404
    assert ask("/models/embed", "embed")[0] == 200
    assert ask("/models", "")[1]["data"] == []


def test_the_list_is_only_read(front: Front) -> None:
    status, document = front.ask("/models", "POST")
    assert status == 405
    assert document["error"]["message"].startswith("POST is not allowed here; use ")
    front.status = Status()
    assert front.ask("/models")[0] == 503


def test_two_versions_of_one_tag_are_one_entry_the_stable_one(front: Front) -> None:
    twin = replace(version("chat", "v2", "canary"), tag="v1")
    front.status = Status(1, (status("chat", twin, version("chat", "v1")),))
    _, document = front.ask("/models")
    assert [(model["id"], model["digest"]) for model in document["data"]] == [
        ("chat", DIGESTS["v1"]),
        ("chat:v1", DIGESTS["v1"]),
    ]
