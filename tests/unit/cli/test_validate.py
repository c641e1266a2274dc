"""`kitserve validate` and `schema`: every fault of several files with its line, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.config.lock import Lock, LockedKit, lock_text
from gateway.config.schema import config_schema
from gateway.oci.reference import Digest, parse_reference
from tests.support.cli import Cli


def test_all_faults_of_several_files_are_named_with_their_lines(cli: Cli, tmp_path: Path) -> None:
    good, bad, worse = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "worse"))
    good.write_text("models:\n- {name: iris, kit: r.io/iris:v1}\n")
    bad.write_text("models:\n- name: iris\n  kit: r.io/iris:v1\n  runtime: onxx\n")
    worse.write_text("models:\n- name: iris\n  kitt: r.io/iris:v1\nlisten: 80\n")
    assert cli("validate", str(good)) == ("1 file without a fault\n", "")
    _, error = cli("validate", str(good), str(bad), str(worse), str(tmp_path / "none.yaml"), code=2)
    lines = error.splitlines()
    assert lines[0].startswith(
        f"{bad}:4: models[0].runtime: there is no runtime 'onxx'; did you mean 'onnx'?"
    )
    assert {line.partition(": ")[0] for line in lines[1:]} == {
        f"{worse}:2",
        f"{worse}:3",
        f"{worse}:4",
        f"{tmp_path / 'none.yaml'}:1",
    }
    document = json.loads(cli("validate", str(good), str(bad), "-o", "json", code=2)[0])
    assert document["is_valid"] is False
    assert [len(file["faults"]) for file in document["files"]] == [0, 1]
    assert document["files"][1]["faults"][0]["line"] == 4
    assert not cli.home.exists()


def test_a_lock_is_checked_where_it_is_asked_for(cli: Cli, tmp_path: Path) -> None:
    file, lock = tmp_path / "kitserve.yaml", tmp_path / "kitserve.lock"
    file.write_text("models:\n- {name: iris, kit: r.io/iris:v1}\n")
    assert "there is no lock" in cli("validate", str(file), "--locked", code=2)[1]
    entry = {parse_reference("r.io/iris:v2"): LockedKit(Digest.of(b""))}
    lock.write_text(lock_text(Lock(entry), file))
    assert cli("validate", str(file), "--locked", code=2)[1].startswith(
        f"{lock}:1: r.io/iris:v1 is in the config"
    )
    cli("validate", str(file))


def test_the_schema_is_printed(cli: Cli) -> None:
    assert json.loads(cli("schema")[0]) == config_schema()
