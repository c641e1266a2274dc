"""A traced call from the edge to the model, as a collector gets it."""

from __future__ import annotations

import time
from pathlib import Path

import requests

from tests.support.kitserve import Running
from tests.support.otlp import SERVER, Collector
from tests.support.waiting import wait

WARM_UP = "1af7651916cd43dd8448eb211c80319c"
CLOCK_NANOSECONDS = 1_000_000
"""By so much HAProxy's clock and a worker's may differ."""
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
EDGE, WORKER = "POST /v2/models/{model}/infer", "infer traced"
"""The names of their spans."""
FLOWER = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]}


def _call(kitserve: Running, trace: str) -> bool:
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    return requests.post(
        f"{kitserve.url}/v2/models/traced/infer", json=FLOWER, headers=headers, timeout=10
    ).ok


def test_a_collector_gets_the_spans_of_edge_and_worker(
    kitserve: Running, layout: Path, collector: Collector
) -> None:
    kitserve.models = {"traced": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
    kitserve.apply()
    assert kitserve.infer("traced").status_code == 200
    # What edge or worker tell before the gateway listens to them is dropped, and counted.
    wait(lambda: _call(kitserve, WARM_UP) and collector.names(WARM_UP) >= {EDGE, WORKER}, 30)
    # Only so many calls of one caller are traced in a second.
    time.sleep(2)
    for trace, path in ((TRACE, "traced/infer"), (TRACE.replace("0", "1"), "nothing/infer")):
        answer = requests.post(
            f"{kitserve.url}/v2/models/{path}",
            json=FLOWER,
            headers={"traceparent": f"00-{trace}-{PARENT}-01"},
            timeout=10,
        )
        assert answer.headers["traceresponse"].split("-")[1] == trace
    spans = collector.trace(TRACE, 5)
    edge, worker = spans[EDGE], spans[WORKER]
    assert (edge.kind, edge.parent_id) == (SERVER, PARENT)
    assert worker.parent_id == spans["edge wait"].parent_id == edge.span_id
    assert spans["queue"].parent_id == spans["compute"].parent_id == worker.span_id
    for names in (edge.attributes, worker.resource):
        assert names["kitserve.model"] == "traced"
        assert names["kitserve.version"] == "v1"
        assert str(names["kitserve.digest"]).startswith("sha256:")
    assert {span.attributes["kitserve.role"] for span in spans.values()} == {"stable"}
    assert edge.start - CLOCK_NANOSECONDS <= worker.start <= spans["compute"].start
    assert edge.resource["service.name"] == "kitserve"
    (refused,) = collector.trace(TRACE.replace("0", "1"), 1).values()
    assert refused.attributes["error.type"] == "404"
    assert 'kitserve_trace_spans_total{outcome="sent"}' in kitserve.metrics()
