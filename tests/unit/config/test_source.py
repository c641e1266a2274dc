"""A config is read from a regular file, or from what the user's own shell gives a command to read."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gateway.config.config import load_config
from gateway.config.source import STANDARD_INPUT, read_source
from gateway.errors import ConfigError
from gateway.files import TEXT_BYTES

TEXT = "models:\n- name: iris\n  kit: r.io/iris:v1\n"


def write_later(file: int, data: bytes) -> threading.Thread:
    def write() -> None:
        with os.fdopen(file, "wb") as pipe:
            pipe.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_pipe_that_the_shell_opened_is_read() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    thread = write_later(writing, TEXT.encode())
    source = read_source(Path(f"/dev/fd/{reading}"))
    thread.join()
    os.close(reading)
    assert (source.text, source.is_file) == (TEXT, False)


def test_standard_input_is_read_and_no_variable_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    thread = write_later(writing, TEXT.replace("r.io", "${HOME}").encode())
    monkeypatch.setattr("gateway.config.source._STANDARD_INPUT_FILE", reading)
    with pytest.raises(ConfigError) as caught:
        load_config(STANDARD_INPUT)
    thread.join()
    os.close(reading)
    assert caught.value.faults[0].startswith("line 3: models[0].kit: ${HOME}: variables are read only into")


def test_what_comes_over_a_pipe_is_bounded() -> None:
    reading, writing = os.pipe()
    thread = write_later(writing, b"#" * (TEXT_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_source(Path(f"/proc/self/fd/{reading}"))
    os.close(reading)
    thread.join()


def test_a_pipe_that_stands_anywhere_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="it is a pipe, not a regular file"):
        read_source(pipe)


@pytest.mark.parametrize("path", ["/dev/fd/9999", "/dev/fd/-1", "/dev/zero"])
def test_what_was_not_given_is_not_read(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_source(Path(path))


def test_a_file_that_was_given_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "kitserve.yaml").write_text(TEXT)
    with (tmp_path / "kitserve.yaml").open() as file:
        source = read_source(Path(f"/dev/fd/{file.fileno()}"))
    assert (source.text, source.is_file) == (TEXT, True)
