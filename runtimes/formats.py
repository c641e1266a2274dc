"""The formats of model files, identified by their bytes and never by their names.

Nothing is extracted or run: each check reads a bounded prefix, a zip's central directory, or the outermost
protobuf fields.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Container, Mapping
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from runtimes import protobuf
from runtimes.errors import LoadError
from runtimes.safetensors_file import MAX_HEADER_BYTES

_PREFIX = 64 * 1024
_ZIP_ENTRIES = 200_000
_ZIP_DIRECTORY_BYTES = 64 * 1024 * 1024

# The fields of ModelProto (onnx.proto3) by wire type.
_ONNX_FIELDS = {protobuf.VARINT: {1, 5}, protobuf.BYTES: {2, 3, 4, 6, 7, 8, 14, 20, 25, 26}}
_GRAPH = (7, protobuf.BYTES)
_GRAPH_TAG = bytes([7 << 3 | protobuf.BYTES])


class Hazard(Enum):
    """What loading a format can do.

    It reads data and nothing else, makes objects of known libraries, computes within its engine, or runs any
    code.
    """

    DATA = "data"
    KNOWN_PICKLE = "known pickle"
    PROGRAM = "program"
    CODE = "code"


class Format(Enum):
    """A file format, with the hazard of loading it; what nobody loads is mere data.

    Those of Hugging Face are of directories, see `hugging_face.directory`. Whether a pickle is a known one
    shows only when all of it is followed, see `select.choose`. PYTHON is what the kit names as its entry, and
    no file is it by its content.
    """

    ONNX = ("ONNX", Hazard.DATA)
    TORCHSCRIPT = ("TorchScript", Hazard.PROGRAM)
    TORCH_EXPORT = ("torch.export program", Hazard.PROGRAM)
    KNOWN_PICKLE = ("pickle of known libraries (joblib included)", Hazard.KNOWN_PICKLE)
    PICKLE = ("pickle (joblib included)", Hazard.CODE)
    TORCH_PICKLE = ("PyTorch checkpoint (pickle)", Hazard.CODE)
    SAFETENSORS = ("safetensors", Hazard.DATA)
    HUGGING_FACE = ("Hugging Face model", Hazard.DATA)
    HUGGING_FACE_GENERATION = ("Hugging Face language model", Hazard.DATA)
    GGUF = ("GGUF", Hazard.DATA)
    XGBOOST = ("XGBoost", Hazard.DATA)
    XGBOOST_BINARY = ("XGBoost, old binary", Hazard.DATA)
    XGBOOST_DUMP = ("XGBoost, dump", Hazard.DATA)
    LIGHTGBM = ("LightGBM", Hazard.DATA)
    LIGHTGBM_DUMP = ("LightGBM, dump", Hazard.DATA)
    CATBOOST = ("CatBoost", Hazard.DATA)
    SKOPS = ("skops", Hazard.DATA)
    KERAS = ("Keras", Hazard.DATA)
    HDF5 = ("HDF5", Hazard.DATA)
    SAVED_MODEL = ("TensorFlow SavedModel", Hazard.PROGRAM)
    GRAPH_DEF = ("TensorFlow GraphDef", Hazard.DATA)
    TFLITE = ("TensorFlow Lite", Hazard.DATA)
    OPENVINO = ("OpenVINO IR", Hazard.DATA)
    NUMPY = ("NumPy", Hazard.DATA)
    LFS_POINTER = ("Git LFS pointer", Hazard.DATA)
    HTML = ("HTML", Hazard.DATA)
    ARCHIVE = ("archive", Hazard.DATA)
    CUT_ONNX = ("ONNX, cut short", Hazard.DATA)
    CUT_SAFETENSORS = ("safetensors, cut short", Hazard.DATA)
    CUT_ZIP = ("zip, cut short", Hazard.DATA)
    EMPTY = ("empty", Hazard.DATA)
    PYTHON = ("Python of the kit", Hazard.CODE)
    JSON = ("JSON", Hazard.DATA)
    TEXT = ("text", Hazard.DATA)
    UNKNOWN = ("unknown", Hazard.DATA)

    def __init__(self, title: str, hazard: Hazard) -> None:
        self.title = title
        self.hazard = hazard


# CatBoost writes its keys in the order of the alphabet: tables of categories first, where there are some.
_CATBOOST_JSON = (
    rb'\s*\{\s*(?:"ctr_data"\s*:\s*\{\s*"\{\\"identifier\\"|"features_info"\s*:\s*\{\s*'
    rb'"(?:cat_features_hash|categorical_features|ctrs|embedding_features|float_features|text_features)"\s*:)'
)

# What a file begins with, for the formats that have bytes of their own there.
_MAGIC = (
    (rb"GGUF", Format.GGUF),
    (rb"\x89HDF\r\n\x1a\n", Format.HDF5),
    (rb"\x93NUMPY", Format.NUMPY),
    (rb"....TFL3", Format.TFLITE),
    (rb"CBM1", Format.CATBOOST),
    (_CATBOOST_JSON, Format.CATBOOST),
    (rb"tree\r?\n(?:version|num_class)=", Format.LIGHTGBM),
    (rb'\s*\{\s*"name"\s*:\s*"tree"\s*,\s*"version"\s*:', Format.LIGHTGBM_DUMP),
    (rb"binf|bs64\t", Format.XGBOOST_BINARY),
    (rb'\s*\[\s*\{\s*"nodeid"\s*:|booster\[\d+\]:\s*\n0:', Format.XGBOOST_DUMP),
    # XGBoost writes UBJSON, whose first key is "learner" or "version" with its length before it, or JSON.
    (rb'\{(?:[iU].|I..|l.{4}|L.{8})(?:learner|version)|\s*\{\s*"learner"', Format.XGBOOST),
    (rb'\s*\{\s*"version"\s*:\s*\[[0-9, ]*\]\s*,\s*"learner"', Format.XGBOOST),
    (
        rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<net\s[^>]*\bversion\s*=\s*[\"']\d",
        Format.OPENVINO,
    ),
    (rb"version https://git-lfs\.github\.com/spec/", Format.LFS_POINTER),
    (
        rb"(?i:(?:\xef\xbb\xbf)?\s*(?:<!--(?:(?!-->).)*-->\s*)*<(?:!doctype\s+html|html|head|body)\b)",
        Format.HTML,
    ),
)
_ARCHIVES = re.compile(
    rb"\x1f\x8b|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|\x04\x22\x4d\x18|.{257}ustar", re.DOTALL
)


def identify(path: Path) -> Format:
    """Return the format of the regular file at `path`. Raises LoadError when it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_PREFIX)
            if head.startswith(b"PK\x03\x04"):
                return _zip_format(file)
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - _PREFIX))
            tail = file.read()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if not head.strip(b"\0") and not tail.strip(b"\0"):
        return Format.EMPTY
    for pattern, format_ in _MAGIC:
        if re.match(pattern, head, re.DOTALL):
            return format_
    if (safetensors := _safetensors_format(head, size)) is not None:
        return safetensors
    if is_pickle(head) or is_pickle(decompressed(head, _PREFIX)):
        return Format.PICKLE
    if _ARCHIVES.match(head):
        return Format.ARCHIVE
    return _protobuf_format(path) or _text_format(head)


