from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.config import Address, GatewayConfig, load_config, parse_config
from gateway.config.models import Replicas, Resources
from gateway.errors import ConfigError
from gateway.oci.options import RegistryOptions
from gateway.wording import counted

IRIS = """\
models:
  - name: iris
    kit: r.io/iris:v1
"""
FULL = """\
listen: 0.0.0.0:80
admin: "[::1]:81"
access_log: all
models:
  - name: iris
    kit: r.io/iris:v1
    runtime: onnx
    canary:
      kit: oci-layout:./kits:team/iris:v2
      weight: 20
    resources:
      cpus: 2
      gpus: 0.5
    replicas:
      min: 1
      max: 4
      target_ongoing_requests: 2.5
  - name: wine
    kit: oci-layout:kits:team/wine
    replicas: 2
registries:
  R.io:
    username: bob
    password_file: secrets/r.io
    ca_file: /etc/ca.pem
  localhost:5000:
    plain_http: true
"""


def faults(text: str, needs_models: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "kitserve.yaml", needs_models)
    assert str(caught.value).splitlines() == [
        f"kitserve.yaml: {counted(len(caught.value.faults), 'fault')}",
        *(f"  {fault}" for fault in caught.value.faults),
    ]
    return caught.value.faults


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_is_all_defaults(text: str) -> None:
    config = parse_config(text)
    assert config == GatewayConfig()
    assert (str(config.listen), str(config.admin)) == ("127.0.0.1:8080", "127.0.0.1:8081")
    assert (config.access_log, config.models, config.registries) == ("errors", (), {})


def test_a_config_to_put_in_force_says_which_models_there_are() -> None:
    assert parse_config("models: []", needs_models=True).models == ()
    assert parse_config(IRIS, needs_models=True).models
    missing = "line 1: models: is missing; write the models to serve, or `models: []` for none"
    for text in ("", "{}", "# models: []", "access_log: all"):
        assert faults(text, needs_models=True) == [missing]
    assert faults("modles: []", needs_models=True) == [
        "line 1: modles: unknown field; did you mean 'models'?"
    ], "one fault is enough"
    assert faults("models:", needs_models=True) == ["line 1: models: is empty; it must be a list"]


