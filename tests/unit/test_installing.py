"""What images and releases are made of: pinned, and in step with pyproject.toml and constraints.txt."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "configs" / "image"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def normal(name: str) -> str:
    """A package's name as indexes have it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: Iterable[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=; ]", requirement)[0]) for requirement in requirements}


def pins(text: str) -> dict[str, str]:
    """The version of each package that a file pins; of a local version the public part."""
    return {
        normal(name): version for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ +\n]+)", text, re.M)
    }


def lock(name: str) -> str:
    return (LOCKS / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", ["cpu", "cuda", "build"])
def test_every_package_of_an_image_has_hashes_and_the_version_that_tests_ran_with(name: str) -> None:
    blocks = re.split(r"\n(?=\S)", lock(name).strip())
    for block in blocks:
        assert re.match(r"[a-z0-9.-]+==\S+ \\\n", block), block
        hashes = block.splitlines()[1:]
        assert hashes, block
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", line) for line in hashes), block
    tested = pins((ROOT / "constraints.txt").read_text())
    assert {
        package: version
        for package, version in pins(lock(name)).items()
        if tested.get(package, version) != version
    } == {}, "run `make lock`"


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_an_image_can_have_every_extra_for_cpus(name: str) -> None:
    extras = PROJECT["optional-dependencies"]
    (every,) = extras["all"]
    chosen = re.findall(r"\w+", every.partition("[")[2])
    # What is only for other systems is left out.
    wanted = [
        requirement
        for requirement in (*PROJECT["dependencies"], *(line for extra in chosen for line in extras[extra]))
        if not re.search(r"!= '(?:linux|x86_64)'", requirement)
    ]
    assert names(wanted) - {"kitserve"} - pins(lock(name)).keys() == set(), "run `make lock`"


def test_the_image_for_cpus_is_the_one_without_a_target_and_has_no_cuda() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.M)
    assert stages[-1][1] == "cpu"
    earlier: set[str] = {"${PYTHON_IMAGE}"}
    for base, stage in stages:
        assert base in earlier, "every base is the one that a release gives by its digest"
        earlier.add(stage)
    cpu = [package for package in pins(lock("cpu")) if package.startswith("nvidia")]
    assert cpu == ["nvidia-ml-py"], "it is Python that looks for the driver's library, and brings none"
    assert [package for package in pins(lock("cuda")) if package.startswith("nvidia")]


def test_the_image_is_built_from_files_that_are_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    (check,) = re.findall(r'^HEALTHCHECK .*"-m", "(\S+)"\]$', DOCKERFILE, re.M)
    assert importlib.util.find_spec(check) is not None


def test_the_release_uses_actions_by_their_full_commit() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yaml").read_text()
    uses = re.findall(r"uses: (.*)$", text, re.M)
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
