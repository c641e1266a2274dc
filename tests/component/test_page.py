"""The page of the admin API over HTTP: its files, its events, and what is in them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.contract import AppName
from gateway.control.admin.page import events as events_module
from gateway.control.admin.page import feed as feed_module
from gateway.control.state.status import ModelState, ModelStatus, VersionStatus
from tests.support.gate import HOLDER
from tests.support.page import PageServer, page_server
from tests.support.waiting import wait

FILES = ("page.css", "main.js", "models.js", "rollout.js", "orders.js", "stream.js", "dom.js", "format.js")
HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e\u2028"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[PageServer]:
    with page_server(tmp_path) as served:
        yield served


class Events:
    """The events of a server, read one by one."""

    def __init__(self, served: PageServer, **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        self._connection.request("GET", "/api/events", headers=headers)
        self.answer = self._connection.getresponse()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        # The answer has a file of its own, which keeps the connection open.
        self.answer.close()
        self._connection.close()

    def next(self) -> tuple[str, Any]:
        """Return the name and the data of the next event; that of a comment is "" and None."""
        name, data = "", None
        while line := self.answer.readline():
            if line == b"\n":
                return name, data
            field, _, value = line.rstrip(b"\n").partition(b": ")
            if field == b"event":
                name = value.decode()
            elif field == b"data":
                data = json.loads(value)
        raise EOFError

    def model(self, name: str) -> dict[str, Any]:
        """Return the first status in which there is a model of this name."""
        while True:
            status = self.status()
            if any(model["name"] == name for model in status["models"]):
                return status

    def skip_all(self) -> None:
        """Read until they end."""
        while True:
            self.next()

    def status(self) -> dict[str, Any]:
        """Return the next status."""
        while True:
            name, data = self.next()
            if name == "status":
                assert isinstance(data, dict)
                return data


def test_the_page_is_its_own_alone(served: PageServer) -> None:
    answer = requests.get(served.url, timeout=5)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*src=)|<style| on[a-z]+=| style=|https?://", answer.text)
    for name in (*FILES, "icon.svg"):
        file = requests.get(f"{served.url}/page/{name}", timeout=5)
        assert file.status_code == 200, name
        text = file.text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), (
            name
        )
    assert "Set-Cookie" not in answer.headers
    for name in ("index.html", "page.py", "other.js"):
        assert requests.get(f"{served.url}/page/{name}", timeout=5).status_code == 404


def test_no_old_file_is_shown_after_an_upgrade(served: PageServer) -> None:
    for path in ("/", "/page/main.js"):
        answer = requests.get(served.url + path, timeout=5)
        assert answer.headers["Cache-Control"] == "no-cache"
        same = requests.get(served.url + path, headers={"If-None-Match": answer.headers["ETag"]}, timeout=5)
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["ETag"] == answer.headers["ETag"]
        other = requests.get(served.url + path, headers={"If-None-Match": '"of-before"'}, timeout=5)
        assert other.status_code == 200
    with Events(served) as events:
        name, hello = events.next()
    assert name == "hello"
    assert f'content="{hello["page"]}"' in requests.get(served.url, timeout=5).text


def test_the_events_say_what_there_is_and_then_what_has_changed(served: PageServer) -> None:
    served.describe(license="Apache-2.0", about="Irises", trust="signed by anybody (as its worker says)")
    with Events(served) as events:
        assert events.answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert events.answer.headers["Cache-Control"] == "no-store"
        assert events.next()[0] == "hello"
        (iris,) = events.status()["models"]
        (version,) = iris["versions"]
        assert (version["tag"], version["role"], version["weight"]) == ("v1", "stable", 100)
        assert (version["license"], version["about"], version["signed_by"]) == ("Apache-2.0", "Irises", "")
        assert version["memory_bytes"] > 10**8
        assert iris["orders"]["rollback"] == "no earlier version is known"
        assert iris["orders"]["promote"] == "no rollout is on its way"
        served.answer("v1", 40)
        served.answer("v1", 10, 500)
        (version,) = _until(events, lambda status: status["models"][0]["versions"][0]["calls"]["all"] == 50)
        assert version["calls"] == {"all": 50, "errors": 10, "refused": 0}
        assert (version["recent"]["calls"], version["recent"]["errors"]) == (50, 10)
        assert 0.0025 < version["recent"]["median"] < 0.005
        served.begin_rollout()
        served.answer("v2", 30)
        _until(events, lambda status: bool(status["models"][0]["rollout"]["verdicts"]))
        served.answer("v2", 30)
        iris = events.status()["models"][0]
        assert (iris["rollout"]["phase"], iris["rollout"]["step"], iris["rollout"]["hold"]) == (
            "Paused",
            1,
            0,
        )
        assert [verdict["check"] for verdict in iris["rollout"]["verdicts"]] == ["requests", "error_rate"]
        assert (iris["orders"]["promote"], iris["orders"]["abort"]) == ("", "")
        assert iris["orders"]["retry"] == "the rollout is still on its way: promote or abort it"


def _until(events: Events, holds: Any) -> list[dict[str, Any]]:
    while not holds(status := events.status()):
        """Numbers come in between."""
    versions: list[dict[str, Any]] = status["models"][0]["versions"]
    return versions


def test_what_is_not_for_all_is_for_none(served: PageServer) -> None:
    app = AppName("other.1")
    version = VersionStatus(
        HOSTILE, "sha256:12", "oci-layout:/srv/kits:a:b", app, "", 0, ModelState.FAILED, 0, ""
    )
    message = "cannot read /home/me/my kit/model.onnx: no such file"
    served.others = (ModelStatus("other", ModelState.FAILED, message, (version,)),)
    served.tick()
    for headers in ({}, HOLDER):
        with Events(served, **headers) as events:
            other = events.status()["models"][1]
            assert other["message"] == "cannot read …/model.onnx: no such file"
            assert other["versions"][0]["reference"] == "oci-layout:…/kits:a:b"
            assert other["versions"][0]["tag"] == HOSTILE


def test_pages_of_elsewhere_take_no_place_and_change_nothing(served: PageServer) -> None:
    served.begin_rollout()
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
    ):
        with Events(served, **headers) as events:
            assert events.answer.status == 403, headers
    path = f"{served.url}/api/models/iris/rollout/promote"
    for origin, status in (
        ("http://evil.test", 403),
        ("http://127.0.0.1:3000", 403),
        (f"https://127.0.0.1:{served.port}", 403),
        (f"http://localhost:{served.port}", 403),
        ("null", 403),
        (served.url, 200),
    ):
        answer = requests.post(path, json={}, headers={**HOLDER, "Origin": origin}, timeout=5)
        assert answer.status_code == status, (origin, answer.text)
    assert requests.post(path, json={}, headers={"Origin": served.url}, timeout=5).status_code == 401
    config: dict[str, Any] = {"models": []}
    own = {**HOLDER, "Origin": served.url}
    assert requests.put(f"{served.url}/api/config", json=config, headers=own, timeout=5).status_code == 403


def test_so_many_may_listen_and_no_more_and_their_places_come_back(
    served: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "MAX_LISTENERS", 3)
    with ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(Events(served)).next()[0] == "hello"
        refused = requests.get(f"{served.url}/api/events", timeout=5)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert "are open already" in refused.json()["error"]
    wait(lambda: requests.head(f"{served.url}/api/events", timeout=5).status_code == 200)
    wait(lambda: not _listeners(served))
    with Events(served) as events:
        assert events.status()["models"]


def test_a_document_is_written_once_for_all(served: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bool] = []
    look = served.page._feed._look

    def counting_look(is_watched: bool) -> bytes:
        looks.append(is_watched)
        return look(is_watched)

    monkeypatch.setattr(served.page._feed, "_look", counting_look)
    with ExitStack() as stack:
        streams = [stack.enter_context(Events(served)) for _ in range(8)]
        for events in streams:
            events.status()
        looks.clear()
        served.others = (ModelStatus("wine", ModelState.READY, "", ()),)
        served.tick()
        later = [events.model("wine") for events in streams]
        assert len({json.dumps(status) for status in later}) == 1
        assert len(looks) < 8


def test_who_does_not_read_is_dropped(served: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "SEND_SECONDS", 0.5)
    app = AppName("other.1")

    def fill(number: int) -> None:
        version = VersionStatus(
            "v1", "sha256:12", "kit", app, "", 0, ModelState.READY, 0, "onnx", f"{number}" * 10**6
        )
        served.others = (ModelStatus("other", ModelState.READY, "", (version,)),)
        served.tick()

    fill(0)
    with socket.create_connection(("127.0.0.1", served.port)) as slow, Events(served) as reader:
        slow.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait(lambda: _listeners(served) == 2)
        for number in range(1, 100):
            fill(number % 10)
            reader.status()
            if _listeners(served) == 1:
                break
        assert _listeners(served) == 1
        # Its connection is at its end, and not kept for what it may take one day.
        slow.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            _receive_all(slow)
        fill(0)
        assert reader.status()["models"]


def _receive_all(connection: socket.socket) -> None:
    while connection.recv(1 << 20):
        """What had arrived before."""


def _listeners(served: PageServer) -> int:
    return served.page._feed.listeners


def test_where_nothing_changes_nothing_but_a_beat_is_sent(
    served: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "BEAT_SECONDS", 0.2)
    with Events(served) as events:
        assert events.next()[0] == "hello"
        events.status()
        time.sleep(0.5)
        served.tick()
        names = [events.next()[0] for _ in range(8)]
        assert names.count("status") <= 1
        assert names[-4:] == [""] * 4


def test_the_events_end_with_the_server(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with page_server(tmp_path) as served:
            events = stack.enter_context(Events(served))
            assert events.status()["models"]
            started = time.monotonic()
        assert time.monotonic() - started < 3
        with pytest.raises(EOFError):
            events.skip_all()


def test_a_document_that_cannot_be_written_ends_the_events_but_not_the_page(
    served: PageServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Events(served) as events:
        assert events.status()["models"]
        with monkeypatch.context() as broken:
            broken.setattr(served.overview, "numbers", lambda: 1 / 0)
            with pytest.raises(EOFError):
                events.skip_all()
    assert "page.failed" in caplog.text
    with Events(served) as events:
        assert events.status()["models"]
