"""A reader of tar archives that takes regular files and directories, and refuses everything else.

USTAR (POSIX.1-1988), PAX extended headers (POSIX.1-2001) and GNU long names are supported. Python's tarfile
is not used: it follows links out of the target, and crafted headers make it loop or fill the memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.errors import UnsafeArchive
from gateway.oci.content import CHUNK

_BLOCK = 512
_MAX_PAX = 64 * 1024  # bytes
_MAX_LONG_NAME = 4 * 1024  # bytes
_MAX_FILE = 128 * 1024**3  # bytes
_END = bytes(_BLOCK)
_MAX_SHOWN = 80  # bytes or characters of a name in an error

_FILE = b"0\0"
_DIRECTORY = b"5"
_PAX, _LONG_NAME = b"x", b"L"
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"g": "a global header, which changes every entry after it",
    b"K": "a long link name",
    b"S": "a sparse file",
}
_SET_ID = 0o6000  # setuid and setgid

Read = Callable[[int], bytes]
"""Returns at most this many bytes, and b"" only at the end."""
Skip = Callable[[int], object]
"""Skips this many bytes without reading them, also beyond the end."""


@dataclass(frozen=True, slots=True)
class TarEntry:
    """A file or directory of an archive: its name as the archive has it, and its size in bytes."""

    name: str
    size: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    mode: int
    size: int
    kind: bytes


def read_tar(read: Read, skip: Skip | None = None) -> Iterator[tuple[TarEntry, Iterator[bytes]]]:
    """Yield each entry with its content, which must be read before the next entry is requested.

    With `skip` the content may be left unread; the next `read` returns its first byte.

    Raises UnsafeArchive for an entry of another type, a damaged or truncated archive, and anything but
    zeros after its end.
    """
    records: dict[str, str] = {}
    long_name: bytes | None = None
    while (block := _exactly(read, _BLOCK)) != _END:
        header = _parse(block)
        if header.kind == _PAX and not records:
            records = _pax(_content(read, header, _MAX_PAX))
        elif header.kind == _LONG_NAME and long_name is None:
            long_name = _content(read, header, _MAX_LONG_NAME).rstrip(b"\0")
        else:
            entry = _entry(header, records, long_name)
            records, long_name = {}, None
            yield from _with_content(read, skip, entry)
    if records or long_name is not None:
        raise UnsafeArchive("it ends after an extended header")
    if _exactly(read, _BLOCK) != _END:
        raise UnsafeArchive("it has one zero block where its end should have two")
    while rest := read(CHUNK):
        if rest.strip(b"\0"):
            raise UnsafeArchive("it has bytes after its end")


def _with_content(
    read: Read, skip: Skip | None, entry: TarEntry
) -> Iterator[tuple[TarEntry, Iterator[bytes]]]:
    remaining = entry.size

    def chunks() -> Iterator[bytes]:
        nonlocal remaining
        while remaining:
            chunk = _some(read, min(remaining, CHUNK))
            remaining -= len(chunk)
            yield chunk

    yield entry, chunks()
    if skip is not None:
        skip(remaining)
        remaining = 0
    assert not remaining, "the content of an entry must be read before the next entry"
    _exactly(read, -entry.size % _BLOCK)


def _entry(header: _Header, records: dict[str, str], long_name: bytes | None) -> TarEntry:
    if long_name is not None and "path" in records:
        raise UnsafeArchive(f"{_shown(header.name)} has two extended names")
    name = records["path"] if "path" in records else _text(header.name if long_name is None else long_name)
    if header.kind not in _FILE and header.kind != _DIRECTORY:
        kind = _REFUSED.get(header.kind, f"of type {_shown(header.kind)}")
        raise UnsafeArchive(f"{name[:_MAX_SHOWN]!r} is {kind}; only files and directories are unpacked")
    if any(key.startswith("GNU.sparse.") for key in records):
        raise UnsafeArchive(f"{name[:_MAX_SHOWN]!r} is a sparse file; only regular files are unpacked")
    size = _decimal(records["size"]) if "size" in records else header.size
    is_directory = header.kind == _DIRECTORY
    # Shared directories are often setgid; a program with such a bit would run as its owner.
    if header.mode & _SET_ID and not is_directory:
        raise UnsafeArchive(f"{name[:_MAX_SHOWN]!r} is a setuid or setgid file, which no model needs to be")
    if size > _MAX_FILE or (is_directory and size):
        raise UnsafeArchive(
            f"{name[:_MAX_SHOWN]!r} has the size {size}; a file may have {_MAX_FILE} bytes, a directory none"
        )
    return TarEntry(name, size, is_directory)


def _parse(block: bytes) -> _Header:
    magic = block[257:265]
    if magic not in (b"ustar\00000", b"ustar  \0"):
        raise UnsafeArchive(
            "it is no tar archive, or in a format that is not supported (USTAR, PAX and GNU are)"
        )
    if _number(block[148:156]) != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
        raise UnsafeArchive("a header has a wrong checksum; the archive is damaged")
    name, prefix = _field(block[:100]), _field(block[345:500])
    if prefix and magic == b"ustar\00000":
        name = prefix + b"/" + name
    return _Header(name, _number(block[100:108]), _number(block[124:136]), block[156:157])


def _number(data: bytes) -> int:
    """Parse an octal number, or a GNU base-256 one that is not negative."""
    if data[0] == 0x80:
        return int.from_bytes(data[1:], "big")
    digits = data.strip(b" \0")
    if not digits or any(digit not in b"01234567" for digit in digits):
        raise UnsafeArchive(f"a header has {_shown(data)} where a number that is not negative should be")
    return int(digits, 8)


def _pax(data: bytes) -> dict[str, str]:
    """Parse PAX records, each "LENGTH KEY=VALUE" and a line end; LENGTH is that of the whole record."""
    records: dict[str, str] = {}
    while data:
        length, space, _ = data.partition(b" ")
        size = _decimal(_text(length))
        record = data[len(length) + 1 : size]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not space or not equals or size > len(data) or not record.endswith(b"\n"):
            raise UnsafeArchive("an extended header is broken")
        if _text(key) in records:
            raise UnsafeArchive(f"an extended header has {_shown(key)} twice")
        records[_text(key)] = _text(value)
        data = data[size:]
    return records


def _content(read: Read, header: _Header, limit: int) -> bytes:
    if header.size > limit:
        raise UnsafeArchive(f"an extended header has {header.size} bytes; {limit} are allowed")
    data = _exactly(read, header.size)
    _exactly(read, -header.size % _BLOCK)
    return data


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UnsafeArchive(f"an extended header has {text[:80]!r} where a number should be")
    return int(text)


def _exactly(read: Read, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += _some(read, size - len(data))
    return bytes(data)


def _some(read: Read, size: int) -> bytes:
    data = read(size)
    if not data:
        raise UnsafeArchive("it ends early; the archive is truncated")
    return data


def _field(data: bytes) -> bytes:
    return data.partition(b"\0")[0]


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UnsafeArchive(f"{_shown(data)} is not UTF-8") from None


def _shown(data: bytes) -> str:
    return repr(data[:_MAX_SHOWN].decode("utf-8", "backslashreplace"))
