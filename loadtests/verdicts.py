"""How often a rollout's verdict is wrong, in worlds where calls are not independent.

`python -m loadtests.verdicts` simulates rollouts, and keeps what came of them in verdicts.json, from which
`make docs` writes a table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.support.verdicts import End, Method, judge_by_thresholds, judge_by_units
from tests.support.worlds import CANARIES, GOOD, WORLDS, World

RESULTS = Path(__file__).with_name("verdicts.json")
ROLLOUTS = 1000
SEED = 1629
UNITS, THRESHOLDS, CALLS = "units", "bare thresholds", "tests on calls"
METHODS: Mapping[str, Method] = {UNITS: judge_by_units, THRESHOLDS: judge_by_thresholds}
"""The ways of judging that can be simulated; of `CALLS`, which is no more, the results are kept."""


@dataclass(frozen=True, slots=True)
class Row:
    """All rollouts of one canary in one world, judged in one way. The rest of them paused."""

    world: str
    canary: str
    judged: str
    rollouts: int
    promoted: int
    aborted: int
    calls: float
    """How many calls the canary had answered when it was over, on average."""
    seconds: float

    @property
    def wrong(self) -> int:
        """How many verdicts were wrong: aborts of a good canary, promotions of a bad one."""
        return self.aborted if self.canary == GOOD else self.promoted


def simulate(
    world: World, canary: str, judged: str, rollouts: int, processes: int = 1, seed: int = SEED
) -> Row:
    """Simulate rollouts. The same seed gives the same row."""
    run = partial(_simulate_one, world, canary, judged, seed)
    if processes > 1:
        with ProcessPoolExecutor(processes) as pool:
            return _row(world, canary, judged, list(pool.map(run, range(rollouts), chunksize=10)))
    return _row(world, canary, judged, [run(number) for number in range(rollouts)])


def _simulate_one(world: World, canary: str, judged: str, seed: int, number: int) -> End:
    return METHODS[judged](world, CANARIES[canary], (seed, number))


def _row(world: World, canary: str, judged: str, ends: Sequence[End]) -> Row:
    return Row(
        world.name,
        canary,
        judged,
        len(ends),
        sum(end.is_promoted for end in ends),
        sum(end.is_aborted for end in ends),
        round(sum(end.calls for end in ends) / len(ends), 1),
        round(sum(end.seconds for end in ends) / len(ends), 1),
    )


def load(path: Path = RESULTS) -> list[Row]:
    """Return the rows that are kept."""
    return [Row(**row) for row in json.loads(path.read_text())]


def save(rows: Iterable[Row], path: Path = RESULTS) -> None:
    """Keep rows, one a line; a row replaces one of the same world, canary and way of judging."""
    by_key = {
        (row.world, row.canary, row.judged): row for row in [*(load(path) if path.exists() else []), *rows]
    }
    order = {name: place for place, name in enumerate([world.name for world in WORLDS])}
    kept = sorted(by_key.values(), key=lambda row: (order.get(row.world, len(order)), row.canary, row.judged))
    path.write_text("[\n" + ",\n".join(json.dumps(asdict(row)) for row in kept) + "\n]\n")


def table(rows: Sequence[Row]) -> str:
    """Write for each world how often verdicts were wrong, and what a bad canary cost, in Markdown."""
    by_key = {(row.world, row.canary, row.judged): row for row in rows}
    bad = [canary for canary in CANARIES if canary != GOOD]
    titles = [
        "world",
        "judged by",
        "falsely aborted",
        "paused",
        "s to the end",
        "bad ones promoted",
        "paused",
    ]
    titles += [f"calls (s) to abort: {canary}" for canary in bad]
    lines = ["| " + " | ".join(titles) + " |", "| --- | --- |" + " ---: |" * (len(titles) - 2)]
    for world in WORLDS:
        for judged in (UNITS, CALLS, THRESHOLDS):
            good = by_key.get((world.name, GOOD, judged))
            others = [by_key.get((world.name, canary, judged)) for canary in bad]
            if good is None:
                continue
            known = [row for row in others if row is not None]
            cells = [
                world.name,
                judged,
                _share(good, lambda row: row.aborted),
                _share(good, _paused),
                f"{good.seconds:,.0f}",
                f"{sum(row.promoted for row in known)} of {sum(row.rollouts for row in known):,}",
                f"{sum(map(_paused, known))}",
                *("-" if row is None else f"{row.calls:,.0f} ({row.seconds:,.0f})" for row in others),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _paused(row: Row) -> int:
    return row.rollouts - row.promoted - row.aborted


def _share(row: Row, count: Callable[[Row], int]) -> str:
    return f"{count(row)} of {row.rollouts:,}"


def main(arguments: list[str] | None = None) -> None:
    """Simulate rollouts, and keep the rows."""
    parser = argparse.ArgumentParser(
        prog="loadtests.verdicts", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS)
    parser.add_argument("--judged", choices=METHODS, default=UNITS)
    parser.add_argument("--world", action="append", help="only these worlds, by a part of their names")
    parser.add_argument("--canary", action="append", choices=CANARIES, help="only these canaries")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    for world in WORLDS:
        if options.world and not any(part in world.name for part in options.world):
            continue
        for canary in options.canary or CANARIES:
            row = simulate(world, canary, options.judged, options.rollouts, options.processes)
            save([row])
            print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