def is_pickle(prefix: bytes) -> bool:
    """Tell whether `prefix` begins a pickle of any protocol, 0 to 5: its operations decode and balance.

    As protocols 0 and 1 have no magic number, the stack is followed: text that happens to decode as
    operations soon pops an empty stack, or has bytes after the end; a pickle does neither.
    """
    has_magic = prefix[:1] == b"\x80" and prefix[1:2] <= b"\x05"
    file = io.BytesIO(prefix)
    stack: list[object] = []
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(file):
            follow(stack, opcode)
            count += 1
    except IndexError:
        return False
    except ValueError:
        # An operation that is longer than the prefix, or an array, which joblib writes between operations.
        is_cut = len(prefix) == _PREFIX == file.tell()
        return count >= 2 and (has_magic or is_cut)
    return count >= 2 and (has_magic or not file.read().strip())


def follow(stack: list[object], opcode: pickletools.OpcodeInfo) -> None:
    """Do to `stack` what the operation does. Raises IndexError where it pops from an empty stack."""
    popped = opcode.stack_before
    if pickletools.markobject in popped:
        while stack.pop() is not pickletools.markobject:
            pass
        popped = popped[: popped.index(pickletools.markobject)]
    for _ in popped:
        stack.pop()
    stack += opcode.stack_after


