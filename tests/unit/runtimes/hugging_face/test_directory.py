"""What a directory of Hugging Face's is, by its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runtimes.base import LoadedModel, Resources
from runtimes.errors import LoadError, NoRuntime, SeveralModels, UnsafeFormat
from runtimes.formats import Format
from runtimes.hugging_face.directory import Pipeline, read_directory
from runtimes.hugging_face.modules import Dense, Normalize, Pooling
from runtimes.select import choose
from tests.support.model_files import identity_onnx

HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)
BERT = {"architectures": ["BertModel"], "model_type": "bert"}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
DENSE_CONFIG = {
    "in_features": 4,
    "out_features": 2,
    "activation_function": "torch.nn.modules.activation.Tanh",
}

Put = Callable[..., Path]


class _Encoders:
    name: ClassVar[str] = "encoders"
    formats: ClassVar[tuple[Format, ...]] = (Format.HUGGING_FACE,)

    def load(self, path: Path, resources: Resources) -> LoadedModel:
        raise NotImplementedError

    def signature(self, path: Path) -> None:
        return


class _Generators(_Encoders):
    name: ClassVar[str] = "generators"
    formats: ClassVar[tuple[Format, ...]] = (Format.HUGGING_FACE_GENERATION,)


class _Onnx(_Encoders):
    name: ClassVar[str] = "onnx"
    formats: ClassVar[tuple[Format, ...]] = (Format.ONNX,)


RUNTIMES = {runtime.name: runtime for runtime in (_Onnx(), _Encoders(), _Generators())}


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write files of these names and values, JSON but where they are bytes; returns the directory."""

    def put(files: dict[str, Any]) -> Path:
        for name, value in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return tmp_path

    return put


@pytest.mark.parametrize(
    ("config", "pipeline"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, Pipeline.TEXT_GENERATION),
        ({"architectures": ["GPT2LMHeadModel"]}, Pipeline.TEXT_GENERATION),
        ({"architectures": ["BertForSequenceClassification"]}, Pipeline.TEXT_CLASSIFICATION),
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
            Pipeline.TEXT_RANKING,
        ),
        ({"architectures": ["BertForSequenceClassification"], "num_labels": 1}, Pipeline.TEXT_RANKING),
        ({"architectures": ["RobertaForTokenClassification"]}, Pipeline.TOKEN_CLASSIFICATION),
        ({"architectures": ["ViTForImageClassification"]}, Pipeline.IMAGE_CLASSIFICATION),
    ],
)
def test_what_a_model_is_for_is_in_its_config(put: Put, config: Any, pipeline: Pipeline) -> None:
    model = read_directory(put({"config.json": config, "model.safetensors": WEIGHTS}))
    assert model.pipeline is pipeline
    is_generation = pipeline is Pipeline.TEXT_GENERATION
    name = "generators" if is_generation else "encoders"
    choice = choose(model.directory, runtimes=RUNTIMES)
    assert (choice.runtime.name, choice.path) == (name, model.directory / "model.safetensors")


def test_modules_make_embeddings_of_any_architecture(put: Put) -> None:
    directory = put(
        {
            "config.json": {"architectures": ["Qwen3ForCausalLM"]},
            "model.safetensors": WEIGHTS,
            "modules.json": [*MODULES[:2], DENSE, {**MODULES[2], "path": "3_Normalize"}],
            "1_Pooling/config.json": {"pooling_mode": "lasttoken", "include_prompt": False},
            "2_Dense/config.json": DENSE_CONFIG,
            "2_Dense/model.safetensors": WEIGHTS,
        }
    )
    model = read_directory(directory)
    assert model.pipeline is Pipeline.FEATURE_EXTRACTION
    assert model.modules is not None
    dense = Dense(directory / "2_Dense/model.safetensors", 4, 2, "Tanh")
    assert model.modules.steps == (Pooling(("lasttoken",), includes_prompt=False), dense, Normalize())
    assert choose(directory, runtimes=RUNTIMES).path == directory / "model.safetensors"


