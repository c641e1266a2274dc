"""The runtime of transformers keeps the contract, and answers as transformers itself does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from runtimes.base import Array, Resources, TensorModel
from runtimes.encoders.model import TransformersModel, TransformersTextModel
from runtimes.encoders.texts import TextReader
from runtimes.engines.task import Task
from runtimes.errors import InputError, LoadError
from runtimes.select import choose
from runtimes.testing import ProcessContract, TensorContract
from runtimes.text_model import TextModel
from runtimes.transformers import TransformersRuntime
from tests.support.hugging_face import TEXTS, texts, write_bert, write_modules, write_vit
from tests.support.models import minilm

Made = tuple[Path, Any]
"""A directory, and the module that was saved in it."""


def tokenizer_of(directory: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(directory)


def states(module: Any, directory: Path, text: str, max_length: int = 32) -> Any:
    """Return transformers' own vectors of one text's tokens, with no padding at all."""
    encoded = tokenizer_of(directory)([text], return_tensors="pt", truncation=True, max_length=max_length)
    with torch.inference_mode():
        return module(**encoded)[0][0]


def load(directory: Path) -> TransformersModel:
    choice = choose(directory)
    assert choice.runtime.name == "transformers"
    model = choice.runtime.load(choice.path, Resources())
    assert isinstance(model, TransformersModel)
    assert choice.runtime.signature(choice.path) == model.signature
    return model


def load_text(directory: Path) -> TransformersTextModel:
    model = load(directory)
    assert isinstance(model, TransformersTextModel)
    assert isinstance(model, TextModel)
    return model


class _Contract(TensorContract):
    engine = "transformers"

    @pytest.fixture
    def runtime(self) -> TransformersRuntime:
        return TransformersRuntime()

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {"text": texts(*TEXTS)}


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("embedding")
    module = write_bert(directory)
    write_modules(directory, is_normalized=True)
    return directory, module


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("reranker")
    return directory, write_bert(directory, "BertForSequenceClassification", num_labels=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("images")
    return directory, write_vit(directory)


class TestEmbeddings(_Contract, ProcessContract):
    @pytest.fixture
    def model_root(self, embedding: Made) -> Path:
        return embedding[0]

    @pytest.fixture
    def model_path(self, embedding: Made) -> Path:
        return embedding[0] / "model.safetensors"

    @pytest.fixture
    def expected(self, embedding: Made) -> dict[str, Array]:
        directory, module = embedding
        vectors = [states(module, directory, text) for text in TEXTS]
        means = np.stack([vector.mean(dim=0).numpy() for vector in vectors])
        return {
            "embedding": means / np.linalg.norm(means, axis=1, keepdims=True),
            "tokens": np.array([len(vector) for vector in vectors]),
        }


class TestRerank(_Contract):
    @pytest.fixture
    def model_path(self, reranker: Made) -> Path:
        return reranker[0] / "model.safetensors"

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {"query": texts(*["the red cat"] * len(TEXTS)), "text": texts(*TEXTS)}

    @pytest.fixture
    def expected(self, reranker: Made) -> dict[str, Array]:
        directory, module = reranker
        tokenizer = tokenizer_of(directory)
        pairs = [tokenizer("the red cat", text, return_tensors="pt") for text in TEXTS]
        with torch.inference_mode():
            scores = [torch.sigmoid(module(**pair).logits)[0, 0].item() for pair in pairs]
        counts = [pair["input_ids"].shape[1] for pair in pairs]
        return {"score": np.array(scores, np.float32), "tokens": np.array(counts)}


class TestImages(_Contract):
    @pytest.fixture
    def model_path(self, images: Made) -> Path:
        return images[0] / "model.safetensors"

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {"pixel_values": np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)}

    @pytest.fixture
    def expected(self, images: Made, inputs: dict[str, Array]) -> dict[str, Array]:
        _, module = images
        with torch.inference_mode():
            logits = module(torch.from_numpy(inputs["pixel_values"])).logits
        names = [module.config.id2label[int(index)].encode() for index in logits.argmax(dim=1)]
        return {
            "logits": logits.numpy(),
            "probabilities": logits.softmax(dim=1).numpy(),
            "label": np.array(names, object),
        }


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken"])
def test_poolings(tmp_path: Path, mode: str) -> None:
    module = write_bert(tmp_path)
    write_modules(tmp_path, mode)
    actual = load(tmp_path).infer({"text": texts(*TEXTS)})["embedding"]
    vectors = [states(module, tmp_path, text).numpy() for text in TEXTS]
    pool: dict[str, Callable[[Array], Array]] = {
        "cls": lambda vector: vector[0],
        "max": lambda vector: vector.max(axis=0),
        "mean": lambda vector: vector.mean(axis=0),
        "mean_sqrt_len": lambda vector: vector.sum(axis=0) / np.sqrt(len(vector)),
        "weightedmean": lambda vector: np.average(vector, axis=0, weights=np.arange(1, len(vector) + 1)),
        "lasttoken": lambda vector: vector[-1],
    }
    np.testing.assert_allclose(actual, np.stack([pool[mode](vector) for vector in vectors]), atol=1e-5)


def test_two_poolings_are_joined_and_go_through_a_layer(tmp_path: Path) -> None:
    module = write_bert(tmp_path)
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    write_modules(tmp_path, pooling)
    model = load_text(tmp_path)
    vectors = [states(module, tmp_path, text).numpy() for text in TEXTS]
    joined = np.stack([np.concatenate([vector[0], vector.mean(axis=0)]) for vector in vectors])
    np.testing.assert_allclose(model.infer({"text": texts(*TEXTS)})["embedding"], joined, atol=1e-5)
    assert model.dimensions == 32
    write_modules(tmp_path, "mean", dense=4, is_normalized=True)
    model = load_text(tmp_path)
    torch.manual_seed(8)
    weight, bias = torch.randn(4, 16).numpy(), torch.randn(4).numpy()
    expected = np.tanh(np.stack([vector.mean(axis=0) for vector in vectors]) @ weight.T + bias)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.infer({"text": texts(*TEXTS)})["embedding"], expected, atol=1e-5)
    assert model.dimensions == 4


def test_texts_are_prepared_as_the_directory_says(tmp_path: Path) -> None:
    module = write_bert(tmp_path)
    write_modules(tmp_path, max_seq_length=6, do_lower_case=True)
    model = load(tmp_path)
    outputs = model.infer({"text": texts("  THE CAT sat on the mat in the park ")})
    assert outputs["tokens"].tolist() == [6]
    expected = states(module, tmp_path, "the cat sat on the mat in the park", 6).mean(dim=0).numpy()
    np.testing.assert_allclose(outputs["embedding"][0], expected, atol=1e-5)


@pytest.mark.parametrize("is_counted", [True, False])
def test_prompts(tmp_path: Path, is_counted: bool) -> None:
    module = write_bert(tmp_path)
    write_modules(tmp_path, {"pooling_mode": "mean", "include_prompt": is_counted})
    config = {"prompts": {"query": "the city of ", "document": ""}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(config))
    model = load(tmp_path)
    assert [spec.name for spec in model.signature.optional] == ["prompt_name"]
    text = texts("paris", "paris")
    prompted = states(module, tmp_path, "the city of paris")
    prompted = (prompted if is_counted else prompted[4:]).mean(dim=0).numpy()
    plain = states(module, tmp_path, "paris").mean(dim=0).numpy()
    actual = model.infer({"text": text, "prompt_name": texts("document", "query")})["embedding"]
    np.testing.assert_allclose(actual, np.stack([plain, prompted]), atol=1e-5)
    np.testing.assert_allclose(model.infer({"text": text})["embedding"][0], prompted, atol=1e-5)
    with pytest.raises(InputError, match="unknown prompt 'passage'; the model has 'query', 'document'"):
        model.infer({"text": text, "prompt_name": texts("query", "passage")})
    with pytest.raises(InputError, match="2 and 1 rows"):
        model.infer({"text": text, "prompt_name": texts("query")})


def test_the_end_of_a_long_text_is_not_read(tmp_path: Path) -> None:
    module = write_bert(tmp_path)
    tokenizer = tokenizer_of(tmp_path)
    lengths: list[int] = []

    def read(texts: list[str], pairs: None, **options: Any) -> Any:
        lengths.extend(map(len, texts))
        return tokenizer(texts, pairs, **options)

    long, short = "cat " * 100_000, "cat " * 31
    tokens = TextReader(read, module, "cpu", 32, 0).read([long, short])["input_ids"]
    assert lengths == [32 * 256, len(short)]
    assert tokens[0] == tokens[1]


def test_many_texts_come_back_in_their_order(tmp_path: Path) -> None:
    write_bert(tmp_path)
    write_modules(tmp_path)
    model = load(tmp_path)
    lengths = np.random.default_rng(0).integers(1, 25, 150)
    many = [" ".join(["cat", "dog", "park"][n % 3] for n in range(length)) for length in lengths]
    outputs = model.infer({"text": texts(*many)})
    assert outputs["tokens"].tolist() == (lengths + 2).tolist()
    for row in (0, 77, 149):
        single = model.infer({"text": texts(many[row])})["embedding"][0]
        np.testing.assert_allclose(outputs["embedding"][row], single, atol=1e-5)


def test_no_texts_and_bad_texts(tmp_path: Path) -> None:
    write_bert(tmp_path)
    write_modules(tmp_path)
    model = load_text(tmp_path)
    assert model.infer({"text": np.empty(0, object)})["embedding"].shape == (0, 16)
    assert model.infer({"text": texts("")})["tokens"].tolist() == [2]
    with pytest.raises(InputError, match="input 'text', row 1 is not UTF-8"):
        model.infer({"text": np.array([b"cat", b"\xff"], object)})
    assert model.text_of([2, 6, 7, 3]) == "cat dog"
    with pytest.raises(InputError, match="token 22 is none of the model's, which are 0 to 21"):
        model.text_of([22])
    assert (set(model.tasks), model.dimensions) == ({Task.EMBEDDING}, 16)
    assert not model.may_shorten(8)


@pytest.mark.parametrize(
    ("config", "allowed"),
    [({"is_matryoshka": True}, {1, 4, 8, 15}), ({"matryoshka_dimensions": [4, 8, 16]}, {4, 8})],
)
def test_matryoshka(tmp_path: Path, config: dict[str, Any], allowed: set[int]) -> None:
    write_bert(tmp_path, **config)
    write_modules(tmp_path)
    model = load_text(tmp_path)
    assert {size for size in (-1, 0, 1, 4, 8, 15, 16, 17) if model.may_shorten(size)} == allowed


def test_the_activation_of_a_reranker_is_that_of_its_config(tmp_path: Path) -> None:
    options = {
        "num_labels": 1,
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    }
    module = write_bert(tmp_path, "BertForSequenceClassification", **options)
    model = load_text(tmp_path)
    with torch.inference_mode():
        logit = module(**tokenizer_of(tmp_path)("cat", "dog", return_tensors="pt")).logits.item()
    assert model.infer({"query": texts("cat"), "text": texts("dog")})["score"][0] == pytest.approx(
        logit, abs=1e-5
    )
    assert model.tasks == {Task.RERANK}
    with pytest.raises(InputError, match="1 and 2 rows"):
        model.infer({"query": texts("cat"), "text": texts("dog", "mat")})


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_classifiers_of_texts_answer_as_the_pipeline(tmp_path: Path, problem: str) -> None:
    labels = {0: "bad", 1: "good", 2: "other"}
    module = write_bert(tmp_path, "BertForSequenceClassification", id2label=labels, problem_type=problem)
    outputs = load(tmp_path).infer({"text": texts(*TEXTS)})
    pipeline: Any = transformers.pipeline(
        "text-classification", model=module, tokenizer=tokenizer_of(tmp_path), top_k=None
    )
    for row, answer in enumerate(pipeline(list(TEXTS))):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert outputs["label"][row].decode() == answer[0]["label"]
        expected = [scores[name] for name in labels.values()]
        np.testing.assert_allclose(outputs["probabilities"][row], expected, atol=1e-5)
    with torch.inference_mode():
        logits = module(**tokenizer_of(tmp_path)(TEXTS[1], return_tensors="pt")).logits[0]
    np.testing.assert_allclose(outputs["logits"][1], logits, atol=1e-5)


def test_a_classifier_of_pairs(tmp_path: Path) -> None:
    module = write_bert(tmp_path, "BertForSequenceClassification", num_labels=3)
    model = load(tmp_path)
    pair = tokenizer_of(tmp_path)("a cat", "a dog", return_tensors="pt")
    with torch.inference_mode():
        expected = module(**pair).logits
    actual = model.infer({"text": texts("a cat"), "text_pair": texts("a dog")})["logits"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    with pytest.raises(InputError, match="1 and 2 rows"):
        model.infer({"text": texts("a cat"), "text_pair": texts("a dog", "a mat")})


def test_a_regression_has_logits_alone(tmp_path: Path) -> None:
    write_bert(tmp_path, "BertForSequenceClassification", num_labels=2, problem_type="regression")
    model = load(tmp_path)
    assert [spec.name for spec in model.signature.outputs] == ["logits"]
    assert model.infer({"text": texts("cat")})["logits"].shape == (1, 2)


def test_classifiers_of_tokens_answer_as_the_pipeline(tmp_path: Path) -> None:
    labels = {0: "O", 1: "B-PLACE", 2: "I-PLACE", 3: "B-ANIMAL", 4: "I-ANIMAL"}
    module = write_bert(tmp_path, "BertForTokenClassification", id2label=labels)
    answers = load(tmp_path).infer({"text": texts(*TEXTS)})["entities"]
    pipeline: Any = transformers.pipeline(
        "token-classification", model=module, tokenizer=tokenizer_of(tmp_path), aggregation_strategy="simple"
    )
    found = 0
    for text, answer, expected in zip(TEXTS, answers, pipeline(list(TEXTS)), strict=True):
        entities = json.loads(answer)
        found += len(entities)
        assert [(e["label"], e["start"], e["end"], e["text"]) for e in entities] == [
            (e["entity_group"], e["start"], e["end"], text[e["start"] : e["end"]]) for e in expected
        ]
        np.testing.assert_allclose([e["score"] for e in entities], [e["score"] for e in expected], atol=1e-5)
    assert found > 5


def test_weights_that_lack_the_classifier_are_refused(tmp_path: Path) -> None:
    write_bert(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "architectures": ["BertForSequenceClassification"]})
    )
    with pytest.raises(
        LoadError, match=r"lacks weights of BertForSequenceClassification: classifier\.bias and 1"
    ):
        load(tmp_path)


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    write_bert(tmp_path)
    write_modules(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 1_000_000_000}))
    with pytest.raises(
        LoadError, match=r"refuses the model in .*: its weights have other shapes than config"
    ):
        load(tmp_path)


def test_what_is_missing_is_told_without_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bert(tmp_path)
    write_modules(tmp_path)
    path, runtime = tmp_path / "model.safetensors", TransformersRuntime()
    runtime.check(path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(LoadError, match=r"adapter_config\.json makes an adapter of this"):
        runtime.check(path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(LoadError, match=r"has no tokenizer\.json; pack it with the model"):
        runtime.check(path)
    monkeypatch.setattr("runtimes.encoders.loading.find_spec", lambda name: None)
    with pytest.raises(LoadError, match=r"needs transformers: pip install 'kitserve\[transformers\]'"):
        runtime.check(path)


def test_shards_answer_as_one_file(tmp_path: Path) -> None:
    module = write_bert(tmp_path / "one")
    write_modules(tmp_path / "one")
    expected = load(tmp_path / "one").infer({"text": texts(*TEXTS)})["embedding"]
    module.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    for path in (tmp_path / "one").rglob("*.json"):
        target = tmp_path / "shards" / path.relative_to(tmp_path / "one")
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            target.write_bytes(path.read_bytes())
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    actual: TensorModel = load(tmp_path / "shards")
    np.testing.assert_array_equal(actual.infer({"text": texts(*TEXTS)})["embedding"], expected)


def test_a_real_model() -> None:
    model = load_text(minilm())
    outputs = model.infer({"text": texts("A man eats.", "Somebody is having a meal.", "The sky is blue.")})
    embeddings = outputs["embedding"]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert embeddings[0] @ embeddings[1] > 0.4 > 0.2 > embeddings[0] @ embeddings[2]
    assert (model.dimensions, model.signature.outputs[0].shape) == (384, (-1, 384))
