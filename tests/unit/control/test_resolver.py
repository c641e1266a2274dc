"""References become digests: what is noted in the state when a registry answers, refuses or is silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gateway.config.config import GatewayConfig
from gateway.config.models import Model
from gateway.control.loop import resolver as resolver_module
from gateway.control.loop.resolver import Meaning, Resolver, resolve
from gateway.control.loop.retries import Retries
from gateway.control.state.database import State
from gateway.control.state.desired import Desired, desired_from
from gateway.control.state.snapshot import Recorded
from gateway.control.state.versions import version_of
from gateway.errors import (
    DigestMismatch,
    InvalidKitfile,
    KitError,
    KitserveError,
    NotFound,
    NotTrusted,
    RegistryUnavailable,
    SizeMismatch,
    StoreError,
    Unauthorized,
)
from gateway.kits.variants import Room
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, Reference, parse_reference
from tests.support.artifacts import LayoutBuilder, digest_of, iris
from tests.support.clock import Clock
from tests.support.control_plane import wait_for_tasks
from tests.support.dialects import gguf, modelkit, modelkit_index
from tests.support.waiting import wait

KIT = parse_reference("registry.test/iris:v1")
FIRST, SECOND = Digest.of(b"first"), Digest.of(b"second")
SILENCE = RegistryUnavailable("no answer", away_host="registry.test")


class Registry:
    """Gives one of `answers` after another, the last for ever, and counts the questions."""

    def __init__(self) -> None:
        self.answers: list[Digest | Exception] = [FIRST]
        self.questions = 0

    def __call__(self, reference: Reference, home: Path, desired: Desired, earlier: Digest | None) -> Meaning:
        answer = self.answers[min(self.questions, len(self.answers) - 1)]
        self.questions += 1
        if isinstance(answer, Exception):
            raise answer
        return Meaning(answer)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(resolver_module, "resolve", registry)
    return registry


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state.db")
    yield state
    state.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retries(clock: Clock) -> Retries:
    return Retries(clock, jitter=lambda: 0.0)


@pytest.fixture
def resolver(state: State, registry: Registry, retries: Retries, tmp_path: Path) -> Iterator[Resolver]:
    resolver = Resolver(state, tmp_path, retries, lambda: None)
    yield resolver
    resolver.stop()
    wait_for_tasks()


def desired(kit: Reference, track: float | None = None) -> Desired:
    return desired_from(GatewayConfig(models=(Model(name="iris", kit=str(kit), track=track),)))


def apply(state: State, retries: Retries, track: float | None = None) -> int:
    generation = state.apply(desired(KIT, track), "{}")
    retries.use(generation)
    return generation


def known(state: State) -> Recorded:
    desired = state.desired()
    return Recorded(desired, state.pins(desired.generation), state.failures(), {}, {})


def repeat(begin: Callable[[], None], clock: Clock, until: Callable[[], bool]) -> None:
    """Tick until something holds, some seconds of the clock apart."""

    def holds() -> bool:
        clock.now += 20.0
        begin()
        return until()

    wait(holds)


def test_a_reference_is_pinned_to_what_the_registry_says(
    state: State, resolver: Resolver, retries: Retries
) -> None:
    generation = apply(state, retries)
    resolver.resolve([KIT], generation)
    wait(lambda: state.pins(generation) == {KIT: FIRST})
    assert state.notes(generation) == {KIT: ""}


def test_a_reference_that_is_pinned_already_is_not_asked_for_again(
    state: State, resolver: Resolver, registry: Registry, retries: Retries
) -> None:
    generation = apply(state, retries)
    state.pin(KIT, FIRST, generation, "it is the largest that fits")
    resolver.resolve([KIT], generation)
    wait_for_tries(resolver)
    assert registry.questions == 0
    assert state.notes(generation) == {KIT: "it is the largest that fits"}


@pytest.mark.parametrize(
    "error",
    [
        KitError("it is no kit"),
        InvalidKitfile("it has no Kitfile"),
        DigestMismatch("it has another digest"),
        SizeMismatch("it is too long"),
        NotTrusted("the policy refuses it"),
    ],
)
def test_a_refusal_is_final(
    state: State,
    resolver: Resolver,
    registry: Registry,
    retries: Retries,
    clock: Clock,
    error: KitserveError,
) -> None:
    registry.answers = [error]
    resolver.resolve([KIT], apply(state, retries))
    wait(lambda: state.failures() == {KIT: str(error)})
    assert (registry.questions, retries.waiting()) == (1, {})


def test_a_silent_registry_is_asked_again_until_it_answers(
    state: State, resolver: Resolver, registry: Registry, retries: Retries, clock: Clock
) -> None:
    generation = apply(state, retries)
    registry.answers = [SILENCE, SILENCE, SECOND]
    repeat(
        lambda: resolver.resolve([KIT], generation), clock, lambda: state.pins(generation) == {KIT: SECOND}
    )
    assert (state.failures(), retries.waiting()) == ({}, {})


def test_a_registry_that_stays_silent_is_asked_for_ever_every_five_minutes_at_last(
    state: State, resolver: Resolver, registry: Registry, retries: Retries, clock: Clock
) -> None:
    generation = apply(state, retries)
    registry.answers = [*[SILENCE] * 30, FIRST]
    times = []
    shown = []
    while registry.questions < 30:
        asked = registry.questions
        resolver.resolve([KIT], generation)
        wait_for_tries(resolver)
        if registry.questions > asked:
            times.append(clock.now)
            shown.append(retries.waiting()[KIT])
        clock.now += 1.0
    pauses = [round(after - before) for before, after in pairwise(times)]
    assert pauses[:7] == [5, 10, 20, 40, 80, 160, 250]
    assert set(pauses[7:]) == {250}
    assert [retry.tries for retry in shown] == list(range(1, 31))
    assert [retry.has_failed for retry in shown] == [False] * 4 + [True] * 26
    assert {retry.reason for retry in shown} == {"no answer"}
    assert state.failures() == {}, "it is not final"
    clock.now += 300.0
    resolver.resolve([KIT], generation)
    wait(lambda: state.pins(generation) == {KIT: FIRST})


@pytest.mark.parametrize(
    "error",
    [
        Unauthorized("a wrong password"),
        NotFound("no such tag"),
        StoreError("the disk is full"),
        RegistryUnavailable("answered 418"),
        PermissionError(13, "the password file"),
    ],
)
def test_what_may_be_mended_counts_as_failed_at_once_and_is_tried_again(
    state: State,
    resolver: Resolver,
    registry: Registry,
    retries: Retries,
    clock: Clock,
    error: Exception,
) -> None:
    generation = apply(state, retries)
    registry.answers = [error, FIRST]
    resolver.resolve([KIT], generation)
    wait(lambda: KIT in retries.waiting())
    retry = retries.waiting()[KIT]
    assert (retry.tries, retry.seconds, retry.has_failed) == (1, 5.0, True)
    clock.now += 5.0
    resolver.resolve([KIT], generation)
    wait(lambda: state.pins(generation) == {KIT: FIRST})
    assert retries.waiting() == {}


def test_a_later_try_waits_but_not_for_another_config(
    state: State, resolver: Resolver, registry: Registry, retries: Retries
) -> None:
    generation = apply(state, retries)
    registry.answers = [SILENCE]
    for _ in range(20):
        resolver.resolve([KIT], generation)
        wait_for_tries(resolver)
    assert registry.questions == 1
    resolver.resolve([KIT], apply(state, retries))
    wait(lambda: registry.questions == 2)


def test_while_its_registry_is_silent_a_reference_means_what_it_meant_before(
    state: State, resolver: Resolver, registry: Registry, retries: Retries
) -> None:
    registry.answers = [FIRST, SILENCE]
    resolver.resolve([KIT], apply(state, retries))
    wait(lambda: state.last_pin(KIT) == FIRST)
    generation = apply(state, retries)
    resolver.resolve([KIT], generation)
    wait(lambda: state.pins(generation) == {KIT: FIRST})
    note = f"its registry did not answer, so this is what {KIT} was before: no answer"
    assert state.notes(generation) == {KIT: note}


def test_of_fifty_kits_of_one_silent_registry_one_asks_and_once_it_answers_all_do(
    state: State, resolver: Resolver, registry: Registry, retries: Retries, clock: Clock
) -> None:
    kits = [parse_reference(f"registry.test/kit{number}:v1") for number in range(50)]
    generation = apply(state, retries)
    registry.answers = [SILENCE]
    repeat_once(resolver, retries, kits, generation)
    first = registry.questions
    assert first <= 8
    clock.now += 3600.0
    for round_ in range(1, 6):
        repeat_once(resolver, retries, kits, generation)
        assert registry.questions == first + round_
        clock.now += 300.0
    reasons = {retries.waiting()[kit].reason for kit in kits}
    assert reasons == {"no answer", "its registry does not answer, as another kit of it found: no answer"}
    registry.answers = [FIRST]
    repeat_once(resolver, retries, kits, generation)
    wait(lambda: bool(state.pins(generation)))

    def are_all_pinned() -> bool:
        resolver.resolve([kit for kit in kits if kit not in state.pins(generation)], generation)
        return len(state.pins(generation)) == 50

    wait(are_all_pinned)
    assert retries.waiting() == {}


def repeat_once(resolver: Resolver, retries: Retries, kits: list[Reference], generation: int) -> None:
    """Tick some times at one moment, and wait for the tries that these began."""
    for _ in range(3):
        resolver.resolve(kits, generation)
        wait_for_tries(resolver)


def wait_for_tries(resolver: Resolver) -> None:
    """Wait until no try is on its way."""
    wait(lambda: not resolver._tasks._running)


def test_a_tag_that_is_tracked_is_pinned_anew_once_it_has_moved(
    state: State, resolver: Resolver, registry: Registry, retries: Retries, clock: Clock
) -> None:
    generation = apply(state, retries, track=1.0)
    state.pin(KIT, FIRST, generation)
    registry.answers = [SILENCE, SECOND]
    repeat(lambda: resolver.follow(known(state)), clock, lambda: state.pins(generation) == {KIT: SECOND})
    assert state.failures() == {}


def test_a_tag_is_not_followed_while_its_registry_is_silent(
    state: State, resolver: Resolver, registry: Registry, retries: Retries, clock: Clock
) -> None:
    generation = apply(state, retries, track=1.0)
    state.pin(KIT, FIRST, generation)
    recorded = known(state)
    models = tuple(replace(model, track=0.01) for model in recorded.desired.models)
    recorded = replace(recorded, desired=replace(recorded.desired, models=models))
    registry.answers = [SILENCE]

    def is_asked() -> bool:
        resolver.follow(recorded)
        return registry.questions == 1

    wait(is_asked)
    wait_for_tries(resolver)
    for _ in range(5):
        time.sleep(0.02)
        resolver.follow(recorded)
    wait_for_tries(resolver)
    assert registry.questions == 1
    assert state.pins(generation) == {KIT: FIRST}
    clock.now += 5.0
    resolver.follow(recorded)
    wait(lambda: registry.questions == 2)


def test_a_tag_that_is_not_tracked_or_not_pinned_is_left_alone(
    state: State, resolver: Resolver, registry: Registry, retries: Retries
) -> None:
    state.pin(KIT, FIRST, apply(state, retries))
    resolver.follow(known(state))
    apply(state, retries, track=1.0)
    resolver.follow(known(state))
    assert registry.questions == 0


def test_the_digest_is_asked_for_as_the_policy_of_a_model_allows(tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    digest = builder.kit("iris:v1", iris())
    reference = parse_reference(f"oci-layout:{builder.directory}:iris:v1")
    assert resolve(reference, tmp_path / "home", desired(reference)) == Meaning(Digest.parse(digest))
    with pytest.raises(KitError, match="no model uses it any more"):
        resolve(reference, tmp_path / "home", Desired())


@pytest.fixture
def index(tmp_path: Path) -> LayoutBuilder:
    """A layout with `llm:all`, an index of `llm:q4` and `llm:q8`."""
    builder = LayoutBuilder(tmp_path / "layout")
    for size, tag in enumerate(("q4", "q8"), 1):
        modelkit(builder, f"llm:{tag}", {"m.gguf": gguf(tag, size * 20_000)})
    labels = {"q4": {"quantization": "q4_0", "vram": "1MB"}, "q8": {"quantization": "q8_0", "vram": "2MB"}}
    modelkit_index(builder, "llm:all", {f"llm:{tag}": labels[tag] for tag in labels})
    return builder


def variants(index: LayoutBuilder, **written: Any) -> Desired:
    model = Model(name="llm", kit=f"oci-layout:{index.directory}:llm:all", **written)
    return desired_from(GatewayConfig(models=(model,)))


def test_a_variant_is_resolved_once_for_all_nodes_and_says_why(
    state: State, retries: Retries, tmp_path: Path, index: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [Room(1_500_000), Room(9_000_000)]
    monkeypatch.setattr(
        Room, "here", lambda gpus=0.0, chosen=None: replace(free.pop(0), chosen=chosen), raising=True
    )
    resolver = Resolver(state, tmp_path, retries, lambda: None)
    q4 = Digest.parse(digest_of(index.directory, "llm:q4"))
    for _ in range(2):
        desired = variants(index, variant="auto")
        (kit,) = desired.models[0].kits
        generation = state.apply(desired, "{}")
        retries.use(generation)
        resolver.resolve([kit], generation)
        wait(lambda generation=generation: bool(state.pins(generation)))  # type: ignore[misc]
        assert state.pins(generation) == {kit: q4}
        assert state.desired().models[0].kit == kit
    # The second time more is free, but nothing is taken from what serves.
    assert state.notes(generation)[kit].endswith("it was chosen before, and is kept")
    assert free == []
    resolver.stop()
    wait_for_tasks()


def test_another_variant_is_another_version(state: State, tmp_path: Path, index: LayoutBuilder) -> None:
    versions = set()
    for quantization in ("q4_0", "q8_0"):
        desired = variants(index, variant={"quantization": quantization})
        model = desired.models[0]
        meaning = resolve(model.kit, tmp_path / "home", desired)
        assert meaning.note == ""
        version = version_of(model, PinnedReference.of(model.kit, meaning.digest), 1)
        assert version.label == "all"
        versions.add(version.app)
    assert len(versions) == 2


def test_two_variants_of_one_index_are_stable_and_canary(tmp_path: Path, index: LayoutBuilder) -> None:
    kit = f"oci-layout:{index.directory}:llm:all"
    canary = {"kit": kit, "weight": 5, "variant": {"quantization": "q8_0"}}
    desired = variants(index, variant={"quantization": "q4_0"}, canary=canary)
    stable, other = desired.models[0].kits
    digests = [resolve(kit, tmp_path / "home", desired).digest for kit in (stable, other)]
    assert digests == [Digest.parse(digest_of(index.directory, f"llm:{tag}")) for tag in ("q4", "q8")]
