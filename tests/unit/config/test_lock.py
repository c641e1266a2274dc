"""The lock of a config: what is written comes back, it fits its config or says why not, and it pins kits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config.config import GatewayConfig
from gateway.config.lock import Lock, LockedKit, load_locked, lock_path, lock_text, locked, read_lock
from gateway.control.state.database import State
from gateway.control.state.desired import desired_from
from gateway.control.state.versions import version_of
from gateway.errors import ConfigError
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference

FIRST, SECOND, BASE = (Digest.of(name) for name in (b"first", b"second", b"base"))
PARENT = PinnedReference.parse(f"r.io/base:v1@{BASE}")
IRIS = parse_reference("r.io/iris:v1")
LOCK = Lock({IRIS: LockedKit(FIRST, (PARENT,)), parse_reference("r.io/a:v1[auto]"): LockedKit(SECOND)})


def config(**fields: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"models": [{"name": "iris", "kit": "r.io/iris:v1", **fields}]})


def faults(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read_lock(path, Path("kitserve.yaml"))
    return raised.value.faults


def test_a_lock_is_beside_its_config_and_has_its_name() -> None:
    assert lock_path(Path("a/kitserve.yaml")) == Path("a/kitserve.lock")
    assert lock_path(Path("prod.v2.json")) == Path("prod.v2.lock")


def test_what_is_written_comes_back_and_is_sorted(tmp_path: Path) -> None:
    path = tmp_path / "kitserve.lock"
    path.write_text(lock_text(LOCK, Path("kitserve.yaml")))
    assert read_lock(path, Path("kitserve.yaml")) == LOCK
    assert path.read_text() == (
        "# Written by `kitserve lock kitserve.yaml`: review changes, and do not edit.\n"
        f"version: 1\nkits:\n  r.io/a:v1[auto]:\n    digest: {SECOND}\n"
        f"  r.io/iris:v1:\n    digest: {FIRST}\n    parents:\n    - {PARENT}\n"
    )
    backwards = Lock(dict(reversed(list(LOCK.kits.items()))))
    assert lock_text(backwards, Path("kitserve.yaml")) == path.read_text()


def test_a_broken_lock_has_a_line_for_each_fault(tmp_path: Path) -> None:
    path = tmp_path / "kitserve.lock"
    assert faults(path) == ["there is no lock; write it with `kitserve lock kitserve.yaml`"]
    path.write_text(
        "version: 2\nkits:\n  r.io/a:v1:\n    digest: 12\n    parents: [r.io/b:v1]\n    note: x\n"
    )
    assert [line.partition(":")[0] for line in faults(path)] == ["line 1", "line 4", "line 5", "line 6"]
    path.write_text("<<<<<<< HEAD\nversion: 1\n=======\n")
    assert "this is no YAML" in faults(path)[0]


def test_a_lock_fits_a_config_with_the_same_kits_however_they_are_run() -> None:
    lock = Lock({IRIS: LockedKit(FIRST)})
    assert lock.differences(config(replicas=2)) == []
    assert lock.differences(config(kit="r.io/iris:v2")) == [
        "r.io/iris:v2 is in the config, and not in the lock",
        "r.io/iris:v1 is in the lock, and no longer in the config",
    ]
    assert (
        lock.differences(config(variant="auto"))[0]
        == "r.io/iris:v1[auto] is in the config, and not in the lock"
    )
    assert lock.differences(config(canary={"kit": "r.io/iris:v2", "weight": 5})) == [
        "r.io/iris:v2 is in the config, and not in the lock"
    ]


def test_a_lock_that_contradicts_a_digest_of_the_config_is_refused_with_both(tmp_path: Path) -> None:
    text = f"r.io/iris:v1@{FIRST}"
    reference = parse_reference(text)
    fault = f"{text} is pinned by the config, and the lock has another digest for it: {SECOND}"
    assert Lock({reference: LockedKit(FIRST)}).differences(config(kit=text)) == []
    assert Lock({reference: LockedKit(SECOND)}).differences(config(kit=text)) == [fault]
    canary = config(canary={"kit": text, "weight": 5})
    lock = Lock({IRIS: LockedKit(FIRST), reference: LockedKit(SECOND)})
    assert lock.differences(canary) == [fault]
    file = tmp_path / "kitserve.yaml"
    file.write_text(f"models: [{{name: iris, kit: '{text}'}}]\n")
    lock_path(file).write_text(lock_text(Lock({reference: LockedKit(SECOND)}), file))
    with pytest.raises(ConfigError) as caught:
        load_locked(file)
    assert caught.value.faults == [fault]


def test_a_lock_that_contradicts_the_parents_in_the_config_is_refused() -> None:
    text = f"r.io/iris:v1@{FIRST}"
    written = config(kit=text, parents=[str(PARENT)])
    assert Lock({parse_reference(text): LockedKit(FIRST, (PARENT,))}).differences(written) == []
    assert Lock({parse_reference(text): LockedKit(FIRST)}).differences(written) == [
        f"{text} has the parents {PARENT} in the config, and others in the lock"
    ]


def test_of_an_index_that_is_pinned_the_lock_has_the_kit_that_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "kitserve.lock"
    reference = parse_reference(f"r.io/iris@{FIRST}[auto]")
    lock = Lock({reference: LockedKit(SECOND, index=FIRST)})
    path.write_text(lock_text(lock, Path("kitserve.yaml")))
    assert f"    index: {FIRST}\n" in path.read_text()
    assert read_lock(path, Path("kitserve.yaml")) == lock
    pinned = config(kit=f"r.io/iris@{FIRST}", variant="auto")
    assert lock.differences(pinned) == []
    assert len(Lock({reference: LockedKit(SECOND, index=BASE)}).differences(pinned)) == 1


def test_a_locked_kit_is_pinned_with_its_parents_and_its_tag_is_not_followed() -> None:
    lock = Lock({IRIS: LockedKit(FIRST, (PARENT,)), parse_reference("r.io/iris:v2"): LockedKit(SECOND)})
    plain = config(track="5m", canary={"kit": "r.io/iris:v2", "weight": 5})
    pinned = locked(plain, lock)
    assert GatewayConfig.model_validate_json(pinned.model_dump_json()) == pinned
    (model,) = desired_from(pinned).models
    assert (model.kit.digest, model.track, model.parents) == (FIRST, None, (PARENT,))
    assert model.canary is not None
    assert (model.canary.kit.digest, model.canary.parents) == (SECOND, ())
    # It is the version that the tag means, and is not deployed again for the lock.
    reference = PinnedReference.of(parse_reference("r.io/iris:v2"), SECOND)
    unlocked = config(kit="r.io/iris:v2")
    same = locked(unlocked, Lock({parse_reference("r.io/iris:v2"): LockedKit(SECOND)}))
    kinds = {version_of(desired_from(each).models[0], reference, 1).kind for each in (unlocked, same)}
    assert len(kinds) == 1


def test_other_parents_make_another_version_and_are_of_their_kit_alone() -> None:
    (model,) = desired_from(locked(config(), Lock({IRIS: LockedKit(FIRST, (PARENT,))}))).models
    (plain,) = desired_from(config()).models
    version = version_of(model, PinnedReference.of(IRIS, FIRST), 1)
    assert version.parents == (PARENT,)
    assert version.kind != version_of(plain, PinnedReference.of(IRIS, FIRST), 1).kind
    assert version_of(model, PinnedReference.of(IRIS, SECOND), 1).parents == ()


def test_parents_are_kept_in_the_state(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    pinned = locked(config(), Lock({IRIS: LockedKit(FIRST, (PARENT,))}))
    state.apply(desired_from(pinned), pinned.model_dump_json())
    (model,) = state.desired().models
    assert model.parents == (PARENT,)
    version = version_of(model, PinnedReference.of(IRIS, FIRST), 1)
    state.keep_version(version)
    assert state.versions() == {version.app: version}
    state.close()


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"parents": ["r.io/base:v1"]}, "r.io/base:v1 has no digest"),
        ({"parents": [str(PARENT)]}, "the parents of r.io/iris:v1 are written, and its own digest is not"),
        ({"kit": f"r.io/iris@{FIRST}", "parents": [str(PARENT)] * 11}, "at most 10 parents"),
    ],
)
def test_parents_have_digests_and_their_kit_has_one(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        config(**fields)


def test_a_locked_file_has_absolute_paths_and_a_lock_relative_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("kitserve.yaml")
    file.write_text("models: [{name: iris, kit: 'oci-layout:kits:iris:v1'}]\n")
    reference = parse_reference("oci-layout:kits:iris:v1")
    parent = PinnedReference.parse(f"oci-layout:kits:base:v1@{BASE}")
    lock_path(file).write_text(lock_text(Lock({reference: LockedKit(FIRST, (parent,))}), file))
    (model,) = load_locked(file).models
    assert model.kit == f"oci-layout:{tmp_path}/kits:iris:v1@{FIRST}"
    assert model.parents == (f"oci-layout:{tmp_path}/kits:base:v1@{BASE}",)
    file.write_text("models: [{name: iris, kit: 'oci-layout:kits:iris:v2'}]\n")
    with pytest.raises(
        ConfigError, match=r"bring it up to date with `kitserve lock kitserve.yaml`"
    ) as caught:
        load_locked(file)
    assert str(caught.value).startswith("kitserve.lock: 2 faults"), "what to do is no fault"