def test_a_runtime_that_is_not_installed_is_a_fault_where_that_is_known() -> None:
    installed = ["onnx", "torchscript", "my-runtime"]
    for runtime in ("auto", *installed):
        assert (
            parse_config(f"{IRIS}    runtime: {runtime}\n", runtimes=installed).models[0].runtime == runtime
        )
    assert parse_config(f"{IRIS}    runtime: elsewhere\n").models[0].runtime == "elsewhere"
    with pytest.raises(ConfigError) as caught:
        parse_config(
            f"{IRIS}    runtime: onxx\n  - {{name: b, kit: r.io/b, runtime: zz}}", runtimes=installed
        )
    assert caught.value.faults == [
        "line 4: models[0].runtime: there is no runtime 'onxx'; did you mean 'onnx'? "
        "Installed are onnx, torchscript, my-runtime",
        "line 5: models[1].runtime: there is no runtime 'zz'. Installed are onnx, torchscript, my-runtime",
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("llama.cpp", "gguf"), ("ollama", "gguf"), ("GGUF", "gguf"), ("vLLM", "vllm"), ("huggingface", None)],
)
def test_a_runtime_may_be_meant_by_another_name(written: str, meant: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{IRIS}    runtime: {written}", runtimes=["gguf", "vllm"])
    (fault,) = caught.value.faults
    assert ("did you mean" in fault) == (meant is not None)
    assert meant is None or f"there is no runtime {written!r}; did you mean {meant!r}?" in fault


def test_a_model_needs_only_a_name_and_a_kit() -> None:
    (model,) = parse_config(IRIS).models
    assert (model.name, model.kit, model.canary, model.runtime) == ("iris", "r.io/iris:v1", None, "auto")
    assert model.resources == Resources(cpus=1, gpus=0)
    assert model.replicas == Replicas(min=1, max=1, target_ongoing_requests=8)


def test_every_field_is_read() -> None:
    config = parse_config(FULL)
    iris, wine = config.models
    assert (config.listen, config.admin) == (Address(host="0.0.0.0", port=80), Address(host="::1", port=81))
    assert str(config.admin) == "[::1]:81"
    assert config.access_log == "all"
    assert iris.canary is not None
    assert (iris.canary.weight, iris.runtime) == (20, "onnx")
    assert iris.resources == Resources(cpus=2, gpus=0.5)
    assert iris.replicas == Replicas(min=1, max=4, target_ongoing_requests=2.5)
    assert wine.replicas == Replicas(min=2, max=2)


@pytest.mark.parametrize(
    ("written", "minimum", "maximum"),
    [
        ("2", 2, 2),
        ("{min: 3}", 3, 3),
        ("{max: 3}", 1, 3),
        ("{min: 2, max: 5}", 2, 5),
        ("{}", 1, 1),
        ("{min: 0}", 0, 1),
        ("{min: 0, max: 4}", 0, 4),
    ],
)
def test_replicas(written: str, minimum: int, maximum: int) -> None:
    (model,) = parse_config(f"{IRIS}    replicas: {written}\n").models
    assert (model.replicas.min, model.replicas.max) == (minimum, maximum)


def test_delays_of_scaling() -> None:
    delays = "upscale_delay: 500ms, downscale_delay: 2m, downscale_to_zero_delay: 1h, wake_timeout: 20"
    (model,) = parse_config(f"{IRIS}    replicas: {{min: 0, {delays}}}\n").models
    replicas = model.replicas
    assert (replicas.upscale_delay, replicas.downscale_delay) == (0.5, 120)
    assert (replicas.downscale_to_zero_delay, replicas.wake_timeout) == (3600, 20)


def test_json_is_read_too() -> None:
    document = json.dumps({"models": [{"name": "iris", "kit": "r.io/iris:v1"}]}, indent=2)
    assert parse_config(document) == parse_config(IRIS)


@pytest.mark.parametrize("text", ["", IRIS, FULL])
def test_a_config_is_read_back_as_it_was(text: str) -> None:
    for config in (parse_config(text), parse_config(text).rooted(Path("/home"))):
        assert GatewayConfig.model_validate_json(config.model_dump_json()) == config
        assert parse_config(config.model_dump_json()) == config


def test_an_anchor_may_be_used_again() -> None:
    config = parse_config(
        "models:\n"
        "  - {name: a, kit: r.io/a, resources: &small {cpus: 0.5}}\n"
        "  - {name: b, kit: r.io/b, resources: *small}\n"
    )
    assert [model.resources.cpus for model in config.models] == [0.5, 0.5]


NO_FILE = "name a file by its path within the kit"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("modles: []", "line 1: modles: unknown field; did you mean 'models'?"),
        (
            "zzz: 1",
            "line 1: zzz: unknown field; known here: listen, admin, admin_tls, access_log, tracing, health, "
            "callers, tls, keys, allowed_hosts, allowed_origins, worker_tls, defaults, models, registries, "
            "kitops_home, cache, trust, webhooks",
        ),
        (IRIS + "    kits: 1", "line 4: models[0].kits: unknown field; did you mean 'kit'?"),
        (
            IRIS + "    replicas:\n      max: 2\n      mim: 2",
            "line 6: models[0].replicas.mim: unknown field; did you mean 'min'?",
        ),
        (
            IRIS + "    resources: {gpu: 1}",
            "line 4: models[0].resources.gpu: unknown field; did you mean 'gpus'?",
        ),
        (
            "registries:\n  r.io:\n    user: bob",
            "line 3: registries.r.io.user: unknown field; did you mean 'username'?",
        ),
        ("listen: {host: h, port: 1, x: 1}", "line 1: listen.x: unknown field; known here: host, port"),
        ("\nmodels: 3", "line 2: models: must be a list, not 3"),
        (
            IRIS + "    runtime: 5",
            "line 4: models[0].runtime: must be text, not 5; put it in quotes if it is meant as text",
        ),
        (
            IRIS + "    file: ../a",
            f"line 4: models[0].file: {NO_FILE}: '../a' has an empty, '.' or '..' part",
        ),
        (IRIS + "    file: /a", f"line 4: models[0].file: {NO_FILE}: '/a' is an absolute path"),
        (IRIS + "    file: .", f"line 4: models[0].file: {NO_FILE}, such as onnx/model.onnx"),
        (
            IRIS + "    resources: {cpus: many}",
            "line 4: models[0].resources.cpus: must be a number, not 'many'",
        ),
        (
            IRIS + "    resources:\n      cpus: 0",
            "line 5: models[0].resources.cpus: must be more than 0, not 0",
        ),
        (
            IRIS + "    replicas: {target_ongoing_requests: .inf}",
            "line 4: models[0].replicas.target_ongoing_requests: must be a finite number, not inf",
        ),
        (
            IRIS + "    canary: {kit: r.io/iris:v2, weight: 101}",
            "line 4: models[0].canary.weight: must be at most 100, not 101",
        ),
        (
            IRIS + "    canary:\n      kit: r.io/iris:v2",
            "line 4: models[0].canary.weight: is missing, and must be written",
        ),
        ("models:\n  - name: iris", "line 2: models[0].kit: is missing, and must be written"),
        ("access_log: some", "line 1: access_log: must be 'off', 'errors' or 'all', not 'some'"),
        (
            "models:\n  - name: iris\n    kit: oci://r.io/iris:v1",
            "line 3: models[0].kit: a reference has no 'oci://' before it; write HOST/REPOSITORY:TAG, "
            "kit:NAME:TAG or oci-layout:PATH:NAME:TAG",
        ),
        (
            IRIS + "    canary:\n      weight: 1\n      kit: oci-layout:x",
            "line 6: models[0].canary.kit: 'oci-layout:x': write oci-layout:PATH:NAME:TAG",
        ),
        (
            "models:\n  - kit: r.io/iris\n    name: a/b",
            "line 3: models[0].name: 'a/b' is not a model name: "
            "letters, digits, '.', '_' and '-', at most 64",
        ),
        (
            "models:\n  - kit: r.io/iris\n    name: stats",
            "line 3: models[0].name: 'stats' is the path of the statistics of all models; "
            "choose another name",
        ),
        (
            IRIS + "  - kit: r.io/other:v1\n    name: iris",
            "line 5: models[1].name: a model 'iris' is written above",
        ),
        (IRIS + "models: []", "line 4: models: written twice"),
        (IRIS + "    kit: r.io/iris:v1", "line 4: models[0].kit: written twice"),
        (
            IRIS + "    canary:\n      weight: 1\n      kit: r.io/iris:v1",
            "line 6: models[0].canary.kit: the canary is the same kit as the stable version (r.io/iris:v1)",
        ),
        (
            IRIS + "    variant: {bits: 4}\n    canary:\n      weight: 1\n      kit: r.io/iris:v1",
            "line 7: models[0].canary.kit: the canary is the same kit as the stable version (r.io/iris:v1)",
        ),
        (
            "models:\n  - name: iris\n    kit: r.io/iris:v1[auto]",
            "line 3: models[0].kit: r.io/iris:v1[auto]: write what is in the brackets as `variant` beside "
            "`kit`",
        ),
        (
            IRIS + "    variant: q4_0",
            "line 4: models[0].variant: write labels of one kit of the index, such as "
            "{quantization: q4_0}, or auto",
        ),
        (
            IRIS + "    variant: {}",
            "line 4: models[0].variant: a variant has a label at least, such as quantization=q4_0, "
            "or is auto",
        ),
        (
            IRIS + "    replicas: 0",
            "line 4: models[0].replicas: "
            "0 workers answer nobody; {min: 0, max: 1} has one only while it is called",
        ),
        (
            IRIS + "    replicas: {min: 0, max: 0}",
            "line 4: models[0].replicas.max: must be at least 1, not 0",
        ),
        (
            IRIS + "    replicas: {wake_timeout: 2m}",
            "line 4: models[0].replicas.wake_timeout: must be at most 60, not '2m'",
        ),
        (IRIS + "    replicas: {min: 3, max: 2}", "line 4: models[0].replicas: min (3) is more than max (2)"),
        ("listen: 8080", "line 1: listen: 8080 is not HOST:PORT; write 127.0.0.1:8080"),
        ("listen: here", "line 1: listen: 'here' is not HOST:PORT, such as 127.0.0.1:8080"),
        ("listen: ':80'", "line 1: listen: ':80' is not HOST:PORT, such as 127.0.0.1:8080"),
        ("listen: h:²", "line 1: listen: 'h:²' is not HOST:PORT, such as 127.0.0.1:8080"),
        ("listen: h:0", "line 1: listen.port: must be at least 1, not 0"),
        ("admin: h:65536", "line 1: admin.port: must be at most 65535, not 65536"),
        ('listen: "a\\nb:80"', r"line 1: listen.host: 'a\nb' is not a host"),
        ("models: []\nlisten: h:8081", "line 2: listen: listen and admin both want port 8081"),
        ("listen: h:90\nadmin: h:90", "line 2: admin: listen and admin both want port 90"),
        ("[]", "line 1: a config is a mapping that starts with `models:`"),
        ("iris", "line 1: a config is a mapping that starts with `models:`"),
        ("? [a]\n: 1", "line 1: a field's name must be plain text"),
        ('"a\\nb": 1', "line 1: a field's name must be plain text"),
        (
            "a: [",
            "line 1: this is no YAML: expected the node content, but found '<stream end>'; "
            "see to indentation, quotes and brackets",
        ),
        (
            "models:\n  - name: a\n\tkit: b\n",
            "line 3: this is no YAML: found character '\\t' that cannot start any token; "
            "indent with spaces, not with tabs",
        ),
        (
            "models:\n  - name: a\n  kit: b\n",
            "line 3: this is no YAML: expected <block end>, but found '?'; "
            "see to indentation, quotes and brackets",
        ),
    ],
)
def test_a_fault_is_reported_with_its_line(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("!!int x", "int"),
        ("2024-13-45", "timestamp"),
        ("!!bool x", "bool"),
        ("!!timestamp x", "timestamp"),
        ("0x_", "int"),
        ("!!python/object:os.system x", "python/object:os.system"),
        ('"\\ud800"', "str"),
    ],
)
def test_a_scalar_that_yaml_cannot_make_is_a_fault(value: str, kind: str) -> None:
    first, *_ = faults(f"models: []\naccess_log: {value}\n")
    assert first.startswith("line 2: access_log: ")
    assert first.endswith(f" is not a valid {kind.rpartition(':')[2]}")


