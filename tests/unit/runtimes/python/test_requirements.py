"""A kit's requirements are names with versions, and nothing that leads an installer elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runtimes.errors import LoadError
from runtimes.python.requirements import find_requirements


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "src" / "kitserve.py"


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy>=2,<3",
        "numpy ~= 2.1",
        "pillow==11.0.0 --hash=sha256:0123456789abcdef",
        "uvicorn[standard] >= 0.30 ; python_version < '3.14' and sys_platform == 'linux'",
        "torch==2.6.0+cpu",
        "a",
    ],
)
def test_plain_requirements(tmp_path: Path, line: str) -> None:
    found = find_requirements(
        write(tmp_path, {"src/requirements.txt": f"# why\n\n{line}  # this\n"}), tmp_path
    )
    assert found is not None
    assert found.lines == (line,)
    assert found.wheels == ()


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://evil.example/simple",
        "-i https://evil.example/simple",
        "--extra-index-url=https://evil.example",
        "--find-links /tmp",
        "-r ../other.txt",
        "-c constraints.txt",
        "-e .",
        ".",
        "./local",
        "/etc/passwd",
        "pkg @ https://evil.example/pkg.whl",
        "pkg@git+https://evil.example/pkg",
        "https://evil.example/pkg.whl",
        "git+ssh://evil.example/pkg",
        "file:///tmp/pkg.whl",
        "pkg --global-option=x",
        "pkg ; python_version > '3' @ https://evil.example",
        "numpy \\\n --index-url https://evil.example",
        "$HOME",
    ],
)
def test_what_leads_elsewhere_is_refused(tmp_path: Path, line: str) -> None:
    entry = write(tmp_path, {"src/requirements.txt": f"numpy\n{line}\n"})
    with pytest.raises(LoadError, match=r"requirements\.txt: .* is no plain requirement: write names"):
        find_requirements(entry, tmp_path)


def test_they_are_beside_the_entry_or_above_it_within_the_kit(tmp_path: Path) -> None:
    root = tmp_path / "kit"
    entry = write(root, {"src/empty": "", "wheels/b-1-py3-none-any.whl": "", "wheels/notes.txt": ""})
    write(tmp_path, {"requirements.txt": "outside"})
    assert find_requirements(entry, root) is None
    write(root, {"requirements.txt": "above"})
    found = find_requirements(entry, root)
    assert found is not None
    assert (found.lines, found.wheel_directory) == (("above",), root / "wheels")
    assert [wheel.name for wheel in found.wheels] == ["b-1-py3-none-any.whl"]
    write(root, {"src/requirements.txt": "beside"})
    found = find_requirements(entry, root)
    assert found is not None
    assert found.lines == ("beside",)


def test_a_file_without_requirements_is_none(tmp_path: Path) -> None:
    assert find_requirements(write(tmp_path, {"requirements.txt": "# none\n"}), tmp_path) is None


def test_a_long_run_of_blanks_takes_no_time(tmp_path: Path) -> None:
    started = time.process_time()
    with pytest.raises(LoadError, match="is no plain requirement"):
        find_requirements(write(tmp_path, {"requirements.txt": "a" + " " * 100_000 + "!"}), tmp_path)
    assert time.process_time() - started < 5
