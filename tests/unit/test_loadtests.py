from __future__ import annotations

import math

import pytest

from loadtests.contenders import CANARY, EDGE, FLOOR, PLAIN, WORKER
from loadtests.table import HEADER, Cell, markdown, rows, texts, verdicts
from loadtests.wrk import Load, WrkFailed, parse

OUTPUT = """Running 1s test @ http://127.0.0.1:1/v2/models/iris/infer
  1 threads and 16 connections

RESULT {"requests":1200,"microseconds":1500000,"p50_us":1250,"p99_us":9000,\
"connect":1,"read":2,"write":0,"timeout":3,"status":4}
"""


def cell(contender: str, rate: int, cpu: float = 0.5, connections: int = 16, errors: int = 0) -> Cell:
    return Cell(contender, connections, Load(rate, 1.0, 1.0, 2.0, errors), cpu, errors)


def test_a_run_of_wrk_is_read_and_every_fault_is_counted() -> None:
    load = parse(OUTPUT)
    assert load == Load(requests=1200, seconds=1.5, p50_ms=1.25, p99_ms=9.0, errors=10)
    assert Cell("x", 1, load, 0.0, 10).rate == pytest.approx(1190 / 1.5)


def test_output_without_a_result_is_an_error() -> None:
    with pytest.raises(WrkFailed, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_a_row_is_the_median_of_its_passes() -> None:
    cells = [
        *(cell(FLOOR, rate) for rate in (900, 1000, 1100)),
        *(cell(PLAIN, 10) for _ in range(3)),
        *(cell(EDGE, rate) for rate in (400, 500, 800)),
    ]
    floor, plain, edge = rows(cells)
    assert (floor.rate, floor.spread, floor.of_floor, floor.cpu_ms) == (1000, 0.2, 1.0, 0.5)
    assert (edge.rate, edge.of_floor, edge.of_plain) == (500, 0.5, 50)
    assert plain.of_plain == 1


def test_errors_lower_the_rate_and_are_marked() -> None:
    (row,) = rows([cell(EDGE, 500, errors=3), cell(EDGE, 500)])
    assert (row.rate, row.errors) == (498.5, 3)
    assert texts(row)[-1] == "3 (!)"
    assert math.isnan(row.of_floor)


def test_goals_are_judged_at_sixteen_connections_alone() -> None:
    assert verdicts(rows([cell(EDGE, 1, connections=1), cell(FLOOR, 1, connections=1)])) == []
    cells = [cell(FLOOR, 1000), cell(PLAIN, 10), cell(WORKER, 800), cell(EDGE, 450), cell(CANARY, 1)]
    assert [line.partition(":")[0] for line in verdicts(rows(cells))] == ["met", "MISSED", "met"]


def test_the_markdown_table_has_a_line_for_each_row() -> None:
    lines = markdown(rows([cell(FLOOR, 1000), cell(EDGE, 450)])).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(HEADER) + 1}
