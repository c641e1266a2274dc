"""A change of a file counts once the file has stayed the same for a second, however it was changed."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.cli.file_watch import FileWatch, foreign_writer
from tests.support.clock import Clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kitserve.yaml"
    path.write_text("models: []\n")
    return path


def test_a_change_counts_once_and_when_it_is_over(file: Path) -> None:
    clock = Clock()
    watch = FileWatch(file, clock)
    assert not watch.has_changed()
    for piece in ("models:\n", "- name: a\n", "  kit: r.io/a:v1\n"):
        with file.open("a") as writing:
            writing.write(piece)
        clock.now += 0.9
        assert not watch.has_changed(), "it is still being written"
    clock.now += 1
    assert watch.has_changed()
    clock.now += 5
    assert not watch.has_changed()


def test_an_editor_that_renames_a_new_file_changes_it(file: Path) -> None:
    clock = Clock()
    watch = FileWatch(file, clock)
    new = file.with_suffix(".new")
    new.write_text(file.read_text())
    os.utime(new, ns=(file.stat().st_mtime_ns,) * 2)
    new.replace(file)
    assert not watch.has_changed()
    clock.now += 1
    assert watch.has_changed()


def test_the_link_of_a_config_map_that_leads_elsewhere_changes_it(tmp_path: Path) -> None:
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kitserve.yaml").write_text("models: []\n")
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "kitserve.yaml"
    path.symlink_to("..data/kitserve.yaml")
    clock = Clock()
    watch = FileWatch(path, clock)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    watch.has_changed()
    clock.now += 1
    assert watch.has_changed()


def test_a_file_that_is_gone_for_a_moment_has_not_changed(file: Path) -> None:
    clock = Clock()
    watch = FileWatch(file, clock)
    aside = file.rename(file.with_suffix(".old"))
    clock.now += 0.5
    assert not watch.has_changed()
    aside.rename(file)
    clock.now += 5
    assert not watch.has_changed()
    file.unlink()
    watch.has_changed()
    clock.now += 1
    assert watch.has_changed(), "gone for good, it has"


def test_who_else_may_write_a_file(file: Path) -> None:
    assert foreign_writer(file) == ""
    file.chmod(0o664)
    assert foreign_writer(file) == ""
    file.chmod(0o646)
    assert foreign_writer(file) == "every user may write to it"
    with pytest.raises(OSError, match="No such file"):
        foreign_writer(file.with_suffix(".absent"))


@pytest.mark.parametrize("place", ["file", "link", "target"])
def test_who_else_may_replace_a_file(file: Path, tmp_path: Path, place: str) -> None:
    link = tmp_path / "links" / "config"
    link.parent.mkdir()
    link.symlink_to(file)
    shared = {"file": file, "link": link, "target": file}[place].parent
    watched = file if place == "file" else link
    shared.chmod(0o775)
    assert foreign_writer(watched) == ""
    shared.chmod(0o777)
    assert foreign_writer(watched) == f"every user may replace it in {shared}"
    shared.chmod(0o1777)
    assert foreign_writer(watched) == ""


def test_where_nobody_may_write_nobody_replaces(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.chmod(0o777)
    flags = SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr("gateway.cli.file_watch.os.statvfs", lambda _: flags)
    assert foreign_writer(file) == ""
