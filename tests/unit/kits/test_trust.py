"""The policy, and its verdict on a kit."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from gateway.errors import KitError, NotTrusted, RegistryUnavailable
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Kitfile
from gateway.kits.manifest import parse_manifest
from gateway.kits.policy import Policy
from gateway.kits.public_keys import PublicKey
from gateway.kits.trust import Verdict, judge
from gateway.oci.reference import Digest, parse_reference
from runtimes.python.requirements import Sources
from tests.support.artifacts import MODELKIT
from tests.support.signing import Shelf, Signer, claim, compact, statement

REFERENCE = "registry.example.com/prod/iris:v1"
PROD = Signer()
KEYS = (PROD.key,)


def make_kit(reference: str = REFERENCE, **kitfile: Any) -> tuple[Kit, Shelf]:
    """A kit with a model, a part, code and data, and the source that has it."""
    layers = [
        {"mediaType": f"{MODELKIT}.{role}.v1.tar", "digest": str(Digest.of(role.encode())), "size": 4}
        for role in ("model", "modelpart", "code", "dataset")
    ]
    model, part, code, dataset = (layer["digest"] for layer in layers)
    document = {
        "package": {"license": "Apache-2.0"},
        "model": {
            "path": "model",
            "digest": model,
            "parts": [{"path": "part", "digest": part, "license": kitfile.pop("part_license", None)}],
        },
        "code": [{"path": "code", "digest": code, "license": "GPL-3.0-only"}],
        "datasets": [{"path": "data", "digest": dataset, "license": "CC-BY-4.0"}],
    }
    for section, members in kitfile.items():
        document[section] |= members
    config = {"mediaType": f"{MODELKIT}.config.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
    data = compact({"schemaVersion": 2, "config": config, "layers": layers})
    shelf = Shelf(parse_reference(reference), data)
    pinned = shelf.reference.pinned(shelf.kit.digest)
    manifest = parse_manifest(data, reference)
    return Kit.of(pinned, shelf.kit.digest, manifest, Kitfile.model_validate(document)), shelf


def sign(shelf: Shelf, signer: Signer = PROD) -> None:
    shelf.tag_signatures(signer.simple(claim(shelf.kit.digest), shelf.put))


def test_a_policy_that_says_nothing_asks_nobody_and_refuses_code() -> None:
    kit, shelf = make_kit()
    verdict = judge(kit, Policy(), lambda: shelf)
    assert not verdict.code
    assert verdict.signature == "no signature is required"
    assert verdict.reasons == (
        "any registry is allowed",
        "any license is allowed; the kit states Apache-2.0",
        "no signature is required",
        "code formats are refused: the policy does not allow them for this kit",
    )
    assert shelf.requests == []


@pytest.mark.parametrize(
    ("reference", "entry"),
    [
        (REFERENCE, "registry.example.com"),
        (REFERENCE, "Registry.Example.com"),
        (REFERENCE, "registry.example.com/"),
        (REFERENCE, "registry.example.com/prod"),
        (REFERENCE, "registry.example.com/prod/"),
        (REFERENCE, "registry.example.com/prod/iris"),
        ("registry.example.com:5000/prod/iris:v1", "registry.example.com:5000"),
        ("oci-layout:kits:samples/iris:v1", "oci-layout"),
    ],
)
def test_a_registry_is_allowed_with_all_below_its_path(reference: str, entry: str) -> None:
    kit, shelf = make_kit(reference)
    verdict = judge(kit, Policy(registries=("quay.io", entry)), lambda: shelf)
    assert verdict.registry == f"{entry} is an allowed registry"


@pytest.mark.parametrize(
    ("reference", "entry"),
    [
        (REFERENCE, "registry.example.com/pro"),
        (REFERENCE, "registry.example.com/prod/iris/v1"),
        (REFERENCE, "registry.example.com/prod/iri"),
        (REFERENCE, "registry.example.com:443"),
        (REFERENCE, "example.com"),
        (REFERENCE, "registry.example.co"),
        (REFERENCE, "prod"),
        (REFERENCE, "oci-layout"),
        (REFERENCE, "/"),
        ("registry.example.com.evil.test/prod/iris:v1", "registry.example.com"),
        ("registry.example.com:5000/prod/iris:v1", "registry.example.com"),
        ("kit.example:5000/prod/iris:v1", "kit"),
        ("oci-layout:kits:samples/iris:v1", "kits"),
        ("oci-layout:kits:samples/iris:v1", "kit"),
        ("oci-layout:registry.example.com/prod:samples/iris:v1", "registry.example.com"),
    ],
)
def test_any_other_registry_is_refused_before_anything_is_asked(reference: str, entry: str) -> None:
    kit, shelf = make_kit(reference)
    with pytest.raises(NotTrusted, match=rf"{kit.digest}: the policy allows kits from {entry} only"):
        judge(kit, Policy(registries=(entry,), keys=KEYS), lambda: shelf)
    assert shelf.requests == []


@pytest.mark.parametrize(
    ("stated", "allowed"),
    [
        ("Apache-2.0", ("MIT", "apache-2.0")),
        ("mit", ("MIT",)),
        ("MIT OR GPL-3.0-only", ("MIT",)),
        ("GPL-3.0-only or MIT and Apache-2.0", ("MIT", "Apache-2.0")),
        ("MIT, Apache-2.0", ("MIT", "Apache-2.0")),
        ("MIT  AND  Apache-2.0", ("MIT", "Apache-2.0")),
        ("GPL-2.0 WITH Classpath-exception-2.0", ("gpl-2.0 with classpath-exception-2.0",)),
        ("(MIT OR Apache-2.0)", ("(MIT OR Apache-2.0)",)),
    ],
)
def test_allowed_licenses(stated: str, allowed: tuple[str, ...]) -> None:
    kit, shelf = make_kit(package={"license": stated})
    assert judge(kit, Policy(licenses=allowed), lambda: shelf).license == f"{stated} is allowed"


@pytest.mark.parametrize(
    ("kitfile", "named"),
    [
        ({"package": {"license": "GPL-3.0-only"}}, "GPL-3.0-only"),
        ({"package": {"license": "MIT AND GPL-3.0-only"}}, "MIT AND GPL-3.0-only"),
        ({"package": {"license": "MIT, GPL-3.0-only"}}, "MIT, GPL-3.0-only"),
        ({"package": {"license": "MIT,"}}, "MIT,"),
        (
            {"package": {"license": "GPL-3.0-only OR MIT AND Apache-1.1"}},
            "GPL-3.0-only OR MIT AND Apache-1.1",
        ),
        ({"package": {"license": "(MIT)"}}, r"\(MIT\)"),
        ({"package": {"license": "MIT-0"}}, "MIT-0"),
        ({"model": {"license": "llama3"}}, "llama3"),
        ({"part_license": "GPL-3.0-only"}, "GPL-3.0-only"),
        ({"package": {"license": None}}, "none"),
        ({"package": {"license": "  "}}, "none"),
    ],
)
def test_any_other_license_is_refused_before_anything_is_asked(kitfile: dict[str, Any], named: str) -> None:
    kit, shelf = make_kit(**kitfile)
    policy = Policy(licenses=("Apache-2.0", "MIT"), keys=KEYS)
    with pytest.raises(
        NotTrusted, match=rf"allows the licenses Apache-2.0, MIT only, and the kit states {named};"
    ):
        judge(kit, policy, lambda: shelf)
    assert shelf.requests == []


def test_what_serving_leaves_out_needs_no_allowed_license() -> None:
    kit, shelf = make_kit(model={"license": "MIT"})
    assert (
        judge(kit, Policy(licenses=("Apache-2.0", "MIT")), lambda: shelf).license
        == "Apache-2.0, MIT is allowed"
    )


def test_a_signature_is_asked_for_and_told() -> None:
    kit, shelf = make_kit()
    policy = Policy(keys=(Signer("keys/old.pub").key, *KEYS))
    with pytest.raises(
        NotTrusted, match=rf"{REFERENCE}@{kit.digest} is not signed: .*\(keys/old\.pub, keys/prod\.pub\)"
    ):
        judge(kit, policy, lambda: shelf)
    sign(shelf, Signer("keys/attacker.pub"))
    with pytest.raises(
        NotTrusted,
        match=rf"{REFERENCE}@{kit.digest} has no valid signature; .*none of keys/old\.pub, keys/prod",
    ):
        judge(kit, policy, lambda: shelf)
    shelf.refer_bundle(PROD.bundle(compact(statement(kit.digest))))
    assert judge(kit, policy, lambda: shelf).signature == "signed by keys/prod.pub (cosign bundle)"


def test_a_crowd_of_bad_signatures_is_not_told_in_full() -> None:
    kit, shelf = make_kit()
    shelf.tag_signatures(*[Signer().simple(claim(kit.digest), shelf.put) for _ in range(20)])
    with pytest.raises(NotTrusted, match=r"; and 12 more; sign it") as caught:
        judge(kit, Policy(keys=KEYS), lambda: shelf)
    assert len(str(caught.value)) < 1500


def test_a_signature_of_another_kit_counts_for_nothing() -> None:
    kit, shelf = make_kit()
    other, _ = make_kit(package={"license": "MIT"}, model={"path": "model"})
    assert other.digest == kit.digest
    shelf.tag_signatures(PROD.simple(claim(Digest.of(b"another")), shelf.put))
    with pytest.raises(NotTrusted, match="it is for 'sha256:"):
        judge(kit, Policy(keys=KEYS), lambda: shelf)


def test_a_registry_without_answer_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    kit, shelf = make_kit()

    def fail(_: object) -> None:
        raise RegistryUnavailable("registry.example.com gave no answer")

    monkeypatch.setattr(shelf, "referrers", fail)
    with pytest.raises(RegistryUnavailable):
        judge(kit, Policy(keys=KEYS), lambda: shelf)
    assert judge(kit, Policy(), lambda: shelf)


def test_code_is_allowed_by_digest() -> None:
    kit, shelf = make_kit()
    other = Digest.of(b"another kit")
    assert not judge(kit, Policy(code_digests=(other,)), lambda: shelf).code
    verdict = judge(kit, Policy(code_digests=(other, kit.digest)), lambda: shelf)
    assert verdict.code
    assert verdict.reasons[-1] == "code formats are allowed: the policy lists the kit's digest"
    assert shelf.requests == []


def test_code_is_allowed_if_signed() -> None:
    kit, shelf = make_kit()
    policy = Policy(keys=KEYS, code_if_signed=True)
    with pytest.raises(NotTrusted):
        judge(kit, policy, lambda: shelf)
    sign(shelf)
    assert judge(kit, policy, lambda: shelf).code
    assert not judge(kit, Policy(keys=KEYS), lambda: shelf).code
    assert not judge(kit, Policy(keys=KEYS, code_digests=(Digest.of(b"x"),)), lambda: shelf).code


def test_every_rule_must_hold() -> None:
    kit, shelf = make_kit()
    sign(shelf)
    policy = Policy(
        registries=("registry.example.com/prod",),
        licenses=("Apache-2.0",),
        keys=KEYS,
        code_digests=(kit.digest,),
    )
    assert judge(kit, policy, lambda: shelf).code
    changes: tuple[dict[str, Any], ...] = (
        {"registries": ("quay.io",)},
        {"licenses": ("MIT",)},
        {"keys": (Signer().key,)},
    )
    for change in changes:
        with pytest.raises(NotTrusted):
            judge(kit, replace(policy, **change), lambda: shelf)


def test_code_if_signed_without_keys_is_a_fault() -> None:
    with pytest.raises(ValueError, match="no keys are given"):
        Policy(code_if_signed=True)


def test_keys_rotate_with_overlap() -> None:
    kit, shelf = make_kit()
    old, new = Signer("keys/2025.pub"), Signer("keys/2026.pub", "ed25519")
    sign(shelf, old)
    policy = Policy(keys=(old.key, new.key))
    assert "keys/2025.pub" in judge(kit, policy, lambda: shelf).signature
    with pytest.raises(NotTrusted):
        judge(kit, Policy(keys=(new.key,)), lambda: shelf)
    shelf.refer_bundle(new.bundle(compact(statement(kit.digest))))
    assert "keys/2026.pub" in judge(kit, Policy(keys=(new.key,)), lambda: shelf).signature


FULL = Policy(("a.example",), ("MIT",), KEYS, (Digest.of(b"a"),), code_if_signed=True)
CHANGES: dict[str, Any] = {
    "registries": ("a.example", "b.example"),
    "licenses": ("Apache-2.0",),
    "keys": (PublicKey("other name", KEYS[0].pem),),
    "code_digests": (Digest.of(b"b"),),
    "code_if_signed": False,
    "requirements": Sources.INDEX,
    "known_pickles": False,
}


def test_the_fingerprint_tells_policies_apart() -> None:
    assert CHANGES.keys() == {field.name for field in fields(Policy)}
    policies = [Policy(), FULL, *(replace(FULL, **{name: value}) for name, value in CHANGES.items())]
    policies.append(replace(FULL, registries=(), licenses=("a.example", "MIT")))
    policies.append(replace(FULL, keys=(Signer().key,)))
    assert len({policy.fingerprint for policy in policies}) == len(policies)
    assert len(FULL.fingerprint) == 16
    assert replace(FULL).fingerprint == FULL.fingerprint


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    program = "from gateway.kits.policy import Policy; print(Policy(('a',), ('b',)).fingerprint)"
    fingerprints = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert fingerprints == {Policy(("a",), ("b",)).fingerprint}


def test_policies_and_verdicts_travel_between_processes() -> None:
    verdict = Verdict("any", "any", "none", code=False, code_reason="refused")
    for value in (FULL, verdict):
        assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(FrozenInstanceError):
        FULL.code_if_signed = False  # type: ignore[misc]
    error = pickle.loads(pickle.dumps(NotTrusted("kit: said so")))
    assert (type(error), str(error)) == (NotTrusted, "kit: said so")
    assert isinstance(error, KitError)
