"""The run that is made on a machine with a GPU, on CPUs and small: each step ends as it should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import gpu
from loadtests.gpu import KITSERVE
from loadtests.gpu_report import DIRECTLY


def test_all_steps_end_as_they_should(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--small", "--no-doctor", "--seconds", "0.3", "--connections", "1,4"]
    code = gpu.main([*options, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    run = json.loads((tmp_path / "gpu.json").read_text())
    assert run["faults"] == []
    measured = {(cell["model"], cell["way"], cell["connections"]) for cell in run["cells"]}
    assert measured == {
        (model, way, count) for model in ("onnx", "torch") for way in (DIRECTLY, KITSERVE) for count in (1, 4)
    }
    assert all(cell["load"]["requests"] for cell in run["cells"])
    assert printed == (tmp_path / "gpu.md").read_text() + "\n"
    assert "| torch, Kitserve | 4 |" in printed
    assert "a call without memory: 2048 rows: 507" in printed
    assert "none failed" in printed