def test_old_poolings_and_new_names_of_modules(put: Put) -> None:
    modules = [
        {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
    ]
    pooling = {
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
    }
    files = {"config.json": BERT, "model.safetensors": WEIGHTS, "modules.json": modules}
    model = read_directory(put({**files, "1_Pooling/config.json": pooling}))
    assert model.modules is not None
    assert model.modules.steps == (Pooling(("cls", "mean")),)


def test_a_list_of_modules_of_another_kind_of_model_is_not_read(put: Put) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "num_labels": 1}
    modules = [{"path": "", "type": "sentence_transformers.cross_encoder.modules.Other"}]
    kind = {"model_type": "CrossEncoder"}
    files = {"config.json": config, "model.safetensors": WEIGHTS, "modules.json": modules}
    model = read_directory(put({**files, "config_sentence_transformers.json": kind}))
    assert model.pipeline is Pipeline.TEXT_RANKING


def test_shards_are_one_model(put: Put) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    directory = put(
        {
            "config.json": {"architectures": ["LlamaForCausalLM"]},
            "model.safetensors.index.json": {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}},
            **dict.fromkeys(shards, WEIGHTS),
        }
    )
    index = directory / "model.safetensors.index.json"
    for path in (directory, directory / shards[0], directory / shards[1], index):
        assert choose(path, runtimes=RUNTIMES).path == index
    model = read_directory(index)
    assert model.weights == tuple(directory / shard for shard in shards)
    (directory / shards[1]).unlink()
    with pytest.raises(NoRuntime, match=rf"{shards[1]} is missing, .*; pack all shards"):
        choose(directory, runtimes=RUNTIMES)
    (directory / shards[1]).write_bytes(WEIGHTS[:-1])
    with pytest.raises(NoRuntime, match="cut short"):
        choose(directory, runtimes=RUNTIMES)


def test_an_index_stays_in_its_directory(put: Put) -> None:
    index = {"weight_map": {"a": "../../other.safetensors"}}
    directory = put({"config.json": BERT, "modules.json": [], "model.safetensors.index.json": index})
    put({"config.json": {"architectures": ["LlamaForCausalLM"]}})
    (directory / "modules.json").unlink()
    with pytest.raises(LoadError, match="not beside it"):
        read_directory(directory)


def test_an_adapter_beside_weights_is_no_model(put: Put) -> None:
    directory = put(
        {
            "config.json": {"architectures": ["LlamaForCausalLM"]},
            "model.safetensors": WEIGHTS,
            "adapter_model.safetensors": WEIGHTS,
            "adapter_config.json": {"peft_type": "LORA"},
        }
    )
    assert choose(directory, runtimes=RUNTIMES).path == directory / "model.safetensors"


def test_another_form_of_the_model_is_preferred(put: Put) -> None:
    files = {"config.json": BERT, "model.safetensors": WEIGHTS, "modules.json": MODULES[:2]}
    directory = put(
        {**files, "1_Pooling/config.json": {"pooling_mode": "mean"}, "onnx/model.onnx": identity_onnx()}
    )
    assert choose(directory, runtimes=RUNTIMES).path == directory / "onnx/model.onnx"
    weights = directory / "model.safetensors"
    assert choose(directory, "encoders", RUNTIMES).path == weights
    assert choose(directory, framework="encoders", runtimes=RUNTIMES).path == weights
    assert choose(weights, runtimes=RUNTIMES).path == weights


