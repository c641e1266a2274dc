"""The report on classic models: its figures, and whether the goals were reached."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loadtests.classic import KITSERVE, LIBRARY, MLSERVER, Cell, _call, report, verdicts
from loadtests.classic_models import MODELS, PIPELINE, XGBOOST
from loadtests.wrk import Load


def cell(contender: str, connections: int, rate: int, p50: float = 1.0, model: str = XGBOOST) -> Cell:
    return Cell(model, contender, connections, Load(rate, 1.0, p50, 2 * p50, 0))


def one_pass(peer: int, own: int, alone: float, lone: float, model: str = XGBOOST) -> list[Cell]:
    return [
        cell(LIBRARY, 0, 4000, alone, model),
        cell(MLSERVER, 1, 500, 2.0, model),
        cell(KITSERVE, 1, 2000, lone, model),
        cell(MLSERVER, 16, peer, 9.0, model),
        cell(KITSERVE, 16, own, 2.0, model),
    ]


@pytest.mark.parametrize(
    ("own", "lone", "words"),
    [
        (5000, 0.49, ["met", "met"]),
        (4990, 0.49, ["MISSED", "met"]),
        (5000, 0.52, ["met", "MISSED"]),
    ],
)
def test_goals_compare_each_pass_with_itself(own: int, lone: float, words: list[str]) -> None:
    cells = [*one_pass(1000, own, 0.2, lone), *one_pass(500, own // 2, 0.25, lone + 0.05)]
    assert [line.partition(":")[0] for line in verdicts(cells, XGBOOST)] == words


def test_a_report_has_a_table_for_each_model_and_the_conditions() -> None:
    cells = [cell for model in MODELS for cell in one_pass(1000, 6000, 0.2, 0.3, model)]
    text = report(cells, {"CPU": "a fast one"})
    assert text.count("| 1: requests/s |") == len(MODELS)
    assert "| Kitserve | 2,000 | 0.30 | 0.60 | 6,000 | 2.00 | 4.00 |" in text
    assert "| the library alone | 4,000 | 0.20 | 0.40 |  |  |  |" in text
    assert "- met: pipeline: at least 5 times MLServer at 16 connections (6.0; passes 6.0 to 6.0)" in text
    assert "- CPU: a fast one" in text


def test_the_call_has_one_row_and_asks_for_one_output(tmp_path: Path) -> None:
    model = MODELS[PIPELINE]
    document = json.loads(_call(model).body)
    (tensor,) = document["inputs"]
    assert (tensor["datatype"], tensor["shape"]) == ("FP64", [1, model.features])
    assert document["outputs"] == [{"name": "predict"}]
    model.make(tmp_path / model.file)
    row = np.array(tensor["data"]).reshape(tensor["shape"])
    assert model.load(tmp_path / model.file)(row).shape == (1,)