@pytest.mark.parametrize(
    "text", ['a: "\\UFFFFFFFF"', f"%YAML {'9' * 5000}.1\n--- {{}}", f"a: {'[' * 3000}", "a\0"]
)
def test_text_on_which_the_yaml_reader_trips_is_a_fault(text: str) -> None:
    assert len(faults(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "models: &again [*again]",
        "a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
    ],
)
def test_aliases_cannot_make_a_small_file_endless(text: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith("this goes too deep, or has too many parts")


def test_all_faults_are_reported_at_once() -> None:
    text = "listen: here\nmodels:\n  - name: a b\n    kit: Iris\n    x: 1\n  - kit: r.io/b\n    kit: r.io/c\n"
    assert [fault.split(": ")[:2] for fault in faults(text)] == [
        ["line 7", "models[1].kit"],
        ["line 1", "listen"],
        ["line 3", "models[0].name"],
        ["line 4", "models[0].kit"],
        ["line 5", "models[0].x"],
        ["line 6", "models[1].name"],
    ]


def test_each_repeated_name_is_reported() -> None:
    text = "models:\n" + "".join(f"  - {{name: {name}, kit: r.io/x}}\n" for name in "abab")
    assert faults(text) == [
        "line 4: models[2].name: a model 'a' is written above",
        "line 5: models[3].name: a model 'b' is written above",
    ]


def test_relative_paths_are_made_absolute() -> None:
    config = parse_config(FULL).rooted(Path("/home/me"))
    iris, wine = config.models
    assert iris.kit == "r.io/iris:v1"
    assert iris.canary is not None
    assert iris.canary.kit == "oci-layout:/home/me/kits:team/iris:v2"
    assert wine.kit == "oci-layout:/home/me/kits:team/wine"
    assert config.registries["R.io"].password_file == Path("/home/me/secrets/r.io")
    assert config.registries["R.io"].ca_file == Path("/etc/ca.pem")
    assert config.rooted(Path("/elsewhere")) == config


def test_registry_options_go_by_the_host_as_references_have_it() -> None:
    assert parse_config(FULL).source_options().registries == {
        "r.io": RegistryOptions(
            username="bob", password_file=Path("secrets/r.io"), ca_file=Path("/etc/ca.pem")
        ),
        "localhost:5000": RegistryOptions(plain_http=True),
    }


def test_a_file_is_read_from_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "kitserve.yaml"
    path.write_text(FULL)
    assert load_config(path) == parse_config(FULL).rooted(tmp_path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "kitserve.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"kitserve\.yaml: 1 fault\n  cannot be read: (?!\[Errno)"):
        load_config(path)


def test_a_variant_is_part_of_what_a_model_is() -> None:
    text = IRIS + "    variant: {quantization: q4_0, bits: 4, fast: true}\n"
    model = parse_config(text + "    canary: {kit: r.io/iris:v1, variant: auto, weight: 5}").models[0]
    assert str(model.reference()) == "r.io/iris:v1[bits=4,fast=true,quantization=q4_0]"
    assert str(model.canary_reference()) == "r.io/iris:v1[auto]"
    # A canary's kit is chosen as the model's is, if nothing else is written.
    model = parse_config(text + "    canary: {kit: r.io/iris:v2, weight: 5}").models[0]
    assert str(model.canary_reference()) == "r.io/iris:v2[bits=4,fast=true,quantization=q4_0]"
    config = parse_config(text)
    assert GatewayConfig.model_validate_json(config.model_dump_json()) == config
    assert parse_config(IRIS).models[0].reference().variant is None
