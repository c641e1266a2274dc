"""What ONNX Runtime refuses is told with what would do instead; the engine itself gives its texts."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from runtimes import onnx_advice
from runtimes.base import Resources
from runtimes.errors import LoadError
from runtimes.onnx import OnnxRuntime
from runtimes.onnx_advice import RELEASES, Versions, advice, check, versions
from tests.support.model_files import chunk, identity_onnx, node, number, onnx_model, value_info


def model(ir: int = 8, **opsets: int) -> bytes:
    """`y = x`, with these versions; a domain's dots are written as underscores, and `onnx` is ""."""
    data = number(1, ir)
    for name, version in opsets.items():
        domain = "" if name == "onnx" else name.replace("_", ".")
        data += chunk(8, chunk(1, domain) + number(2, version))
    return data + identity_onnx(domains=()).removeprefix(number(1, 8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(LoadError) as caught:
        OnnxRuntime().load(path, Resources())
    return str(caught.value)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine itself refuses, as one does of which the table says nothing."""
    monkeypatch.setattr(onnx_advice, "_installed", lambda: None)


def test_the_versions_of_a_file(path: Path) -> None:
    path.write_bytes(model(9, onnx=17, ai_onnx_ml=3, com_microsoft=1))
    assert versions(path) == Versions(ir=9, opset=17, ml_opset=3)
    path.write_bytes(model(9, ai_onnx=18))
    assert versions(path) == Versions(ir=9, opset=18, ml_opset=None)


def test_the_table_is_right_of_the_engine_installed(path: Path, unchecked: None) -> None:
    major, minor = (int(part) for part in ort.__version__.split(".", 2)[:2])
    release = [release for release in RELEASES if release.number <= (major, minor)][-1]
    newest = {"onnx": release.opset, "ai_onnx_ml": release.ml_opset}
    path.write_bytes(model(release.ir, **newest))
    OnnxRuntime().load(path, Resources()).close()
    assert "up to" in refusal(path, model(release.ir + 1, onnx=17))
    for name, opset in newest.items():
        assert "up to" in refusal(path, model(8, **{"onnx": 17, name: opset + 1}))


@pytest.mark.parametrize(
    ("data", "installed", "text"),
    [
        (
            model(11, onnx=17),
            "1.22.1",
            r"has the IR version 11, and up to 10 can be read: install onnxruntime 1\.23",
        ),
        (
            model(14, onnx=17),
            "1.31.1",
            r"has .*14, and up to 13 can be read: install onnxruntime 1\.32 or newer, or lower the",
        ),
        (
            model(99, onnx=17),
            "1.31.1",
            r"has .*99, and .* no onnxruntime up to 1\.32 is known to read it, so install a newer one",
        ),
        (
            model(8, onnx=23),
            "1.20.0",
            r"uses opset 23 of ai\.onnx, and up to 21 .* 1\.23 or newer, or export it",
        ),
        (model(8, ai_onnx=23), "1.20.0", r"uses opset 23 of ai\.onnx, and up to 21 can be read"),
        (
            model(8, onnx=17, ai_onnx_ml=6),
            "1.20.0",
            r"uses opset 6 of ai\.onnx\.ml, and up to 5 .* with opset 5 ",
        ),
    ],
)
def test_what_is_too_new_is_told_without_the_engine(
    path: Path, data: bytes, installed: str, text: str
) -> None:
    path.write_bytes(data)
    with pytest.raises(LoadError, match=rf"^{path} {text}") as caught:
        check(path, installed)
    assert str(caught.value).endswith(f"(ONNX Runtime {installed} is installed)")


@pytest.mark.parametrize("installed", ["1.19.2", "1.33.0", "2.0", "dev"])
def test_nothing_is_claimed_of_a_release_that_is_not_known(path: Path, installed: str) -> None:
    path.write_bytes(model(99, onnx=99))
    check(path, installed)


def test_opsets_are_left_to_an_engine_that_takes_them_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOW_RELEASED_ONNX_OPSET_ONLY", "0")
    path.write_bytes(model(8, onnx=99))
    check(path, "1.20.0")


def test_the_engine_that_refuses_is_quoted_after_what_to_do(path: Path, unchecked: None) -> None:
    text = refusal(path, model(99, onnx=17))
    assert text.startswith(f"{path} has the IR version 99, and up to ")
    assert "or lower the version in the file" in text
    assert f"(ONNX Runtime {ort.__version__}: [ONNXRuntimeError] : 1 : FAIL : " in text
    text = refusal(path, model(8, onnx=99))
    assert text.startswith(f"{path} uses opset 99 of ai.onnx, and up to ")
    text = refusal(path, model(8, onnx=17, ai_onnx_ml=99))
    assert text.startswith(f"{path} uses opset 99 of ai.onnx.ml, and up to ")


def normalizer(locale: str) -> bytes:
    texts = {"locale": locale, "case_change_action": "LOWER"}
    attributes = b"".join(
        chunk(5, chunk(1, name) + chunk(4, text) + number(20, 3)) for name, text in texts.items()
    )
    return onnx_model(
        [node("StringNormalizer", ["x"], ["y"], attributes=attributes)],
        [value_info("x", 8, ["n"])],
        [value_info("y", 8, ["m"])],
    )


def test_a_missing_locale_is_told_with_the_command_that_installs_it(path: Path) -> None:
    text = refusal(path, normalizer("xx_XX.UTF-8"))
    assert text.startswith(
        f"{path} normalises text by the locale xx_XX.UTF-8, which this machine does not have: install it, on "
        "Debian and Ubuntu with `apt-get install locales && localedef -i xx_XX -f UTF-8 xx_XX.UTF-8` ("
    )


def test_a_locale_that_is_no_name_is_put_into_no_command(path: Path) -> None:
    text = refusal(path, normalizer("xx_XX.UTF-8; rm -rf ~"))
    assert text.startswith(f"{path} needs a locale that this machine does not have: install it, or export")


def test_an_operator_that_the_opset_lacks(path: Path) -> None:
    nodes = [node("Gelu", ["x"], ["y"])]
    text = refusal(path, onnx_model(nodes, [value_info("x", 1, [2])], [value_info("y", 1, [2])]))
    assert text.startswith(f"{path} uses the operator Gelu, which opset 17 does not have: export it again")


def test_an_operator_without_a_kernel() -> None:
    text = advice(
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Conv(11) node"
    )
    assert text is not None
    assert text.startswith("uses the operator Conv(11) in a form that this ONNX Runtime cannot compute: ")


def test_other_refusals_are_quoted_as_they_are(path: Path) -> None:
    nodes = [node("Add", ["x", "nowhere"], ["y"])]
    text = refusal(path, onnx_model(nodes, [value_info("x", 1, [2])], [value_info("y", 1, [2])]))
    assert text.startswith(f"ONNX Runtime {ort.__version__} refuses {path}: [ONNXRuntimeError]")
