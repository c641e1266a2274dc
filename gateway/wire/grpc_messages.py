"""The messages of the gRPC services, from `protos/`, as `protos/services.binpb` describes them.

They are in a pool of their own: a program that uses another library for the same protocol, as NVIDIA's and
KServe's clients are, has messages of the same names in protobuf's common pool.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from gateway.wire.texts import HEALTH as HEALTH
from gateway.wire.texts import INFERENCE as INFERENCE
from gateway.wire.texts import REFLECTION as REFLECTION

PROTOS = Path(__file__).with_name("protos")
COMPILED = PROTOS / "services.binpb"


@cache
def pool() -> DescriptorPool:
    """Return the pool with all files of the set."""
    files = FileDescriptorSet.FromString(COMPILED.read_bytes())
    descriptors = DescriptorPool()
    for file in files.file:
        descriptors.Add(file)
    return descriptors


@cache
def message(name: str) -> Any:
    """Return the class of a message, by its full name."""
    return GetMessageClass(pool().FindMessageTypeByName(name))
