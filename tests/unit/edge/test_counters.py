"""What HAProxy counts, added up by version: over reloads, restarts and changes of what backends serve."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gateway.edge.counters import EdgeCounters
from gateway.edge.stats import PlaceCounts, Processes, read_processes, read_stats, read_unavailable
from gateway.metrics.edge_numbers import EdgeNumbers

COLUMNS = (
    "pxname,svname,qcur,scur,econ,eresp,wretr,wredis,"
    "hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,cli_abrt,srv_abrt,last_chk"
)
STAT = f"""# {COLUMNS},
data,FRONTEND,,7,,,,,0,12,0,3,5,,,,
answers,BACKEND,0,0,0,0,0,0,0,1,0,2,0,0,0,,
slot0,w0,0,0,0,1,2,1,0,6,0,0,1,0,0,"no, not now",
slot0,w1,0,0,0,0,0,0,0,2,0,0,0,0,0,,
slot0,activator,0,0,0,0,0,0,0,1,0,0,0,0,0,,
slot0,BACKEND,4,0,5,1,2,1,0,9,0,1,4,3,2,,
slot1,w0,0,0,0,0,0,0,0,0,0,0,0,0,0,,
slot1,BACKEND,0,0,0,0,0,0,0,0,0,0,0,0,0,,

"""
SHOWN = {
    "data": {"all 2xx": 12, "all 4xx": 3, "all 5xx": 5, "connections": 7},
    "slot0": {
        "worker 2xx": 8,
        "worker 5xx": 1,
        "activator 2xx": 1,
        "all 2xx": 9,
        "all 4xx": 1,
        "all 5xx": 4,
        "error connect": 5,
        "error response": 1,
        "error client_abort": 3,
        "error server_abort": 2,
        "retries": 2,
        "redispatches": 1,
        "queued": 4,
    },
}
PROCESSES = """\
#<PID>          <type>          <reloads>       <uptime>        <version>
1339            master          1 [failed: 0]   0d00h00m02s     2.8.25-5cf5d0683
# workers
1434            worker          0               0d00h00m00s     2.8.25-5cf5d0683
# old workers
1341            worker          1               0d00h00m02s     2.8.25-5cf5d0683
# programs

