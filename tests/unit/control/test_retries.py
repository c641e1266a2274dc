"""What is tried again when, by a clock that the tests turn on."""

from __future__ import annotations

import pytest

from gateway.contract import Passing
from gateway.control.loop.retries import Retries, failures_among, host_of
from gateway.control.state.versions import Kind
from gateway.errors import (
    DigestMismatch,
    InvalidKitfile,
    KitserveError,
    NotAKit,
    NotFound,
    NotTrusted,
    RegistryUnavailable,
    SizeMismatch,
    StoreError,
    Unauthorized,
    UnsafeArchive,
    UnusableModel,
)
from gateway.oci.reference import Digest, parse_reference
from tests.support.clock import Clock

HOST = "registry.test"
AWAY, OWN = Passing(away_host=HOST), Passing()
KIT, OTHER = parse_reference(f"{HOST}/iris:v1"), parse_reference(f"{HOST}/iris:v2")
PARENT = parse_reference("parents.test/iris:v1")
KIND = Kind("iris", "v1", Digest.of(b"v1"), "01234567")
GENERATION = 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retries(clock: Clock) -> Retries:
    retries = Retries(clock, jitter=lambda: 0.0)
    retries.use(GENERATION)
    return retries


def fail(retries: Retries, subject: object, passing: Passing, reason: str = "no answer") -> None:
    retries.fail(subject, HOST, GENERATION, reason, passing)


def seconds_to_next_try(retries: Retries, clock: Clock, subject: object) -> float:
    """Turn the clock on until a subject may be tried; returns for how long."""
    start = clock.now
    while not retries.begin(subject, HOST):
        clock.now += 0.5
        assert clock.now < start + 7200
    return clock.now - start


@pytest.mark.parametrize("passing", [AWAY, OWN])
def test_pauses_grow_up_to_five_minutes_and_never_end(
    retries: Retries, clock: Clock, passing: Passing
) -> None:
    pauses = []
    assert retries.begin(KIT, HOST)
    for _ in range(20):
        fail(retries, KIT, passing)
        pauses.append(seconds_to_next_try(retries, clock, KIT))
    assert pauses[:8] == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 250.0, 250.0]
    assert pauses == sorted(pauses)


def test_chance_makes_a_pause_longer_but_no_longer_than_five_minutes(clock: Clock) -> None:
    retries = Retries(clock, jitter=lambda: 1.0)
    retries.use(GENERATION)
    for tries in range(1, 10):
        retries.begin(KIT, HOST)
        fail(retries, KIT, OWN)
        pause = seconds_to_next_try(retries, clock, KIT)
        assert pause <= 300.0
        assert pause >= (6.0 if tries == 1 else 12.0)


def test_a_registry_may_ask_for_a_longer_pause(retries: Retries, clock: Clock) -> None:
    retries.begin(KIT, HOST)
    fail(retries, KIT, Passing(HOST, retry_after=1800.0))
    assert retries.waiting()[KIT].seconds == 1800.0
    assert seconds_to_next_try(retries, clock, OTHER) == 1800.0


def test_what_is_being_tried_is_not_begun_again_and_waits_for_nothing(retries: Retries) -> None:
    assert retries.begin(KIT, HOST)
    assert not retries.begin(KIT, HOST)
    assert retries.waiting() == {}


def test_one_registry_has_one_pause_and_another_has_its_own(retries: Retries, clock: Clock) -> None:
    retries.begin(KIT, HOST)
    fail(retries, KIT, AWAY)
    assert not retries.begin(OTHER, HOST)
    assert retries.begin(KIND, "another.test")
    clock.now += 5.0
    assert retries.begin(OTHER, HOST)
    assert not retries.begin(KIT, HOST), "one of them asks"
    retries.settle(OTHER)
    assert retries.begin(KIT, HOST), "the registry answers"


@pytest.mark.parametrize("passing", [AWAY, OWN])
def test_tries_at_the_same_time_count_as_one(retries: Retries, passing: Passing) -> None:
    for subject in (KIT, OTHER, KIND):
        assert retries.begin(subject, HOST)
    for subject in (KIT, OTHER, KIND):
        fail(retries, subject, passing)
    assert {retry.tries for retry in retries.waiting().values()} == {1}


def test_a_kit_that_fails_by_itself_makes_no_other_wait(retries: Retries) -> None:
    retries.begin(KIT, HOST)
    fail(retries, KIT, OWN)
    assert not retries.begin(KIT, HOST)
    assert retries.begin(OTHER, HOST)


