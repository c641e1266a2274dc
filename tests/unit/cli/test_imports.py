"""What commands import before they do anything: a person waits for it, also at each press of the Tab key.

Each is run in a process of its own, and may import nothing that takes tens of milliseconds and that it does
not need. `python -X importtime -m gateway.cli --help` shows where a module comes from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NEVER = (
    "cryptography",
    "fastapi",
    "jsonschema",
    "jinja2",
    "onnxruntime",
    "oras",
    "ray",
    "requests",
    "scipy",
    "sklearn",
    "starlette",
    "torch",
    "uvicorn",
)
"""What no command imports that only asks a Kitserve."""
OF_CONFIGS = ("gateway.config.config", "numpy", "yaml")
"""What they import only for a config. Pydantic is not here, as Typer imports it for each command."""
OF_CALLS = ("http.client", "ssl")
PROGRAM = """
import json, sys
from gateway.cli.__main__ import main
try:
    main()
except SystemExit as ended:
    pass
print()
print(json.dumps(sorted(sys.modules)))
"""


def modules_of(home: Path, *arguments: str, **variables: str) -> tuple[str, set[str]]:
    """Return what a command prints, and the names of all modules that it imported."""
    environment = {**os.environ, "KITSERVE_HOME": str(home), **variables}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text, _, names = ended.stdout.rstrip("\n").rpartition("\n")
    return text + ended.stderr, set(json.loads(names))


def check(modules: set[str], *forbidden: str) -> None:
    imported = [name for name in forbidden if name in modules]
    assert imported == [], f"imported, and not needed: {', '.join(imported)}"


def test_the_help_of_kitserve(tmp_path: Path) -> None:
    text, modules = modules_of(tmp_path, "--help")
    assert "rollout" in text
    check(modules, *NEVER, *OF_CONFIGS, *OF_CALLS)
    own = {name for name in modules if name.startswith(("gateway", "runtimes"))}
    assert len(own) <= 30, sorted(own)


@pytest.mark.parametrize(
    "arguments", [("status",), ("rollout", "status", "iris"), ("logs", "--help")], ids=" ".join
)
def test_commands_that_only_ask(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    text, modules = modules_of(tmp_path, *arguments, KITSERVE_ADMIN="127.0.0.1:9")
    assert "no Kitserve answers" in text or "Usage" in text
    check(modules, *NEVER, *OF_CONFIGS)


def test_apply_reads_a_config_and_no_kit(tmp_path: Path) -> None:
    file = tmp_path / "kitserve.yaml"
    file.write_text("models: [{name: iris, kit: 'registry.test/iris:v1'}]")
    text, modules = modules_of(tmp_path, "apply", str(file), KITSERVE_ADMIN="127.0.0.1:9")
    assert "no Kitserve answers" in text
    check(modules, *NEVER, "gateway.kits.library", "gateway.kits.trust", "numpy")


@pytest.mark.parametrize("words", [("st",), ("status", ""), ("rollout", "")], ids=" ".join)
def test_the_tab_key(tmp_path: Path, words: tuple[str, ...]) -> None:
    _, modules = modules_of(
        tmp_path,
        _KITSERVE_COMPLETE="complete_bash",
        COMP_WORDS="\n".join(("kitserve", *words)),
        COMP_CWORD=str(len(words)),
        KITSERVE_ADMIN="127.0.0.1:9",
    )
    check(modules, *NEVER, *OF_CONFIGS)


def test_what_is_written_and_sent_needs_no_registry_no_key_and_no_array() -> None:
    names = "gateway.config.config, gateway.contract, gateway.kits.policy"
    program = f"import json, sys, {names}; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    check(set(json.loads(ended.stdout)), *NEVER, "numpy")
