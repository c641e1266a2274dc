from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidKitfile, KitError, NotFound
from gateway.kits.dialects import read_kitfile
from gateway.kits.indexes import choose_kit, is_index
from gateway.kits.kit import Kit
from gateway.kits.layer import LAYER_TYPES, Archive, Role
from gateway.kits.manifest import parse_manifest
from gateway.kits.paths import safe_path
from gateway.oci.content import OCI_INDEX, OCI_MANIFEST, Descriptor
from gateway.oci.reference import Digest, LocalReference
from tests.support.artifacts import MODELKIT, sha256

REFERENCE = LocalReference("localhost", "x", "v1", None)
ESSENTIAL = ("schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "annotations")

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_digest = st.sampled_from([sha256(bytes([number])) for number in range(4)]) | st.text(max_size=12)
_path = st.sampled_from(["model", "a/b", "./c", "../x", "/etc/x", "", "a//b", "ü"]) | st.text(max_size=8)
_descriptor = st.fixed_dictionaries(
    {
        "mediaType": st.sampled_from([*LAYER_TYPES, f"{MODELKIT}.config.v1+json", "x/y"]),
        "digest": _digest,
        "size": st.integers(-1, 9) | _json,
    },
    optional={"annotations": st.dictionaries(st.just("org.cncf.model.filepath"), _path), "urls": _json},
)
_manifest = st.fixed_dictionaries(
    {
        "schemaVersion": st.just(2) | _json,
        "config": _descriptor
        | st.just({"mediaType": f"{MODELKIT}.config.v1+json", "digest": sha256(b""), "size": 0}),
        "layers": st.lists(_descriptor, max_size=4) | _json,
    },
    optional={
        "mediaType": st.sampled_from([OCI_MANIFEST, OCI_INDEX]),
        "manifests": _json,
        "annotations": _json,
    },
)
_entry = st.fixed_dictionaries(
    {}, optional={"path": _path | _json, "digest": _digest, "diffId": _digest, "parts": _json}
)
_kitfile = st.fixed_dictionaries(
    {},
    optional={
        "package": _json,
        "model": _entry | _json,
        "code": st.lists(_entry, max_size=2) | _json,
        "datasets": st.lists(_entry, max_size=2) | _json,
    },
)


def _refusal(call: Callable[[], object]) -> str | None:
    """Return the message of a refusal, None where the call succeeds."""
    try:
        call()
    except KitError as error:
        return str(error)
    return None


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60) | (_json | _manifest).map(lambda value: json.dumps(value).encode()))
def test_any_document_is_a_kit_or_refused_by_name(data: bytes) -> None:
    message = _refusal(lambda: parse_manifest(data, "r.io/x:v1"))
    assert message is not None or not is_index(data)
    assert message is None or (message.startswith("r.io/x:v1") and len(message) < 5000)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | (_json | _manifest).map(lambda value: json.dumps(value).encode()))
def test_any_index_without_a_kit_is_refused_by_name(data: bytes) -> None:
    def read(descriptor: Descriptor) -> bytes:
        raise NotFound(str(descriptor.digest))

    message = _refusal(lambda: choose_kit(data, "r.io/x:v1", read))
    assert message is not None
    assert message.startswith("r.io/x:v1")


@given(st.sampled_from(ESSENTIAL), st.data())
def test_an_essential_name_is_taken_in_one_case_only(name: str, data: st.DataObject) -> None:
    upper = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    other = "".join(letter.upper() if up else letter.lower() for letter, up in zip(name, upper, strict=True))
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": f"{MODELKIT}.config.v1+json", "digest": sha256(b""), "size": 0},
        "layers": [],
    }
    changed = {**document, other: document.get(name)}
    message = _refusal(lambda: parse_manifest(json.dumps(changed).encode(), "r"))
    assert (message is None) == (other == name != "manifests")


_packed = st.tuples(
    st.sampled_from(["model", "part", "code", "datasets", "docs", "prompts"]),
    st.sampled_from(["tar", "tar+gzip", "raw", "raw+zstd"]),
    st.integers(0, 3),
    st.none() | _path,
    _path,
)
_BASES = {"model": "model", "part": "modelpart", "datasets": "dataset", "prompts": "code"}


