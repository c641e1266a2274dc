from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from loadtests import models, plot
from loadtests.bench import Run, read, report
from loadtests.calls import BENTOML_JSON, OIP_BINARY, OIP_JSON, same
from loadtests.contenders import BATCHING, BENTOML, FLOOR, KITSERVE, KSERVE, MLSERVER, speaks
from loadtests.goals import JUDGED, verdicts
from loadtests.plain_model import PlainModel
from loadtests.table import ALONE, Cell, Results, header, markdown, number, results, rows
from loadtests.workloads import COMPUTE, IMAGE_BINARY, IMAGE_JSON, TINY
from loadtests.wrk import Load, WrkFailed, parse

OUTPUT = """Running 1s test @ http://127.0.0.1:1/v2/models/iris/infer
  1 threads and 16 connections

RESULT {"requests":1200,"microseconds":1500000,"p50_us":1250,"p99_us":9000,\
"connect":1,"read":2,"write":0,"timeout":3,"status":4}
"""


def cell(
    contender: str,
    rate: int,
    cpu: float = 0.5,
    connections: int = JUDGED,
    errors: int = 0,
    p50: float = 1.0,
    workload: str = TINY.name,
) -> Cell:
    return Cell(workload, contender, connections, Load(rate, 1.0, p50, 2.0, errors), cpu, 100.0, errors)


def results_of(*cells: Cell, absent: dict[str, str] | None = None) -> Results:
    return results("a model", cells, absent or {})


def outcomes(workload: str, *cells: Cell) -> list[str]:
    return [line.partition(":")[0] for line in verdicts({workload: results_of(*cells)})]


def test_a_run_of_wrk_is_read_and_every_fault_is_counted() -> None:
    load = parse(OUTPUT)
    assert load == Load(requests=1200, seconds=1.5, p50_ms=1.25, p99_ms=9.0, errors=10)
    assert load.rate == pytest.approx(1190 / 1.5)


def test_output_without_a_result_is_an_error() -> None:
    with pytest.raises(WrkFailed, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_figures_are_medians_of_the_passes_and_all_errors() -> None:
    cells = [*(cell(FLOOR, rate) for rate in (900, 1000, 1100)), cell(FLOOR, 1000, errors=2)]
    figures = results_of(*cells).find(FLOOR, JUDGED)
    assert figures is not None
    assert (figures.rate, figures.errors, figures.pss_mib) == (999, 2, 100)
    assert figures.spread == pytest.approx(200 / 999)
    assert figures.cpu_ms == pytest.approx(0.5)


def test_a_table_has_a_line_for_each_contender_also_for_who_is_absent() -> None:
    cells = [
        cell(KITSERVE, 450),
        cell(FLOOR, 1000, connections=1),
        cell(FLOOR, 900),
        cell(ALONE, 70, connections=0),
    ]
    lines = rows(results_of(*cells, absent={MLSERVER: "cannot be installed"}), [1, JUDGED], JUDGED)
    assert [line[0] for line in lines] == [ALONE, FLOOR, KITSERVE, "MLServer: absent"]
    assert {len(line) for line in lines} == {len(header([1, JUDGED]))}
    assert lines[1][1:7] == ["1,000", "1.00", "2.00", "900", "1.00", "2.00"]
    assert lines[2][7] == "0.50"
    text = markdown(lines, header([1, JUDGED]))
    assert len(text.splitlines()) == 2 + len(lines)
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_failed_calls_lower_the_rate_and_are_marked() -> None:
    ((_, rate, *_),) = rows(results_of(cell(KITSERVE, 500, errors=3)), [JUDGED], JUDGED)
    assert rate == "497 (3 failed)"


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (99.94, "99.9"), (9.876, "9.88"), (0.0123, "0.012")]
)
def test_numbers_have_three_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("kitserve", "floor", "peer", "expected"),
    [
        (cell(KITSERVE, 700), cell(FLOOR, 1000), cell(MLSERVER, 140), ["met", "met"]),
        (cell(KITSERVE, 699), cell(FLOOR, 1000), cell(MLSERVER, 140), ["MISSED", "MISSED"]),
    ],
)
def test_goals_of_the_tiny_model(kitserve: Cell, floor: Cell, peer: Cell, expected: list[str]) -> None:
    assert outcomes(TINY.name, kitserve, floor, peer, cell(KSERVE, 10)) == expected


@pytest.mark.parametrize(("p50", "word"), [(0.3, "met"), (0.31, "MISSED")])
def test_the_goal_of_a_lone_caller(p50: float, word: str) -> None:
    cells = [cell(KITSERVE, 1, connections=1, p50=p50), cell(FLOOR, 1, connections=1, p50=0.2)]
    assert outcomes(TINY.name, *cells) == [word]


