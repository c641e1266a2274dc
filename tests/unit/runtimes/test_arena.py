"""Memory that comes and goes in an arena that extends by what is asked for."""

from __future__ import annotations

from runtimes.arena import Arena, Pattern

KIB = 1024


def test_what_was_given_back_is_used_again_and_the_rest_of_it_too() -> None:
    arena = Arena()
    first = arena.allocate(64 * KIB)
    arena.release(first)
    small = arena.allocate(1)
    rest = arena.allocate(63 * KIB)
    assert arena.taken == 64 * KIB
    arena.release(small)
    arena.release(rest)
    assert arena.allocate(64 * KIB) == first, "the parts are not one again"


def test_a_larger_tensor_takes_a_region_of_its_own_and_regions_never_become_one() -> None:
    arena = Arena()
    chunks = [arena.allocate(size * KIB) for size in (1, 2)]
    for chunk in chunks:
        arena.release(chunk)
    arena.allocate(3 * KIB)
    assert arena.taken == 6 * KIB


def test_a_chunk_that_is_a_little_too_large_is_taken_whole() -> None:
    arena = Arena()
    arena.release(arena.allocate(6 * KIB))
    arena.allocate(4 * KIB)
    arena.allocate(2 * KIB)
    assert arena.taken == 8 * KIB


def test_a_pattern_puts_tensors_into_the_smallest_gap_that_is_enough() -> None:
    pattern = Pattern()
    first, _, third, _ = (pattern.allocate(size) for size in (400, 10, 300, 10))
    pattern.release(first)
    pattern.release(third)
    assert pattern.allocate(250) == (410, 250)
    assert pattern.size == 720
