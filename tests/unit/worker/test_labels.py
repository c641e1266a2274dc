from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.kits.kitfile import Model
from gateway.worker import labels as labels_module
from gateway.worker.labels import UnusableLabels, combined, labels_of, own_labels


def model(labels: Any = None, *parts: dict[str, Any]) -> Model:
    parameters = {} if labels is None else {"labels": labels}
    return Model.model_validate({"parameters": parameters, "parts": list(parts)})


def part(**fields: str) -> dict[str, Any]:
    return {"name": "names", "path": "data/labels.txt"} | fields


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/labels.txt").write_text("setosa\nversicolor \n\nné\n")
    return tmp_path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", "b"], {"": ("a", "b")}),
        ([0, 1.5, "x"], {"": ("0", "1.5", "x")}),
        ([], {"": ()}),
        ({"y": ["a"], "z": ["b", "c"]}, {"y": ("a",), "z": ("b", "c")}),
        ({}, {}),
    ],
)
def test_parameters_list_labels_for_all_outputs_or_for_each(value: Any, expected: Any, root: Path) -> None:
    assert labels_of(model(value, part(type="labels")), root) == expected


@pytest.mark.parametrize("named", [{"name": "labels"}, {"type": "labels"}])
def test_a_part_is_a_file_with_a_label_on_each_line(named: dict[str, str], root: Path) -> None:
    other = {"name": "tokenizer", "path": "tokenizer.json"}
    labels = labels_of(model(None, other, part(**named)), root)
    assert labels == {"": ("setosa", "versicolor", "", "né")}


@pytest.mark.parametrize("parameters", [None, [], "labels", 3, {"threshold": 0.5}, {"labels": None}])
def test_most_kits_have_none(parameters: Any, root: Path) -> None:
    plain = Model.model_validate({"parameters": parameters, "parts": [part()]})
    assert labels_of(plain, root) == {}
    assert labels_of(model(None, {"name": "labels", "remotePath": "s3://x"}), root) == {}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("a,b", "model.parameters.labels"),
        ({"y": "a"}, "model.parameters.labels.y"),
        ([["a"]], "model.parameters.labels"),
        ({"y": [None]}, "model.parameters.labels.y"),
    ],
)
def test_what_is_no_list_of_names_is_told(value: Any, where: str, root: Path) -> None:
    with pytest.raises(UnusableLabels, match=rf"^{where} in the Kitfile must be a list of names$"):
        labels_of(model(value), root)


@pytest.mark.parametrize("path", ["missing.txt", "data", "../outside.txt", "/etc/passwd"])
def test_a_part_must_be_a_file_of_the_kit(path: str, root: Path) -> None:
    (root.parent / "outside.txt").write_text("x")
    with pytest.raises(UnusableLabels, match=r"is no file of the kit$"):
        labels_of(model(None, part(type="labels", path=path)), root)


def test_a_part_must_be_text_of_a_sensible_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "data/labels.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UnusableLabels, match="is not UTF-8"):
        labels_of(model(None, part(type="labels")), root)
    monkeypatch.setattr(labels_module, "_MAX_BYTES", 3)
    with pytest.raises(UnusableLabels, match=r"is larger than 3 bytes$"):
        labels_of(model(None, part(type="labels")), root)


@pytest.mark.parametrize(
    ("kit", "own", "expected"),
    [
        ({}, {"p": ("0", "1")}, {"p": ("0", "1")}),
        ({"": ("a", "b")}, {"p": ("0", "1")}, {"": ("a", "b")}),
        ({"": ("a", "b", "c")}, {"p": ("0", "1")}, {"": ("a", "b", "c"), "p": ("0", "1")}),
        ({"p": ("a", "b")}, {"p": ("0", "1"), "q": ("x",)}, {"p": ("a", "b"), "q": ("x",)}),
        ({"": ("a", "b")}, {}, {"": ("a", "b")}),
    ],
)
def test_a_kits_labels_come_before_the_models_own(kit: Any, own: Any, expected: Any) -> None:
    assert combined(kit, own) == expected
    assert combined(expected, own) == expected


def test_what_no_json_could_hold_is_replaced_in_a_models_own_labels() -> None:
    members = ("platform", "device", "close", "signature", "infer")
    labelled: Any = SimpleNamespace(**dict.fromkeys(members, print), labels={"p": ("no", "\ud800")})
    assert own_labels(labelled) == {"p": ("no", "?")}
