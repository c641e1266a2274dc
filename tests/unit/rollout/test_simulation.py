"""A thousand simulated rollouts: how often the machine is wrong, and how fast it is right."""

from __future__ import annotations

from pathlib import Path

from docs.generator.parts import shown
from tests.support.simulation import CANARIES, simulate_all, table

GOOD = next(iter(CANARIES))


def test_a_thousand_rollouts_end_as_they_should_and_as_the_docs_say() -> None:
    rows = simulate_all()
    ours = [row for row in rows if row.judged == "sequential tests"]
    assert sum(row.rollouts for row in ours if row.canary in CANARIES) == 1000
    for row in ours:
        wrong = row.aborted if row.canary.startswith(GOOD) else row.promoted
        assert wrong < 0.01 * row.rollouts, row
        assert row.promoted + row.aborted == row.rollouts, "every one of them ends"
    thresholds = next(row for row in rows if row.judged == "bare thresholds" and row.canary == GOOD)
    assert thresholds.aborted > 0.05 * thresholds.rollouts, "the comparison is worth its place"
    assert shown(Path("docs/rollouts.md").read_text(), "rollout simulation") == table(rows), "run: make docs"