"""
ONE = Processes(1, 10)


def test_what_was_counted_at_each_place_is_read() -> None:
    assert read_stats(STAT) == SHOWN
    assert read_stats("") == {}


def test_both_backends_of_a_slot_are_one_place() -> None:
    rows = "slot2,w0,0,0,0,1,2,1,0,6,0,0,1,0,0,,\nslot2.prefix,w0,0,0,0,1,2,1,0,3,0,0,1,0,0,,\n"
    shown = read_stats(f"# {COLUMNS},\n{rows}")
    assert shown == {"slot2": {"worker 2xx": 9, "worker 5xx": 2}}


def test_calls_without_a_version_are_read_by_model() -> None:
    table = (
        "# table: answers, type: string, size:10240, used:2\n"
        "0x7f5: key=iris use=0 exp=0 shard=0 http_req_cnt=3\n"
        "0x7f6: key=wine.v1 use=1 exp=0 shard=0 http_req_cnt=12\n\n"
    )
    assert read_unavailable(table) == {"model:iris": {"all 5xx": 3}, "model:wine.v1": {"all 5xx": 12}}
    assert read_unavailable("No such table\n") == {}


def test_processes_of_before_a_reload_are_told_apart() -> None:
    assert read_processes(PROCESSES) == Processes(1339, 1434, (1341,))
    without = PROCESSES.replace("1434 ", "")
    assert read_processes(without) is None
    assert Processes(1339, 1434, (1341,)).all == (1339, 1434, 1341)


@pytest.fixture
def counters(tmp_path: Path) -> EdgeCounters:
    return EdgeCounters(tmp_path / "counters.json")


def at_slot0(**counts: int) -> PlaceCounts:
    return {"slot0": {name.replace("_", " "): count for name, count in counts.items()}}


def responses(counters: EdgeCounters, version: str) -> dict[tuple[str, str], int]:
    return dict(counters.versions()[version].responses)


def test_each_answer_has_one_source_and_a_failed_grpc_call_is_a_failure(counters: EdgeCounters) -> None:
    shown = {**SHOWN, "slot0": {**SHOWN["slot0"], "all 2xx": 11}}
    counters.take(ONE, {10: shown}, {"slot0": "iris.v1"})
    assert counters.versions() == {
        "iris.v1": EdgeNumbers(
            Counter(
                {
                    ("worker", "2xx"): 8,
                    ("worker", "5xx"): 1,
                    ("activator", "2xx"): 1,
                    ("edge", "4xx"): 1,
                    ("edge", "5xx"): 5,
                }
            ),
            Counter(connect=5, response=1, client_abort=3, server_abort=2),
            2,
            1,
            4,
        )
    }
    edge = counters.edge(is_up=True)
    assert edge.responses == {"1xx": 0, "2xx": 12, "3xx": 0, "4xx": 3, "5xx": 5}
    assert (edge.connections, edge.unavailable) == (7, {})
    assert counters.edge(is_up=False).connections == 0


def test_counts_go_on_after_a_reload_and_the_old_process_is_heard_to_its_end(counters: EdgeCounters) -> None:
    owners = {"slot0": "iris.v1"}
    counters.take(ONE, {10: at_slot0(worker_2xx=5)}, owners)
    reloaded = Processes(1, 11, (10,))
    counters.take(reloaded, {10: at_slot0(worker_2xx=7), 11: at_slot0(worker_2xx=1)}, owners)
    assert responses(counters, "iris.v1") == {("worker", "2xx"): 8}
    counters.take(reloaded, {11: at_slot0(worker_2xx=2)}, owners)
    counters.take(Processes(1, 11), {11: at_slot0(worker_2xx=4)}, owners)
    assert responses(counters, "iris.v1") == {("worker", "2xx"): 11}


def test_a_backend_that_changes_its_version_takes_no_counts_along(counters: EdgeCounters) -> None:
    counters.take(ONE, {10: at_slot0(worker_2xx=5)}, {"slot0": "iris.v1"})
    counters.take(ONE, {10: at_slot0(worker_2xx=6)}, {"slot0": "iris.v2"})
    counters.take(ONE, {10: at_slot0(worker_2xx=6)}, {})
    counters.take(ONE, {10: at_slot0(worker_2xx=9)}, {})
    assert responses(counters, "iris.v1") == {("worker", "2xx"): 5}
    assert responses(counters, "iris.v2") == {("worker", "2xx"): 1}


def test_an_old_process_counts_for_the_versions_that_its_backends_had(counters: EdgeCounters) -> None:
    counters.take(ONE, {10: at_slot0(worker_2xx=5)}, {"slot0": "iris.v1"})
    reloaded = Processes(1, 11, (10,))
    counters.take(reloaded, {10: at_slot0(worker_2xx=6), 11: at_slot0(worker_2xx=2)}, {"slot0": "iris.v2"})
    assert responses(counters, "iris.v1") == {("worker", "2xx"): 6}
    assert responses(counters, "iris.v2") == {("worker", "2xx"): 2}


def test_counts_never_fall(counters: EdgeCounters) -> None:
    owners = {"slot0": "iris.v1"}
    counters.take(ONE, {10: at_slot0(all_5xx=4, worker_5xx=1)}, owners)
    assert responses(counters, "iris.v1") == {("worker", "5xx"): 1, ("edge", "5xx"): 3}
    # Three answers have begun, and not yet ended.
    counters.take(ONE, {10: at_slot0(all_5xx=4, worker_5xx=4)}, owners)
    assert responses(counters, "iris.v1") == {("worker", "5xx"): 4, ("edge", "5xx"): 3}
    counters.take(ONE, {10: at_slot0(all_5xx=7, worker_5xx=4)}, owners)
    assert responses(counters, "iris.v1") == {("worker", "5xx"): 4, ("edge", "5xx"): 3}
    # Another HAProxy may have the id of one that died; an operator may have cleared the counters.
    counters.take(ONE, {10: at_slot0(all_5xx=2, worker_5xx=1)}, owners)
    assert responses(counters, "iris.v1") == {("worker", "5xx"): 5, ("edge", "5xx"): 4}


def test_a_gateway_that_is_started_again_goes_on(tmp_path: Path) -> None:
    path, owners = tmp_path / "counters.json", {"slot0": "iris.v1"}
    shown: PlaceCounts = {**at_slot0(worker_2xx=5), "model:wine": {"all 5xx": 3}}
    EdgeCounters(path).take(ONE, {10: shown}, owners)
    counters = EdgeCounters(path)
    assert responses(counters, "iris.v1") == {("worker", "2xx"): 5}
    assert counters.edge(is_up=True).unavailable == {"wine": 3}
    counters.take(ONE, {10: {**at_slot0(worker_2xx=6), "model:wine": {"all 5xx": 4}}}, owners)
    assert responses(counters, "iris.v1") == {("worker", "2xx"): 6}
    assert counters.edge(is_up=True).unavailable == {"wine": 4}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"totals": {"a": 1}}', '{"totals": {}, "processes": {"x": {}}}']
)
def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "counters.json"
    path.write_text(text)
    counters = EdgeCounters(path)
    assert counters.versions() == {}
    counters.take(ONE, {10: at_slot0(worker_2xx=5)}, {"slot0": "iris.v1"})
    assert responses(EdgeCounters(path), "iris.v1") == {("worker", "2xx"): 5}


def test_of_versions_that_are_gone_a_bounded_number_is_remembered(counters: EdgeCounters) -> None:
    for number in range(1100):
        counters.take(Processes(1, number), {number: at_slot0(worker_2xx=1)}, {"slot0": f"iris.v{number}"})
    assert len(counters.versions()) == 1000
    assert responses(counters, "iris.v1099") == {("worker", "2xx"): 1}