def decompressed(data: bytes, limit: int) -> bytes:
    """Return the start of the content of zlib, gzip, bz2 or xz data, at most `limit` bytes.

    `data` may be cut off anywhere. For anything else, the content is empty. joblib writes these four.
    """
    try:
        if data[:1] == b"\x78" or data[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=47).decompress(data, limit)
        if data[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(data, limit)
        if data[:6] == b"\xfd7zXZ\x00" or data[:3] == b"\x5d\x00\x00":
            return lzma.LZMADecompressor(memlimit=_ZIP_DIRECTORY_BYTES).decompress(data, limit)
    except (zlib.error, OSError, lzma.LZMAError, EOFError):
        pass
    return b""


def zip_names(file: BinaryIO) -> list[str]:
    """Return the member names of a zip from its central directory. Raises LoadError where it is broken.

    The directory's declared size is checked before it is read: at most 200,000 entries in 64 MiB.
    """
    entries, size = _zip_directory(file)
    if entries > _ZIP_ENTRIES or size > _ZIP_DIRECTORY_BYTES:
        raise LoadError(
            f"{file.name}: its zip directory declares {entries} entries in {size} bytes, which is too many"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise LoadError(f"{file.name}: its zip directory is broken: {error}") from error


def _zip_directory(file: BinaryIO) -> tuple[int, int]:
    """Return (entries, bytes) of the central directory (APPNOTE.TXT, 4.3.14 to 4.3.16)."""
    end = file.seek(0, io.SEEK_END)
    start = file.seek(max(0, end - 65_557))
    tail = file.read()
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < 22:
        raise _CutZip(f"{file.name}: its zip directory is missing; the file is truncated or no zip")
    entries, size = struct.unpack_from("<HI", tail, position + 10)
    locator = tail[position - 20 : position] if position >= 20 else b""
    if locator.startswith(b"PK\x06\x07"):
        offset = struct.unpack_from("<Q", locator, 8)[0]
        if offset + 56 > start + position:
            raise LoadError(f"{file.name}: its zip64 directory is misplaced; the file is damaged")
        file.seek(offset)
        entries, size = struct.unpack_from("<QQ", file.read(56), 32)
    return entries, size


class _CutZip(LoadError):
    """A zip without its end."""


def _zip_format(file: BinaryIO) -> Format:
    try:
        names = set(zip_names(file))
    except _CutZip:
        return Format.CUT_ZIP
    except LoadError:
        return Format.UNKNOWN
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        return Format.TORCH_EXPORT
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return Format.TORCHSCRIPT
    if "data.pkl" in inner or "data.pkl" in names:
        return Format.TORCH_PICKLE
    if {"config.json", "metadata.json", "model.weights.h5"} <= names:
        return Format.KERAS
    if "schema.json" in names:
        return Format.SKOPS
    return Format.NUMPY if names and all(name.endswith(".npy") for name in names) else Format.ARCHIVE


def _safetensors_format(head: bytes, size: int) -> Format | None:
    """Tell by the layout: the header's length (uint64, little-endian), then the header, a JSON object."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 10 or head[8:9] != b"{" or not 2 <= length <= MAX_HEADER_BYTES:
        return None
    ends = [int(end) for end in re.findall(rb'"data_offsets"\s*:\s*\[\s*\d{1,19}\s*,\s*(\d{1,19})', head)]
    is_cut = 8 + length + max(ends, default=0) > size
    return Format.CUT_SAFETENSORS if is_cut else Format.SAFETENSORS


def _protobuf_format(path: Path) -> Format | None:
    """Tell by the outermost fields: as protobuf has no magic number, all must be those of one type."""
    fields: dict[tuple[int, int], protobuf.Span] = {}
    end, is_cut = 0, False
    with protobuf.mapped(path) as data:
        reader = protobuf.Reader(data, max_fields=100_000)
        try:
            for number, wire, _, span in reader.fields(reader.whole):
                fields.setdefault((number, wire), span)
                end = span[1]
        except protobuf.Malformed:
            is_cut = True
        if not all(number in _ONNX_FIELDS.get(wire, ()) for number, wire in fields):
            return None if is_cut or not _is_graph_def(reader, fields) else Format.GRAPH_DEF
        has_graph = _GRAPH in fields
        if is_cut:
            is_onnx = has_graph or data[end : end + 1] == _GRAPH_TAG
            return Format.CUT_ONNX if is_onnx and (1, protobuf.VARINT) in fields else None
        if has_graph:
            return Format.ONNX if {number for number, _ in fields} & {1, 8} else None
        return Format.SAVED_MODEL if _is_saved_model(reader, fields) else None


def _is_saved_model(reader: protobuf.Reader, fields: Mapping[tuple[int, int], protobuf.Span]) -> bool:
    """Tell whether the fields are those of SavedModel (tensorflow/core/protobuf/saved_model.proto)."""
    if set(fields) != {(1, protobuf.VARINT), (2, protobuf.BYTES)}:
        return False
    # The fields of MetaGraphDef.
    return _has_only(reader, fields[2, protobuf.BYTES], range(1, 8))


def _is_graph_def(reader: protobuf.Reader, fields: Mapping[tuple[int, int], protobuf.Span]) -> bool:
    """Tell whether the fields are those of GraphDef (tensorflow/core/framework/graph.proto)."""
    if (1, protobuf.BYTES) not in fields or not {number for number, _ in fields} <= {1, 2, 3, 4, 5}:
        return False
    # The fields of NodeDef, of which the first two are its name and its operation.
    node = fields[1, protobuf.BYTES]
    return _has_only(reader, node, range(1, 8)) and bool(reader.string(node, 1) and reader.string(node, 2))


def _has_only(reader: protobuf.Reader, message: protobuf.Span, numbers: Container[int]) -> bool:
    """Tell whether a message has fields, each with one of these numbers and bytes in it."""
    try:
        wires = [(number, wire) for number, wire, _, _ in reader.fields(message)]
    except protobuf.Malformed:
        return False
    return bool(wires) and all(number in numbers and wire == protobuf.BYTES for number, wire in wires)


def _text_format(head: bytes) -> Format:
    if not head or b"\0" in head:
        return Format.UNKNOWN
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        # A prefix may end within a character, which has up to four bytes.
        if len(head) < _PREFIX or error.start < len(head) - 4:
            return Format.UNKNOWN
        return Format.TEXT
    return Format.JSON if text.lstrip()[:1] in ("{", "[") else Format.TEXT
