"""What the documentation and the ready configs show can be used as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config.config import load_config, parse_config
from gateway.rollout.plan import Match, Sticky


def test_the_example_in_the_docs_is_a_config() -> None:
    example = re.search(r"^```yaml\n(.*?)^```$", Path("docs/rollouts.md").read_text(), re.DOTALL | re.M)
    assert example is not None
    (model,) = parse_config(example[1]).models
    assert model.rollout is not None
    plan = model.rollout.plan()
    assert [step.weight for step in plan.steps] == [0, 5, 50]
    assert plan.steps[1].match == (Match("x-staff"),)
    assert plan.sticky == Sticky(cookie="session")
    assert model.track == 60


def test_the_ready_config_has_a_rollout() -> None:
    (model,) = load_config(Path("configs/rollout.yaml")).models
    assert model.rollout is not None
    assert model.rollout.plan().checks.agreement is not None
