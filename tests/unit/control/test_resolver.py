"""References become digests: what is noted in the state when a registry answers, refuses or is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.config.config import GatewayConfig
from gateway.config.models import Model
from gateway.control.loop import resolver as resolver_module
from gateway.control.loop import tasks as tasks_module
from gateway.control.loop.resolver import Resolver, resolve
from gateway.control.state.database import State
from gateway.control.state.desired import Desired, desired_from
from gateway.control.state.snapshot import Recorded
from gateway.errors import KitError, RegistryUnavailable
from gateway.oci.reference import Digest, Reference, parse_reference
from tests.support.artifacts import LayoutBuilder, iris
from tests.support.control_plane import wait_for_tasks
from tests.support.waiting import wait

KIT = parse_reference("registry.test/iris:v1")
FIRST, SECOND = Digest.of(b"first"), Digest.of(b"second")
SILENCE = RegistryUnavailable("no answer")


class Registry:
    """Gives one of `answers` after another, the last for ever, and counts the questions."""

    def __init__(self) -> None:
        self.answers: list[Digest | Exception] = [FIRST]
        self.questions = 0

    def __call__(self, reference: Reference, home: Path, desired: Desired) -> Digest:
        answer = self.answers[min(self.questions, len(self.answers) - 1)]
        self.questions += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(resolver_module, "resolve", registry)
    monkeypatch.setattr(resolver_module, "_RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(tasks_module, "_RETRY_SECONDS", 0.0)
    return registry


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state.db")
    yield state
    state.close()


@pytest.fixture
def resolver(state: State, registry: Registry, tmp_path: Path) -> Iterator[Resolver]:
    resolver = Resolver(state, tmp_path, lambda: None)
    yield resolver
    resolver.stop()
    wait_for_tasks()


def desired(kit: Reference, track: float | None = None) -> Desired:
    return desired_from(GatewayConfig(models=(Model(name="iris", kit=str(kit), track=track),)))


def apply(state: State, track: float | None = None) -> int:
    return state.apply(desired(KIT, track), "{}")


def known(state: State) -> Recorded:
    desired = state.desired()
    return Recorded(desired, state.pins(desired.generation), state.failures(), {}, {})


def repeat(begin: Callable[[], None], until: Callable[[], bool]) -> None:
    """Tick until something holds."""

    def holds() -> bool:
        begin()
        return until()

    wait(holds)


def test_a_reference_is_pinned_to_what_the_registry_says(state: State, resolver: Resolver) -> None:
    generation = apply(state)
    resolver.resolve([KIT], generation)
    wait(lambda: state.pins(generation) == {KIT: FIRST})
    assert state.notes(generation) == {KIT: ""}


def test_a_refusal_is_final(state: State, resolver: Resolver, registry: Registry) -> None:
    registry.answers = [KitError("it is no kit")]
    resolver.resolve([KIT], apply(state))
    wait(lambda: state.failures() == {KIT: "it is no kit"})
    assert registry.questions == 1


def test_a_silent_registry_is_asked_again_until_it_answers(
    state: State, resolver: Resolver, registry: Registry
) -> None:
    generation = apply(state)
    registry.answers = [SILENCE, SILENCE, SECOND]
    repeat(lambda: resolver.resolve([KIT], generation), lambda: state.pins(generation) == {KIT: SECOND})
    assert state.failures() == {}


def test_a_registry_that_stays_silent_is_given_up(
    state: State, resolver: Resolver, registry: Registry
) -> None:
    generation = apply(state)
    registry.answers = [SILENCE]
    repeat(lambda: resolver.resolve([KIT], generation), lambda: bool(state.failures()))
    assert state.failures() == {KIT: "no answer"}
    assert registry.questions >= 3


def test_a_later_try_waits(
    state: State, resolver: Resolver, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "_RETRY_SECONDS", (60.0,))
    generation = apply(state)
    registry.answers = [SILENCE]
    for _ in range(20):
        resolver.resolve([KIT], generation)
        wait(lambda: registry.questions == 1)
    resolver.resolve([KIT], apply(state))
    wait(lambda: registry.questions == 2)


def test_while_its_registry_is_silent_a_reference_means_what_it_meant_before(
    state: State, resolver: Resolver, registry: Registry
) -> None:
    registry.answers = [FIRST, SILENCE]
    resolver.resolve([KIT], apply(state))
    wait(lambda: state.last_pin(KIT) == FIRST)
    generation = apply(state)
    resolver.resolve([KIT], generation)
    wait(lambda: state.pins(generation) == {KIT: FIRST})
    note = f"its registry did not answer, so this is what {KIT} was before: no answer"
    assert state.notes(generation) == {KIT: note}


def test_a_tag_that_is_tracked_is_pinned_anew_once_it_has_moved(
    state: State, resolver: Resolver, registry: Registry
) -> None:
    generation = apply(state, track=1.0)
    state.pin(KIT, FIRST, generation)
    registry.answers = [SILENCE, SECOND]
    repeat(lambda: resolver.follow(known(state)), lambda: state.pins(generation) == {KIT: SECOND})
    assert state.failures() == {}


def test_a_tag_that_is_not_tracked_or_not_pinned_is_left_alone(
    state: State, resolver: Resolver, registry: Registry
) -> None:
    state.pin(KIT, FIRST, apply(state))
    resolver.follow(known(state))
    apply(state, track=1.0)
    resolver.follow(known(state))
    assert registry.questions == 0


def test_the_digest_is_asked_for_as_the_policy_of_a_model_allows(tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    digest = builder.kit("iris:v1", iris())
    reference = parse_reference(f"oci-layout:{builder.directory}:iris:v1")
    assert resolve(reference, tmp_path / "home", desired(reference)) == Digest.parse(digest)
    with pytest.raises(KitError, match="no model uses it any more"):
        resolve(reference, tmp_path / "home", Desired())
