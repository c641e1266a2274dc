"""Archives that must be refused, and some that must be unpacked, made by hand: no usual tool makes them.

Needs nothing but Python and the modules that unpack, so that any Python can run the table:

    PYTHONPATH=. python3.x -S -m tests.support.archives
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tempfile
import time
from pathlib import Path

from gateway.errors import UnsafeArchive
from gateway.kits.layer import Archive, Compression, Layer, Role
from gateway.kits.tree import Tree
from gateway.kits.unpack import unpack_layer
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest

END = bytes(1024)
OFFSETS = {"name": 0, "mode": 100, "size": 124, "kind": 156, "link": 157, "magic": 257, "prefix": 345}


def header(
    name: str | bytes = "a",
    size: int | bytes = 0,
    kind: bytes = b"0",
    mode: int | bytes = 0o644,
    **raw: bytes,
) -> bytes:
    """Make a USTAR header, its checksum right; bytes are written as they are."""
    block = bytearray(512)
    fields = {
        "name": name if isinstance(name, bytes) else name.encode(),
        "mode": mode if isinstance(mode, bytes) else b"%07o\0" % mode,
        "size": size if isinstance(size, bytes) else b"%011o\0" % size,
        "kind": kind,
        "magic": b"ustar\00000",
        **raw,
    }
    for field, value in fields.items():
        block[OFFSETS[field] : OFFSETS[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def entry(
    name: str | bytes = "a", data: bytes = b"", kind: bytes = b"0", mode: int | bytes = 0o644, **raw: bytes
) -> bytes:
    """Make an entry: header, content, padding."""
    return header(name, len(data), kind, mode, **raw) + data + bytes(-len(data) % 512)


def pax(*records: tuple[str, str], kind: bytes = b"x") -> bytes:
    """Make an extended header with these records."""
    data = b""
    for key, value in records:
        body = f" {key}={value}\n".encode()
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        data += str(length).encode() + body
    return entry("pax", data, kind)


def long_name(name: str) -> bytes:
    """Make a GNU long name."""
    return entry("././@LongLink", name.encode() + b"\0", b"L", magic=b"ustar  \0")


NAMES = {
    "parent": ("../x", "'..'"),
    "parent inside": ("a/../../x", "'..'"),
    "parent at the end": ("a/..", "'..'"),
    "parent alone": ("..", "'..'"),
    "dot and parent": ("./../x", "'..'"),
    "parent after two slashes": ("a//../b", "'..'"),
    "absolute": ("/etc/passwd", "absolute"),
    "two slashes": ("//x", "absolute"),
    "empty part": ("a//b", "empty"),
    "dot part": ("a/./b", "'.'"),
    "backslash": ("..\\x", "backslash"),
    "drive": ("C:\\x", "backslash"),
    "line end": ("a\nb", "cannot be seen"),
    "escape": ("a\x1b[31mb", "cannot be seen"),
    "c1 control": ("a\x85b", "cannot be seen"),
    "right to left": ("a\u202eb", "cannot be seen"),
    "zero width": ("a\u200bb", "cannot be seen"),
    "long part": ("x" * 256, "part longer than 255"),
    "long path": ("/".join(["x" * 200] * 6), "longer than 1024"),
    "deep": ("/".join(["x"] * 33), "32 levels"),
    "very deep": ("/".join(["x"] * 2000), "longer than 1024"),
    "directory's name": ("a/", "directory's name"),
    "none": ("./", "directory's name|no name"),
}
LEGAL = [
    "v1..2",
    "...",
    "..a",
    "a..",
    "ü/ß.bin",
    "模型/权重.bin",
    "a b",
    "-",
    "~",
    "aux",
    "a.",
    "a ",
    "x" * 255,
]


def _named() -> dict[str, tuple[bytes, str]]:
    cases = {}
    for what, (name, why) in NAMES.items():
        if len(name) <= 100:
            cases[f"name: {what}"] = (entry(name, b"x") + END, why)
        cases[f"PAX name: {what}"] = (pax(("path", name)) + entry("a", b"x") + END, why)
        cases[f"long name: {what}"] = (long_name(name) + entry("a", b"x", magic=b"ustar  \0") + END, why)
        if what not in ("directory's name", "none") and len(name) <= 100:
            cases[f"directory: {what}"] = (entry(name, kind=b"5") + END, why)
    cases["PAX name: NUL"] = (pax(("path", "a\0b")) + entry("a", b"x") + END, "cannot be seen")
    cases["PAX name: empty"] = (pax(("path", "")) + entry("a", b"x") + END, "no name")
    cases["prefix: parent"] = (entry("x", b"x", prefix=b"../..") + END, "'..'")
    cases["not UTF-8"] = (entry(b"a\xff", b"x") + END, "UTF-8")
    return cases


def _linked() -> dict[str, tuple[bytes, str]]:
    """Ways out by links, each with the write that would go through it."""
    links = {
        "to an absolute path": "/etc",
        "to a parent": "../../outside",
        "to itself": "a",
        "to what is inside": "d",
        "beyond PATH_MAX": "/".join([".."] * 1500),
    }
    cases = {}
    for what, target in links.items():
        short = target[:100].encode()
        for kind, name in ((b"2", "symbolic link"), (b"1", "hard link")):
            data = entry("d", kind=b"5") + entry("a", kind=kind, link=short) + entry("a/x", b"x") + END
            cases[f"{name} {what}"] = (data, f"'a' is a {name}")
            data = pax(("linkpath", target)) + entry("a", kind=kind) + entry("a", b"x") + END
            cases[f"{name} {what}, PAX"] = (data, f"'a' is a {name}")
    chain = b"".join(entry(f"l{number}", kind=b"2", link=b"l%d/.." % (number + 1)) for number in range(40))
    cases["chain of links"] = (chain + entry("l0/x", b"x") + END, "'l0' is a symbolic link")
    cases["whiteout of a link"] = (entry(".wh.a", kind=b"2", link=b"/") + END, "symbolic link")
    cases["long link name"] = (entry("././@LongLink", b"/etc\0", b"K") + END, "long link name")
    return cases


def _kinds() -> dict[str, tuple[bytes, str]]:
    kinds = {
        b"3": "character device",
        b"4": "block device",
        b"6": "FIFO",
        b"7": "contiguous",
        b"S": "sparse",
        b"D": "of type 'D'",
        b"M": "of type 'M'",
        b"V": "of type 'V'",
        b"N": "of type 'N'",
        b"A": "of type 'A'",
        b"\xff": "of type",
    }
    return {
        f"kind {kind!r}": (entry("the-name", kind=kind) + END, f"'the-name' is .*{why}")
        for kind, why in kinds.items()
    }


def _headers() -> dict[str, tuple[bytes, str]]:
    number = "where a number that is not negative should be"
    many = [(f"k{position}", "v") for position in range(8000)]
    return {
        "nothing": (b"", "ends early"),
        "one zero block": (bytes(512), "ends early"),
        "cut in a header": (header()[:511], "ends early"),
        "cut after a header": (header(), "ends early"),
        "cut in content": (header("a", 1000) + b"x" * 600, "ends early"),
        "cut before the padding": (header("a", 10) + b"x" * 10, "ends early"),
        "no end": (entry("a", b"x"), "ends early"),
        "half an end": (entry("a", b"x") + bytes(512) + b"x" * 512, "one zero block"),
        "archive after the end": (entry("a", b"x") + END + entry("b", b"x") + END, "bytes after its end"),
        "bytes after the end": (entry() + END + b"\0" * 700 + b"x", "bytes after its end"),
        "no magic": (entry(magic=b"\0" * 8) + END, "no tar archive"),
        "checksum": (header()[:-1] + b"x" + END, "checksum"),
        "checksum of no number": (header()[:148] + b"zzzzzz\0 " + header()[156:] + END, number),
        "negative size": (header(size=b"-0000000001\0") + END, number),
        "negative base-256 size": (header(size=b"\xff" * 12) + END, number),
        "base-256 size too large": (header(size=b"\x80" + b"\xff" * 11) + END, "has the size"),
        "size of letters": (header(size=b"12345678abc\0") + END, number),
        "no size": (header(size=b"\0" * 12) + END, number),
        "a terabyte": (
            header(size=b"\x80" + (1 << 40).to_bytes(11, "big")) + END,
            "has the size 1099511627776",
        ),
        "a terabyte in PAX": (pax(("size", str(1 << 40))) + entry() + END, "has the size 1099511627776"),
        "mode of no number": (header(mode=b"rwxr-xr\0") + END, number),
        "directory with content": (entry("d", b"x", b"5") + END, "'d' has the size 1"),
        "200 MiB of PAX": (header("p", 200 << 20, b"x"), "209715200 bytes; 65536 are allowed"),
        "200 MiB of long name": (header("p", 200 << 20, b"L"), "209715200 bytes; 4096 are allowed"),
        "PAX with too many keys": (pax(*many) + entry() + END, "65536 are allowed"),
        "PAX alone": (pax(("path", "a")) + END, "after an extended header"),
        "PAX twice": (pax(("path", "a")) + pax(("path", "b")) + entry() + END, "of type 'x'"),
        "long name twice": (long_name("a") * 2 + entry() + END, "of type 'L'"),
        "PAX beyond its end": (entry("p", b"99 path=abc\n", b"x") + entry() + END, "broken"),
        "PAX of no length": (entry("p", b"0 path=a\n", b"x") + entry() + END, "broken"),
        "PAX without a number": (entry("p", b"x path=a\n", b"x") + entry() + END, "number"),
        "PAX without a line end": (entry("p", b"10 path=abc", b"x") + entry() + END, "broken"),
        "PAX without a value": (entry("p", b"8 path \n", b"x") + entry() + END, "broken"),
        "PAX size negative": (pax(("size", "-10")) + entry() + END, "number"),
        "PAX size of other digits": (pax(("size", "١")) + entry() + END, "number"),
        "PAX size too long": (pax(("size", "9" * 30)) + entry() + END, "number"),
        "PAX key twice": (pax(("path", "a"), ("path", "b")) + entry() + END, "twice"),
        "PAX not UTF-8": (entry("p", b"12 path=\xff\xfe\xfd\n", b"x") + entry() + END, "UTF-8"),
        "two extended names": (pax(("path", "abc")) + long_name("b") + entry() + END, "two extended names"),
        "sparse by PAX": (pax(("GNU.sparse.major", "1")) + entry("s", b"x") + END, "'s' is a sparse file"),
        "sparse by PAX name": (
            pax(("GNU.sparse.name", "x"), ("GNU.sparse.realsize", "1099511627776")) + entry("s") + END,
            "'s' is a sparse file",
        ),
        "global header": (pax(("path", "abc"), kind=b"g") + entry() + END, "'pax' is a global header"),
        "harmless global header": (
            pax(("comment", "x"), kind=b"g") + entry() + END,
            "'pax' is a global header",
        ),
        "setuid file": (entry("bin/tool", b"x", mode=0o4755) + END, "'bin/tool' is a setuid or setgid file"),
        "setgid file": (entry("bin/tool", b"x", mode=0o2755) + END, "'bin/tool' is a setuid or setgid file"),
        "setuid file with a PAX name": (
            pax(("path", "bin/long")) + entry("a", b"x", mode=0o6755) + END,
            "'bin/long' is a setuid or setgid file",
        ),
    }


HOSTILE: dict[str, tuple[bytes, str]] = {**_named(), **_linked(), **_kinds(), **_headers()}
"""Tars, each with a pattern of what its refusal says."""

HONEST: dict[str, tuple[bytes, dict[str, bytes]]] = {
    "nothing": (END, {}),
    "padding": (entry("a", b"x") + END + bytes(10_000), {"a": b"x"}),
    "leading dot": (entry("./", kind=b"5") + entry("./d/a", b"x") + END, {"d/a": b"x"}),
    "old kind": (entry("a", b"x", b"\0") + END, {"a": b"x"}),
    "prefix": (entry("a", b"x", prefix=b"d/e") + END, {"d/e/a": b"x"}),
    "directory twice": (
        entry("d", kind=b"5") * 2 + entry("d/", kind=b"5") + entry("d/a") + END,
        {"d/a": b""},
    ),
    "PAX name, size and more": (
        pax(("path", "n" * 150), ("size", "3"), ("mtime", "1.5"), ("SCHILY.xattr.user.x", "y"))
        + header("a", 0)
        + b"abc".ljust(512, b"\0")
        + END,
        {"n" * 150: b"abc"},
    ),
    "GNU name and base-256 size": (
        long_name("n" * 150)
        + header("a", b"\x80" + (3).to_bytes(11, "big"), magic=b"ustar  \0")
        + b"abc".ljust(512, b"\0")
        + END,
        {"n" * 150: b"abc"},
    ),
    "shared directory": (
        entry("d", kind=b"5", mode=0o2775) + entry("d/a", b"x", mode=0o1777) + END,
        {"d/a": b"x"},
    ),
    "modes of all kinds": (
        b"".join(entry(f"m{mode:o}", b"x", mode=mode) for mode in (0, 0o777, 0o444, 0o1644)) + END,
        {f"m{mode:o}": b"x" for mode in (0, 0o777, 0o444, 0o1644)},
    ),
    "legal odd names": (
        b"".join(pax(("path", name)) + entry("a", b"x") for name in LEGAL) + END,
        dict.fromkeys(LEGAL, b"x"),
    ),
}
"""Tars, each with the files it holds."""


def layer_of(
    data: bytes,
    archive: Archive = Archive.TAR,
    compression: Compression = Compression.NONE,
    path: str | None = None,
    root: str = "",
    diff_id: Digest | None = None,
) -> Layer:
    """Describe a blob as a layer of a model."""
    return Layer(
        Descriptor("x/y", Digest.of(data), len(data)), Role.MODEL, archive, compression, path, root, diff_id
    )


def unpacked(directory: Path, data: bytes, layer: Layer | None = None) -> dict[str, bytes]:
    """Unpack a layer into directory/tree, beside which nothing may change; return the files there."""
    outside = directory / "outside"
    outside.mkdir(parents=True)
    (outside / "file").write_bytes(b"as it was")
    before = _listing(outside)
    tree = Tree(directory / "tree", "r.io/x:v1")
    try:
        unpack_layer(io.BytesIO(data), layer or layer_of(data), tree)
    finally:
        assert _listing(outside) == before
        assert sorted(path.name for path in directory.iterdir()) == ["outside", "tree"]
    return {
        str(file.relative_to(tree.root)): file.read_bytes() for file in tree.root.rglob("*") if file.is_file()
    }


def fault(data: bytes, why: str, layer: Layer | None = None) -> str | None:
    """Unpack what must be refused, saying `why`, at once, and leaving nothing; return what went wrong."""
    with tempfile.TemporaryDirectory() as directory:
        begun = time.monotonic()
        try:
            unpacked(Path(directory), data, layer)
        except UnsafeArchive as error:
            left = list((Path(directory) / "tree").iterdir())
            if left:
                return f"left {left}"
            if time.monotonic() - begun > 2:
                return "took longer than two seconds"
            return None if re.search(why, str(error)) else f"says {str(error)!r}, not {why!r}"
        return "was unpacked"


def _listing(directory: Path) -> list[tuple[str, int, int, bytes]]:
    return sorted(
        (str(path), path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
    )


def main() -> None:
    """Run both tables, plain and compressed; print what failed as JSON."""
    failed = {}
    for name, (data, why) in HOSTILE.items():
        packed = gzip.compress(data, 1)
        failed[name] = fault(data, why)
        failed[f"{name}, compressed"] = fault(packed, why, layer_of(packed, compression=Compression.GZIP))
    for name, (data, files) in HONEST.items():
        with tempfile.TemporaryDirectory() as directory:
            if unpacked(Path(directory), data) != files:
                failed[name] = "was unpacked to something else"
    print(json.dumps({"cases": len(failed), "failed": {name: why for name, why in failed.items() if why}}))


if __name__ == "__main__":
    main()