def test_a_kit_whose_parents_registry_is_away_waits_for_that_one(retries: Retries, clock: Clock) -> None:
    assert retries.begin(KIT, HOST)
    fail(retries, KIT, Passing(away_host="parents.test"))
    assert not retries.begin(KIT, HOST)
    assert retries.begin(OTHER, HOST), "its own registry answers"
    assert not retries.begin(PARENT, "parents.test")
    clock.now += 5.0
    assert retries.begin(PARENT, "parents.test")
    retries.settle(PARENT)
    assert retries.begin(KIT, HOST)


def test_few_references_of_one_registry_are_resolved_at_once_and_versions_do_not_count(
    retries: Retries,
) -> None:
    for number in range(20):
        assert retries.begin(f"version {number}", HOST)
    kits = [parse_reference(f"{HOST}/kit{number}:v1") for number in range(20)]
    begun = [kit for kit in kits if retries.begin(kit, HOST, is_limited=True)]
    assert begun == kits[:8]
    assert retries.begin(KIT, "another.test", is_limited=True)
    assert retries.begin(KIND, "", is_limited=True), "a kit on this machine has no registry"
    retries.settle(kits[0])
    assert retries.begin(kits[10], HOST, is_limited=True)


def test_another_config_begins_anew_and_hears_nothing_of_the_last_one(retries: Retries) -> None:
    retries.begin(KIT, HOST)
    fail(retries, KIT, OWN)
    retries.use(GENERATION)
    assert not retries.begin(KIT, HOST)
    retries.use(GENERATION + 1)
    assert (retries.waiting(), retries.begin(KIT, HOST)) == ({}, True)
    fail(retries, OTHER, AWAY)
    assert retries.waiting() == {}


def test_a_version_that_is_tried_again_has_not_failed_and_a_reference_still_has(
    retries: Retries, clock: Clock
) -> None:
    for subject in (KIT, KIND):
        retries.begin(subject, HOST)
        fail(retries, subject, OWN, "no such tag")
    assert failures_among(retries.waiting()) == {KIT: "no such tag", KIND: "no such tag"}
    clock.now += 5.0
    assert retries.begin(KIND, HOST)
    assert retries.begin(KIT, HOST)
    assert failures_among(retries.waiting()) == {KIT: "no such tag"}
    assert (retries.waiting()[KIT].is_trying, retries.waiting()[KIT].seconds) == (True, 0.0)


def test_a_reference_of_a_silent_registry_is_late_at_first_and_a_version_may_not_run(
    retries: Retries,
) -> None:
    for subject in (KIT, KIND):
        retries.begin(subject, HOST)
        fail(retries, subject, AWAY)
    assert failures_among(retries.waiting()) == {KIND: "no answer"}
    assert not retries.waiting()[KIND].has_failed


def test_what_is_not_wanted_any_more_is_forgotten_unless_it_is_being_tried(retries: Retries) -> None:
    for subject in (KIT, KIND):
        retries.begin(subject, HOST)
        fail(retries, subject, OWN)
    retries.forget(lambda subject: subject != KIND)
    assert list(retries.waiting()) == [KIT]
    assert retries.begin(KIND, HOST), "at once, where it is wanted again"
    retries.forget(lambda subject: subject == KIT)
    assert not retries.begin(KIND, HOST)


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (RegistryUnavailable("no answer", away_host=HOST), Passing(HOST)),
        (RegistryUnavailable("429", away_host=HOST, retry_after=7.0), Passing(HOST, 7.0)),
        (RegistryUnavailable("a redirect that is not safe"), Passing()),
        (Unauthorized("401"), Passing()),
        (NotFound("404"), Passing()),
        (StoreError("the disk is full"), Passing()),
        (OSError(24, "too many open files"), Passing()),
        (DigestMismatch("wrong"), None),
        (SizeMismatch("short"), None),
        (NotAKit("a chart"), None),
        (InvalidKitfile("no YAML"), None),
        (UnsafeArchive("../.."), None),
        (UnusableModel("a pickle"), None),
        (NotTrusted("no signature"), None),
        (KitserveError("anything else"), None),
        (ValueError("a bug"), None),
    ],
)
def test_what_may_pass_by_itself(error: Exception, passing: Passing | None) -> None:
    assert Passing.of(error) == passing


def test_only_registries_have_hosts() -> None:
    assert host_of(parse_reference("oci-layout:/kits:iris:v1")) == ""
    assert host_of(KIT) == HOST