def test_the_goals_of_larger_models() -> None:
    cells = [cell(ALONE, 100, connections=0), cell(KITSERVE, 95), cell(BATCHING, 100)]
    assert outcomes(COMPUTE.name, *cells) == ["met", "MISSED"]
    assert outcomes(IMAGE_JSON.name, cell(KITSERVE, 1, cpu=0.7), cell(FLOOR, 1, cpu=1.0)) == ["met"]
    assert outcomes(IMAGE_JSON.name, cell(KITSERVE, 1, cpu=0.8), cell(FLOOR, 1, cpu=1.0)) == ["MISSED"]
    assert outcomes(IMAGE_BINARY.name, cell(KITSERVE, 94), cell(FLOOR, 100), cell(BATCHING, 101)) == [
        "MISSED",
        "met",
    ]


def test_what_was_not_measured_has_no_verdict() -> None:
    assert outcomes(TINY.name, cell(KITSERVE, 1), cell(BATCHING, 1)) == []
    assert math.isnan(float(rows(results_of(cell(KITSERVE, 1)), [JUDGED], JUDGED)[0][4]))


@pytest.mark.parametrize("make", [models.flowers, models.text, models.image])
def test_a_plain_model_answers_json_and_binary_as_the_model_does(make: models.Maker) -> None:
    model = make()
    plain = PlainModel(model.onnx)
    for array in model.inputs:
        truth = plain.run({"input": array})
        for dialect in (OIP_JSON, OIP_BINARY):
            call = dialect.call(array)
            size = call.headers.get("Inference-Header-Content-Length")
            answer = json.loads(plain.answer(call.body, None if size is None else int(size)))
            assert same(dialect.read(answer), truth)


@pytest.mark.parametrize("make", [models.flowers, models.text, models.image])
def test_a_batch_gives_each_item_its_own_answer(make: models.Maker) -> None:
    model = make()
    plain = PlainModel(model.onnx)
    whole = plain.run({"input": np.concatenate(model.inputs)})
    answers = []
    for index, array in enumerate(model.inputs):
        one = plain.run({"input": array})
        assert same({name: values[index] for name, values in whole.items()}, one)
        answers.append(one)
    assert not same(answers[0], answers[1])


def test_answers_are_told_apart_but_for_rounding() -> None:
    truth = {"scores": np.array([[0.25, 0.75]])}
    assert same({"scores": np.array([0.25, 0.750001])}, truth)
    assert not same({"scores": np.array([0.25, 0.7501])}, truth)
    assert not same({"scores": np.array([0.25])}, truth)
    assert not same({"score": np.array([0.25, 0.75])}, truth)
    assert same(BENTOML_JSON.read({"scores": [[0.25, 0.75]]}), truth)


def test_only_those_with_the_extension_are_sent_binary_tensors() -> None:
    assert [name for name in (FLOOR, MLSERVER, BENTOML, KSERVE, KITSERVE) if speaks(name, "binary")] == [
        FLOOR,
        KSERVE,
        KITSERVE,
    ]


@pytest.fixture
def run() -> Run:
    cells = [cell(FLOOR, 1000), cell(KITSERVE, 800), cell(FLOOR, 90, workload=IMAGE_JSON.name)]
    absent = {TINY.name: {MLSERVER: "cannot be installed"}, IMAGE_JSON.name: {}}
    return Run({"CPU": "two cores"}, cells, absent, ["tiny: KServe answered 500"])


def test_a_run_is_read_as_it_was_written(run: Run) -> None:
    assert read(json.loads(json.dumps(asdict(run)))) == run


def test_a_report_says_all_and_draws(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(run, tmp_path)
    text = (tmp_path / "bench.md").read_text()
    shown = capsys.readouterr().out
    for line in (
        "met: tiny: at least 0.7 of the floor (0.80)",
        "MLServer was left out: cannot be installed",
        "tiny: KServe answered 500",
        "CPU: two cores",
    ):
        assert line in text
        assert line in shown
    assert "</svg>" in (tmp_path / "bench.svg").read_text()


@pytest.mark.parametrize("names", [[FLOOR], [FLOOR, KITSERVE, ALONE]])
def test_a_picture_has_every_contender(names: Sequence[str], tmp_path: Path) -> None:
    cells = [cell(name, 100, connections=0 if name == ALONE else JUDGED) for name in names]
    plot.draw([results_of(*cells), results_of()], JUDGED, tmp_path / "picture.svg")
    picture = (tmp_path / "picture.svg").read_text()
    assert all(name in picture for name in names)
