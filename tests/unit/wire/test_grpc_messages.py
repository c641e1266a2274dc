"""The compiled messages are what the proto files say, and what the protocols' other clients speak."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from gateway.wire.grpc_messages import COMPILED, PROTOS, message, pool
from gateway.wire.texts import HEALTH, INFERENCE, REFLECTION


def test_the_compiled_set_is_of_these_files(tmp_path: Path) -> None:
    files = [str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto")]
    fresh = tmp_path / "fresh.binpb"
    # Its own process: the compiler's C++ crashes beside TensorFlow's, which other tests import.
    options = [f"-I{PROTOS}", f"--descriptor_set_out={fresh}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *files], check=True)

    def contents(path: Path) -> dict[str, bytes]:
        files = FileDescriptorSet.FromString(path.read_bytes())
        return {file.name: file.SerializeToString() for file in files.file}

    assert contents(COMPILED) == contents(fresh), "compile them: make protos"


def messages_of(package: str) -> Iterator[Any]:
    """Every message of a package, those inside others too."""
    for file in FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
        if file.package == package:
            waiting = [pool().FindMessageTypeByName(f"{package}.{outer.name}") for outer in file.message_type]
            while waiting:
                descriptor = waiting.pop()
                waiting += descriptor.nested_types
                yield descriptor


# Of a later grpc.health.v1 than that of packages which are content with protobuf 6, as tritonclient must be.
LATER = {"HealthListRequest", "HealthListResponse"}


def fields(descriptor: Any) -> dict[str, Any]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type and field.message_type.full_name,
            field.enum_type and field.enum_type.full_name,
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in descriptor.fields
    }


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("inference", (service_pb2, model_config_pb2)),
        ("grpc.health.v1", (health_pb2,)),
        ("grpc.reflection.v1alpha", (reflection_pb2,)),
    ],
)
def test_every_field_is_as_others_have_it(package: str, modules: tuple[Any, ...]) -> None:
    published = {
        name: descriptor
        for module in modules
        for name, descriptor in module.DESCRIPTOR.message_types_by_name.items()
    }
    seen = 0
    for descriptor in messages_of(package):
        outer, *inner = descriptor.full_name.removeprefix(f"{package}.").split(".")
        if outer in LATER and outer not in published:
            continue
        expected = published[outer]
        for name in inner:
            expected = expected.nested_types_by_name[name]
        assert fields(descriptor).items() <= fields(expected).items(), descriptor.full_name
        seen += 1
    assert seen > 1
    for module in modules:
        for name, enum in module.DESCRIPTOR.enum_types_by_name.items():
            if name == "DataType":
                values = {value.name: value.number for value in enum.values}
                declared = pool().FindEnumTypeByName("inference.DataType").values
                assert {value.name: value.number for value in declared} == values


@pytest.mark.parametrize(
    ("name", "module", "service"),
    [
        (INFERENCE, service_pb2, "GRPCInferenceService"),
        (HEALTH, health_pb2, "Health"),
        (REFLECTION[1], reflection_pb2, "ServerReflection"),
    ],
)
def test_every_method_is_as_others_have_it(name: str, module: Any, service: str) -> None:
    def methods(descriptor: Any) -> dict[str, tuple[str, str, bool, bool]]:
        return {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in descriptor.methods
        }

    expected = methods(module.DESCRIPTOR.services_by_name[service])
    ours = methods(pool().FindServiceByName(name))
    later = {
        method
        for method, (request, *_) in ours.items()
        if request.rpartition(".")[2] in LATER and method not in expected
    }
    assert {method: ours[method] for method in ours.keys() - later}.items() <= expected.items()


def test_both_versions_of_reflection_are_the_same_but_for_their_names() -> None:
    v1, v1alpha = (
        {descriptor.name: descriptor for descriptor in messages_of(f"grpc.reflection.{name}")}
        for name in ("v1", "v1alpha")
    )
    assert v1.keys() == v1alpha.keys()
    for name, descriptor in v1.items():
        parts = {field: facts[:3] for field, facts in fields(descriptor).items()}
        assert parts == {field: facts[:3] for field, facts in fields(v1alpha[name]).items()}


def test_the_messages_are_apart_from_those_of_the_same_names() -> None:
    assert message("inference.ModelInferRequest") is not service_pb2.ModelInferRequest
