"""`kitserve apply` and `kitserve rollout status --wait`: what they say of a change, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import waiting
from gateway.rollout.events import Abort, Promote, Rollback
from tests.support.admin import Admin, running_admin
from tests.support.cli import Cli
from tests.support.rollouts import ROLLOUT, kit

PAUSED: dict[str, Any] = {"steps": [{"weight": 10, "pause": True}, {"weight": 50, "for": "5s"}]}


class Shell:
    """The command line, with a config of its own for a running gateway."""

    def __init__(self, cli: Cli, admin: Admin, directory: Path) -> None:
        self._cli = cli
        self._admin = admin
        self._file = directory / "kitserve.yaml"

    def apply(self, tag: str, *options: str, code: int = 0, **fields: Any) -> list[str]:
        """Apply a config with this kit of iris, and return what is printed."""
        model = {"name": "iris", "kit": str(kit(tag)), "rollout": ROLLOUT}
        return self.apply_models([{**model, **fields}], *options, code=code)

    def apply_models(self, models: list[dict[str, Any]], *options: str, code: int = 0) -> list[str]:
        self._file.write_text(json.dumps({"models": models}))
        return self.run("apply", str(self._file), *options, code=code)

    def status(self, *options: str, code: int = 0) -> list[str]:
        return self.run("rollout", "status", "iris", *options, code=code)

    def run(self, *arguments: str, code: int = 0) -> list[str]:
        text, error = self._cli(*arguments, "--admin", self._admin.address, code=code)
        return (text + error).splitlines()


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with running_admin(tmp_path) as admin:
        yield admin


@pytest.fixture
def shell(
    admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(waiting, "WATCH_SECONDS", 0.01)
    shell = Shell(Cli(tmp_path / "home", monkeypatch, capsys), admin, tmp_path)
    shell.apply("v1")
    return shell


def test_apply_says_what_it_adds_changes_and_removes(shell: Shell) -> None:
    iris, wine = {"name": "iris", "kit": str(kit("v1"))}, {"name": "wine", "kit": "registry.test/wine:v1"}
    assert shell.apply_models([iris, wine], "--no-wait") == [
        "wine: added, registry.test/wine:v1",
        "iris: changed, rollout removed",
    ]
    changed = {**wine, "kit": "registry.test/wine:v2", "replicas": 2}
    assert shell.apply_models([iris, changed], "--no-wait") == [
        "wine: changed, kit registry.test/wine:v1 -> registry.test/wine:v2, replicas.min 1 -> 2, "
        "replicas.max 1 -> 2",
    ]
    assert shell.apply_models([iris], "--no-wait") == ["wine: removed"]
    assert shell.apply_models([iris], "--no-wait") == [
        "the config is as before; what failed is tried again, and tags are resolved again"
    ]
    assert shell.apply_models([], "--no-wait") == ["iris: removed"]


def test_apply_says_that_a_rollout_has_begun(shell: Shell) -> None:
    lines = shell.apply("v2")
    assert lines[0] == "iris: changed, kit registry.test/iris:v1 -> registry.test/iris:v2"
    assert lines[-1] == "iris: a rollout from v1 to v2 has begun: kitserve rollout status iris"


def test_apply_of_something_else_says_that_the_rollout_goes_on(shell: Shell) -> None:
    shell.apply("v2", rollout=ROLLOUT | {"steps": [{"weight": 10, "for": "1h"}]})
    lines = shell.apply("v2", rollout=ROLLOUT | {"steps": [{"weight": 10, "for": "1h"}]}, track="1h")
    assert lines[-1] == "iris: a rollout from v1 to v2 goes on at step 1 of 1: kitserve rollout status iris"


def test_apply_after_a_rollback_says_so(shell: Shell, admin: Admin) -> None:
    shell.apply("v2", "--wait")
    admin.world.rollouts.order("iris", Rollback("v1"))
    said = "iris: v2 was rolled back, and v1 serves; start it again with `kitserve rollout retry iris`"
    for options in ((), ("--wait",)):
        assert shell.apply("v2", *options, code=1)[-1] == said
    assert shell.apply("v1")[-1].startswith("iris: ready  v1@"), "what serves is what is asked for"


def test_apply_after_an_abort_says_so(shell: Shell, admin: Admin) -> None:
    shell.apply("v2")
    admin.world.rollouts.order("iris", Abort("a hunch"))
    *_, line, advice = shell.apply("v2", code=1)
    assert "rollout Degraded (RolloutAborted): a hunch" in line
    assert advice == (
        "iris: the rollout from v1 to v2 was aborted, and v1 serves; "
        "start it again with `kitserve rollout retry iris`"
    )


def test_apply_waits_for_the_end_of_the_rollout(shell: Shell) -> None:
    lines = shell.apply("v2", "--wait")
    assert any("10 %" in line and "rollout: step 1 of 2" in line for line in lines), lines
    assert any("50 %" in line and "rollout: step 2 of 2" in line for line in lines), lines
    assert lines[-1].startswith("iris: ready  v2@")
    assert lines[-1].endswith(" 100 %")


def test_a_rollout_that_fails_while_it_is_waited_for_is_exit_code_one(shell: Shell, admin: Admin) -> None:
    admin.failing.add("v2")
    *_, line, advice = shell.apply("v2", "--wait", code=1)
    assert "rollout Degraded (AnalysisFailed)" in line
    assert advice.startswith("iris: the rollout from v1 to v2 has failed (AnalysisFailed), and v1 serves; ")


def test_a_rollout_that_waits_for_a_person_is_waited_for_until_the_time_is_up(
    shell: Shell, admin: Admin
) -> None:
    advice = (
        "iris: the rollout from v1 to v2 waits for a person at step 1 of 2: "
        "`kitserve rollout promote iris`, or `kitserve rollout abort iris`"
    )
    assert shell.apply("v2", rollout=PAUSED)[-1] == advice, "this waits for no rollout"
    lines = shell.apply("v2", "--wait", "--timeout", "1s", rollout=PAUSED, code=1)
    assert lines.count(advice) == 1
    assert lines[-1] == "kitserve: given up after 1 s; still under way: iris; see `kitserve status`"
    lines = shell.status("--wait", "--timeout", "500ms", code=1)
    assert advice in lines
    assert lines[-1].startswith(
        "kitserve: given up after 0.5 s: the rollout of iris is Paused (CanaryPauseStep)"
    )

    def promote() -> None:
        admin.world.rollouts.order("iris", Promote())
        admin.meanwhile = lambda: None

    admin.meanwhile = promote
    assert any("Healthy" in line for line in shell.status("--wait"))


def test_a_reference_that_cannot_be_resolved_is_told(shell: Shell) -> None:
    for options in ((), ("--wait",)):
        lines = shell.apply("v9", *options, code=1)
        assert "registry.test/iris:v9: there is no such tag" in lines[-1]
        assert "v1@" in lines[-1], "what runs goes on"


def test_status_of_a_rollout_waits_for_its_end(shell: Shell, admin: Admin) -> None:
    assert shell.status("--wait")[1].startswith("iris: Healthy")
    shell.apply("v2", "--no-wait")
    lines = shell.status("--wait")
    assert any("rollout: step 2 of 2" in line for line in lines), lines
    assert "iris: Healthy RolloutCompleted" in lines
    shell.apply("v3", "--no-wait")
    admin.failing.add("v3")
    document = json.loads("\n".join(shell.status("--wait", "-o", "json", code=1)))
    assert (document["phase"], document["canary"]["tag"]) == ("Degraded", "v3")
    assert shell.status()[0] == "iris: Degraded AnalysisFailed", "without --wait, to show it is no failure"


def test_a_rollout_that_is_taken_away_is_waited_for_no_longer(shell: Shell, admin: Admin) -> None:
    shell.apply("v2", rollout=PAUSED)
    admin.meanwhile = lambda: admin.world.apply("v2", None)
    assert shell.status("--wait", code=1)[-1] == (
        "kitserve: the rollout of iris is no more: the config has changed"
    )


def test_status_shows_what_a_person_may_do(shell: Shell, admin: Admin) -> None:
    shell.apply("v2", "--wait")
    admin.world.rollouts.order("iris", Rollback("v1"))
    shell.apply("v2", code=1)
    shown = shell.run("status")
    assert (
        "iris: v2 was rolled back, and v1 serves; start it again with `kitserve rollout retry iris`" in shown
    )


@pytest.mark.parametrize("time", ["soon", "0", "-5s", "", "1d", "s"])
def test_a_time_to_wait_that_is_none_is_a_wrong_command(shell: Shell, time: str) -> None:
    assert "is not a time to wait, such as 90s, 10m or 2h" in shell.apply("v1", "--timeout", time, code=2)[-2]
    assert "is not a time to wait" in shell.status("--wait", "--timeout", time, code=2)[-2]


def test_a_reference_that_cannot_be_resolved_is_told_also_while_a_rollout_runs(shell: Shell) -> None:
    shell.apply("v2", rollout=PAUSED)
    for options in ((), ("--wait",)):
        lines = shell.apply("v9", *options, rollout=PAUSED, code=1)
        assert "registry.test/iris:v9: there is no such tag" in "".join(lines)
        assert lines[-1].startswith("iris: the rollout from v1 to v2 waits for a person"), "what runs goes on"
    assert shell.apply("v1", "--wait", rollout=PAUSED)[-1].startswith("iris: ready  v1@")
