"""Calls of KServe's, TensorFlow Serving's, MLflow's and SageMaker's clients at a real edge."""

from __future__ import annotations

import http.client
import json
from collections import Counter

import pytest

from gateway.edge.openai import TWO_MODELS
from gateway.edge.predict import NO_MODEL
from gateway.edge.routes import Backend, Route, RoutingTable
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.waiting import wait

KSERVE = "/v1/models/iris:predict"
INVOCATIONS = "/invocations"
OWN = "/v2/models/iris/predict"


def other(name: str, workers: Workers) -> Route:
    server = workers.start(name)
    return Route(name, Backend(f"{name}.v1", ("v1",), (server,)))


def called(
    edge: RunningEdge, path: str, headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, str]:
    """Return the status, and the version that answered or else the error."""
    status, answer, body = edge.get(path, headers, method)
    return status, answer["ModelKit-Version"] if status == 200 else json.loads(body)["error"]


def test_paths_name_models_and_versions(edge: RunningEdge, workers: Workers) -> None:
    stable, canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    edge.control.apply(RoutingTable((Route("iris", stable, canary, 0), other("wine", workers))))
    for path, version in [
        (OWN, "v1"),
        ("/v2/models/iris/versions/v2/predict", "v2"),
        (KSERVE, "v1"),
        ("/v1/models/iris/versions/v2:predict", "v2"),
        ("/v1/models/iris/versions/sha256:v2:predict", "v2"),
        ("/v1/models/iris/versions/sha256%3Av2:predict", "v2"),
        ("/models/iris/invocations", "v1"),
        ("/models/iris/versions/v2/invocations", "v2"),
        ("/models/iris:v2/invocations", "v2"),
        ("/v1/models/wine:predict", "wine"),
        ("/models/wine/invocations", "wine"),
    ]:
        assert called(edge, path) == (200, version), path
    assert called(edge, KSERVE, {"ModelKit-Version": "v2"}) == (200, "v2")
    assert called(edge, INVOCATIONS, {"ModelKit-Model": "iris"}) == (200, "v1")
    assert called(edge, INVOCATIONS, {"ModelKit-Model": "iris:v2"}) == (200, "v2")
    assert called(edge, INVOCATIONS, {"X-Gateway-Model-Name": "iris", "ModelKit-Version": "v2"}) == (
        200,
        "v2",
    )
    assert called(edge, "/models/wine/invocations", {"ModelKit-Model": "iris"}) == (200, "v1")
    for path, headers, error in [
        ("/v1/models/none:predict", {}, "Request for unknown model: no model is named none"),
        ("/v1/models/iris/versions/v3:predict", {}, "model iris has no version v3 that is served"),
        ("/models/none/invocations", {}, "Request for unknown model: no model is named none"),
        ("/models/iris/versions/v3/invocations", {}, "model iris has no version v3 that is served"),
        (INVOCATIONS, {"ModelKit-Model": 'no"ne'}, 'Request for unknown model: no model is named no"ne'),
    ]:
        assert called(edge, path, headers) == (404, error), path


def test_a_call_without_a_name_is_for_the_only_model(edge: RunningEdge, workers: Workers) -> None:
    route, wine = Route("iris", backend("v1", workers.start("v1"))), other("wine", workers)
    edge.control.apply(RoutingTable())
    assert called(edge, INVOCATIONS) == (400, NO_MODEL)
    for routes, expected in [
        ((route,), (200, "v1")),
        ((route, wine), (400, NO_MODEL)),
        ((wine,), (200, "wine")),
        ((), (400, NO_MODEL)),
        ((Route("iris"),), (503, "model iris is not ready yet: loading")),
        ((route,), (200, "v1")),
    ]:
        edge.control.apply(RoutingTable(routes))
        assert called(edge, INVOCATIONS) == expected
        assert called(edge, "/ping", method="GET") == expected
    assert edge.lost == []


@pytest.mark.parametrize(
    ("path", "method", "allowed"), [(INVOCATIONS, "GET", "POST"), ("/ping", "POST", "GET, HEAD")]
)
def test_a_wrong_method_is_told_without_a_model_too(
    edge: RunningEdge, path: str, method: str, allowed: str
) -> None:
    edge.control.apply(RoutingTable())
    status, headers, _ = edge.get(path, method=method)
    assert (status, headers["Allow"]) == (405, allowed)


def test_two_names_are_refused(edge: RunningEdge, workers: Workers) -> None:
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=10)
    connection.putrequest("POST", INVOCATIONS)
    for header in ("ModelKit-Model: iris", "ModelKit-Model: wine", "Content-Length: 0"):
        connection.putheader(*header.split(": "))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (400, {"error": TWO_MODELS})
    connection.close()


@pytest.mark.parametrize("path", ["/ping", "/models/iris/ping"])
def test_a_ping_asks_whether_the_model_is_ready(edge: RunningEdge, workers: Workers, path: str) -> None:
    edge.control.apply(RoutingTable((Route("iris"),)))
    status, headers, body = edge.get(path)
    assert (status, headers["Retry-After"], json.loads(body)) == (
        503,
        "1",
        {"error": "model iris is not ready yet: loading", "code": "model_not_ready"},
    )
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))
    for method in ("GET", "HEAD"):
        assert edge.get(path, method=method)[0] == 200
    assert called(edge, "/models/none/ping", method="GET")[0] == 404


@pytest.mark.parametrize("path", [OWN, KSERVE, INVOCATIONS])
def test_weights_and_stickiness_hold_for_these_calls(edge: RunningEdge, workers: Workers, path: str) -> None:
    stable, canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    edge.control.apply(RoutingTable((Route("iris", stable, canary, 50),)))
    seen = Counter(called(edge, path) for _ in range(60))
    assert set(seen) == {(200, "v1"), (200, "v2")}
    assert min(seen.values()) > 10
    assert edge.get(path, {"ModelKit-Role": "forged"}, "POST")[2] in (b"stable", b"canary")


@pytest.mark.parametrize("path", [KSERVE, INVOCATIONS])
def test_a_killed_worker_costs_no_call(edge: RunningEdge, workers: Workers, path: str) -> None:
    first, second = workers.start("v1"), workers.start("v1")
    edge.control.apply(RoutingTable((Route("iris", backend("v1", first, second)),)))
    wait(lambda: called(edge, path)[0] == 200)
    workers.kill(first)
    for _ in range(20):
        assert called(edge, path) == (200, "v1")


def test_openais_documents_stay_where_they_are(edge: RunningEdge, workers: Workers) -> None:
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))
    for path in ("/v1/models/iris", "/v1/models/iris:explain", "/v1/models/iris:predict/x"):
        status, _, body = edge.get(path, method="POST")
        assert status >= 400
        assert json.loads(body)["error"].keys() >= {"message", "type"}, path