def _kit(packed: list[tuple[str, str, int, str | None, str]], changed: dict[str, Any]) -> Kit:
    """Match a manifest with a Kitfile that says the same, but for what is changed in it."""
    layers: list[dict[str, Any]] = []
    kitfile: dict[str, Any] = {"model": {"parts": []}}
    for kind, packing, number, annotated, path in packed:
        digest = sha256(bytes([number]))
        notes = {} if annotated is None else {"org.cncf.model.filepath": annotated}
        media_type = f"{MODELKIT}.{_BASES.get(kind, kind)}.v1.{packing}"
        layers.append({"mediaType": media_type, "digest": digest, "size": 1, "annotations": notes})
        entry = {"path": path, "digest": digest}
        if kind == "model":
            kitfile["model"].update(entry)
        elif kind == "part":
            kitfile["model"]["parts"].append(entry)
        else:
            kitfile.setdefault(kind, []).append(entry)
    config = {"mediaType": f"{MODELKIT}.config.v1+json", "digest": sha256(b""), "size": 0}
    document = {"schemaVersion": 2, "config": config, "layers": layers}
    read = parse_manifest(json.dumps(document).encode(), "r")
    data = json.dumps({**kitfile, **changed}).encode()
    return Kit.of(REFERENCE, Digest.of(b""), read, read_kitfile(read, data, "r"))


@settings(max_examples=400, deadline=None)
@given(st.lists(_packed, max_size=4), st.just({}) | _kitfile)
def test_what_is_to_be_unpacked_stays_inside(
    packed: list[tuple[str, str, int, str | None, str]], changed: dict[str, Any]
) -> None:
    try:
        kit = _kit(packed, changed)
    except InvalidKitfile:
        return
    event("matched")
    assert len(kit.layers) == len(packed)
    assert safe_path(kit.model_name) == kit.model_name
    needed = [kind for kind, *_ in packed if kind in ("model", "part")]
    roles = [layer.role for layer in kit.needed_layers()]
    assert len([role for role in roles if role in (Role.MODEL, Role.PART)]) == len(needed)
    for layer in kit.needed_layers(with_code=True):
        assert layer.role in (Role.MODEL, Role.PART, Role.CODE) or layer == kit.system_prompt
        assert safe_path(layer.root) == layer.root
        assert layer.archive is Archive.TAR or safe_path(layer.path or "")


_unknown = st.tuples(
    st.sampled_from(["code", "docs", "dataset", "agent", "x"]),
    st.sampled_from(["tar", "tar+gzip", "raw", "tar+xz"]),
    st.sampled_from(["prompt", "agent", "workflow"]) | st.text(max_size=6),
    st.none() | _path,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_unknown, max_size=4), st.text(min_size=1, max_size=8).filter(lambda name: name != "model"))
def test_sections_that_are_not_known_never_refuse_a_kit(
    unknown: list[tuple[str, str, str, str | None]], section: str
) -> None:
    """Whatever a newer packer adds as layers, and as a section of the Kitfile, the model is served."""
    model = {"path": "m.gguf", "digest": sha256(b"model"), "diffId": sha256(b"model")}
    layers = [{"mediaType": f"{MODELKIT}.model.v1.tar", "digest": model["digest"], "size": 1}]
    entries = []
    for number, (base, packing, subtype, path) in enumerate(unknown):
        notes = {"ml.kitops.modelkit.layer-subtype": subtype}
        notes |= {} if path is None else {"org.cncf.model.filepath": path}
        digest = sha256(bytes([number]))
        entries.append({"path": path, "digest": digest})
        media_type = f"{MODELKIT}.{base}.v1.{packing}"
        layers.append({"mediaType": media_type, "digest": digest, "size": 1, "annotations": notes})
    config = {"mediaType": f"{MODELKIT}.config.v1+json", "digest": sha256(b""), "size": 0}
    document = {"schemaVersion": 2, "config": config, "layers": layers}
    read = parse_manifest(json.dumps(document).encode(), "r")
    known = ("code", "docs", "datasets", "prompts", "mcpServers", "package", "manifestVersion")
    kitfile = {"model": model} | ({} if section in known else {section: entries})
    kit = Kit.of(REFERENCE, Digest.of(b""), read, read_kitfile(read, json.dumps(kitfile).encode(), "r"))
    assert (kit.model_name, [layer.role for layer in kit.needed_layers()]) == ("m.gguf", [Role.MODEL])
