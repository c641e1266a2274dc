"""The config reference says of each field what it takes, what it is by default, and what it means."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, Field

from docs.generator.config_reference import config_reference, undescribed
from gateway.config.config import Address, GatewayConfig
from gateway.config.kits import Seconds


class Inner(BaseModel):
    """A group that stands in two places."""

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A share | of something."""
    count: Annotated[int, Field(ge=1)]
    """A number."""


class Middle(BaseModel):
    """A group with a group in it."""

    inner: Inner | None = None
    """The same group."""


class Outer(BaseModel):
    """All of it."""

    listen: Address = Address(host="127.0.0.1", port=80)
    """Where."""
    middles: tuple[Middle, ...] = ()
    """Several,
    over two lines."""
    inner: Inner
    """One."""
    wait: Annotated[Seconds | None, Field(alias="for")] = None
    """How long."""
    delay: Annotated[Seconds, Field(ge=0, le=90)] = 0.25
    """How late."""
    mode: Literal["off", "on"] = "off"
    """Which way."""
    size: ByteSize = ByteSize(3 * 1024**2)
    """How much."""
    flag: bool = False
    """Whether."""


REFERENCE = """\
### The file

All of it.

| field | takes | default | meaning |
| --- | --- | --- | --- |
| `listen` | `HOST:PORT` | `127.0.0.1:80` | Where. |
| `middles` | list of mappings | empty | Several, over two lines. |
| `inner` | mapping | required | One. |
| `for` | duration | absent | How long. |
| `delay` | duration, 0s to 90s | `250ms` | How late. |
| `mode` | `off` or `on` | `off` | Which way. |
| `size` | size | `3MiB` | How much. |
| `flag` | `true` or `false` | `false` | Whether. |

### `middles[]`

A group with a group in it.

| field | takes | default | meaning |
| --- | --- | --- | --- |
| `middles[].inner` | mapping | absent | The same group. |

### `inner` and `middles[].inner`

A group that stands in two places.

| field | takes | default | meaning |
| --- | --- | --- | --- |
| `inner.ratio` | number, above 0, at most 1 | `0.5` | A share \\| of something. |
| `inner.count` | whole number, at least 1 | required | A number. |"""


def test_each_kind_of_field_is_written_as_the_config_writes_it() -> None:
    assert config_reference(Outer) == REFERENCE


def test_every_field_of_the_config_says_what_it_means() -> None:
    assert undescribed(GatewayConfig) == []