def test_several_directories(put: Put) -> None:
    config = {"architectures": ["LlamaForCausalLM"]}
    files = {f"{name}/config.json": config for name in "ab"}
    directory = put({**files, "a/model.safetensors": WEIGHTS, "b/model.safetensors": WEIGHTS})
    with pytest.raises(SeveralModels, match=r"a/model\.safetensors, b/model\.safetensors"):
        choose(directory, runtimes=RUNTIMES)


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (
            {"config.json": {**BERT, "auto_map": {"AutoModel": "modeling.Mine"}}},
            UnsafeFormat,
            r"config\.json names code of the kit \(auto_map\), which is never run, not even with allow_code",
        ),
        (
            {"config.json": {**BERT, "text_config": [{"auto_map": {"AutoModel": "modeling.Mine"}}]}},
            UnsafeFormat,
            r"names code of the kit \(auto_map\)",
        ),
        (
            {"config.json": {**BERT, "_attn_implementation": "somebody/attention"}},
            UnsafeFormat,
            r"config\.json names a kernel of the hub, 'somebody/attention' \(_attn_implementation\)",
        ),
        (
            {"modules.json": [MODULES[0], {"path": "1", "type": "mine.Pooling"}]},
            UnsafeFormat,
            r"modules\.json names the module 'mine\.Pooling', which is code",
        ),
        (
            {
                "modules.json": [*MODULES[:2], DENSE],
                "2_Dense/config.json": DENSE_CONFIG,
                "2_Dense/pytorch_model.bin": b"x",
            },
            UnsafeFormat,
            r"2_Dense/pytorch_model\.bin is a pickle",
        ),
        (
            {
                "modules.json": [*MODULES[:2], DENSE],
                "2_Dense/config.json": {**DENSE_CONFIG, "activation_function": "os.system"},
            },
            UnsafeFormat,
            r"names the activation function 'os\.system', which is code",
        ),
        (
            {"modules.json": [*MODULES[:2], {"path": "2", "type": "sentence_transformers.models.CNN"}]},
            NoRuntime,
            r"names the module 'CNN'; served are Transformer, Pooling, Dense, Normalize",
        ),
        (
            {"modules.json": MODULES, "1_Pooling/config.json": {"pooling_mode": "first"}},
            NoRuntime,
            "the pooling",
        ),
        (
            {"modules.json": [{**MODULES[0], "path": "0"}, MODULES[1]]},
            NoRuntime,
            "must begin with a Transformer",
        ),
        (
            {"modules.json": [MODULES[0], {**MODULES[1], "path": "../1"}]},
            NoRuntime,
            "is not within the model",
        ),
        ({"modules.json": b"["}, NoRuntime, r"modules\.json is no JSON"),
        ({"modules.json": [7, 7]}, NoRuntime, "a module without a type"),
        ({"modules.json": []}, NoRuntime, "lists no transformer and pooling"),
        ({}, NoRuntime, r"has a BertModel and no modules\.json"),
        (
            {"config.json": {"architectures": ["T5ForConditionalGeneration"]}},
            NoRuntime,
            r"has the architecture 'T5ForConditionalGeneration', which is not served",
        ),
        ({"config.json": {"model_type": "bert"}}, NoRuntime, r"has the architecture 'none'"),
        ({"config.json": b"["}, NoRuntime, r"config\.json is no JSON"),
        ({"config.json": [1]}, NoRuntime, r"config\.json holds no JSON object"),
        ({"config.json": b" " * 5_000_000}, NoRuntime, r"config\.json is larger than 4194304 bytes"),
        ({"config.json": {"other": "library"}}, NoRuntime, "weights but no program"),
    ],
)
def test_a_directory_that_is_not_served_says_why(
    put: Put, files: dict[str, Any], error: type[Exception], message: str
) -> None:
    pooling = {"1_Pooling/config.json": {"pooling_mode": "mean"}}
    directory = put({"config.json": BERT, "model.safetensors": WEIGHTS, **pooling, **files})
    for allow_code in (False, True):
        with pytest.raises(error, match=message):
            choose(directory, runtimes=RUNTIMES, allow_code=allow_code)


def test_weights_under_another_name_say_so(put: Put) -> None:
    directory = put({"config.json": {"architectures": ["LlamaForCausalLM"]}, "other.safetensors": WEIGHTS})
    with pytest.raises(NoRuntime, match="weights must have the names that transformers writes"):
        choose(directory, runtimes=RUNTIMES)
