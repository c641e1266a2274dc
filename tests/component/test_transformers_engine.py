"""The engine on transformers as a child process, called as clients of the OpenAI API call it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from runtimes import transformers_generation
from runtimes.base import Resources
from runtimes.engines import sockets
from runtimes.engines.base import Adapter, EngineOptions, OpenAIModel, OutliningRuntime
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.transformers_generation import TransformersGenerationRuntime
from tests.support.language_models import save_llama, tokenizer

WORDS = tokenizer()
SLOTS = 4
LONG = 400  # tokens, which take seconds


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[OpenAIModel]:
    started = TransformersGenerationRuntime().start(
        directory, Resources(), EngineOptions(name="tiny", slots=SLOTS, batch=64)
    )
    yield started
    started.close()


@pytest.fixture(scope="module")
def client(model: OpenAIModel) -> Iterator[openai.OpenAI]:
    transport = httpx2.HTTPTransport(uds=str(model.socket))
    with openai.OpenAI(
        base_url="http://engine/v1",
        api_key="-",
        max_retries=0,
        http_client=httpx2.Client(transport=transport),
    ) as made:
        yield made


@pytest.fixture(scope="module")
def reference(directory: Path) -> Any:
    from transformers import LlamaForCausalLM

    load: Any = LlamaForCausalLM.from_pretrained
    model = load(directory, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # never stops
    return model


def greedy(reference: Any, tokens: list[int], count: int) -> list[int]:
    """Return the tokens that transformers' own generate says."""
    with torch.inference_mode():
        output = reference.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
        )
    said: list[int] = output[0, len(tokens) :].tolist()
    return said


def tokens_of(text: str) -> list[int]:
    tokens: list[int] = WORDS(text, add_special_tokens=False).input_ids
    return tokens


def post(model: OpenAIModel, path: str, body: Any) -> tuple[int, Any]:
    connection = sockets.UnixConnection(model.socket, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def chat(client: openai.OpenAI, text: str = "hello", **fields: Any) -> Any:
    return client.chat.completions.create(
        model="m:latest", messages=[{"role": "user", "content": text}], **{"max_tokens": 8, **fields}
    )


def test_it_says_what_it_is(model: OpenAIModel, client: openai.OpenAI, directory: Path) -> None:
    assert isinstance(model, OpenAIModel)
    assert isinstance(TransformersGenerationRuntime(), OutliningRuntime)
    outline = TransformersGenerationRuntime().outline(directory, EngineOptions())
    assert (outline.tasks, outline.context) == (model.tasks, model.context)
    assert model.tasks == {Task.CHAT, Task.COMPLETION}
    assert (model.slots, model.context, model.has_tools) == (SLOTS, 512, False)
    assert (model.platform, model.device) == ("transformers_safetensors", "cpu")
    assert getattr(model, "can_score", False)
    assert model.is_alive()
    assert model.failure() == ""
    assert [each.id for each in client.models.list()] == ["tiny"]


def test_a_model_that_cannot_be_loaded_says_why(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(
        LoadError, match=r"exit code 1: error: the weights lack 9 tensors of the model, such as"
    ):
        TransformersGenerationRuntime().start(tmp_path / "model", Resources(), EngineOptions(context=64))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (EngineOptions(task=Task.EMBEDDING), "generates text, and task embedding is asked for"),
        (EngineOptions(context=513), "was trained for 512 tokens"),
        (EngineOptions(projector=Path("mmproj.gguf")), "mmproj.gguf is a projector"),
        (EngineOptions(draft=Path("draft")), "draft is a draft"),
        (EngineOptions(adapters=(Adapter(Path("adapter.gguf")),)), "adapter of GGUF is for a model of GGUF"),
    ],
)
def test_options_that_it_cannot_have_are_refused_before_it_starts(
    directory: Path, options: EngineOptions, reason: str
) -> None:
    with pytest.raises(LoadError, match=reason):
        TransformersGenerationRuntime().start(directory, Resources(), options)


def test_a_missing_extra_is_told_before_it_starts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "peft":
            raise PackageNotFoundError(package)
        return "5.24.0"

    monkeypatch.setattr(transformers_generation, "version", version)
    with pytest.raises(LoadError, match=r"needs peft: pip install 'kitserve\[transformers\]'"):
        TransformersGenerationRuntime().start(directory, Resources(), EngineOptions())
    monkeypatch.setattr(transformers_generation, "version", lambda _: "5.19.2")
    with pytest.raises(LoadError, match=r"needs transformers 5\.24 or later, and 5\.19\.2 is here"):
        TransformersGenerationRuntime().start(directory, Resources(), EngineOptions())


@pytest.mark.parametrize("prompt", ["hello", "a", "what is a model kit? " * 8])
def test_greedy_answers_are_those_of_generate(client: openai.OpenAI, reference: Any, prompt: str) -> None:
    answer = client.completions.create(
        model="m", prompt=prompt, max_tokens=24, temperature=0, extra_body={"ignore_eos": True}
    )
    expected = greedy(reference, tokens_of(prompt), 24)
    assert answer.choices[0].text == WORDS.decode(expected, skip_special_tokens=True)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(tokens_of(prompt)), 24)


def test_a_conversation_goes_through_the_template(client: openai.OpenAI, reference: Any) -> None:
    answer = chat(client, temperature=0, extra_body={"ignore_eos": True})
    expected = greedy(reference, tokens_of("<|user|>hello<|end|><|assistant|>"), 8)
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", WORDS.decode(expected, skip_special_tokens=True))
    assert answer.model == "m:latest"
    assert answer.object == "chat.completion"
    assert answer.system_fingerprint.startswith("transformers-")


def test_a_stream_says_the_same_as_a_whole_answer(client: openai.OpenAI) -> None:
    whole = chat(client, temperature=0, logprobs=True, top_logprobs=2)
    chunks = list(
        chat(
            client,
            temperature=0,
            logprobs=True,
            top_logprobs=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == [
        whole.choices[0].finish_reason
    ]
    reports = [report for choice in choices if choice.logprobs for report in choice.logprobs.content]
    assert reports == whole.choices[0].logprobs.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_logprobs_are_those_of_the_model(client: openai.OpenAI, reference: Any) -> None:
    answer = chat(client, temperature=0, max_tokens=3, logprobs=True, top_logprobs=3)
    prompt = tokens_of("<|user|>hello<|end|><|assistant|>")
    with torch.inference_mode():
        table = reference(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    report = answer.choices[0].logprobs.content[0]
    values, tokens = table.topk(3)
    assert [other.logprob for other in report.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)
    assert [other.token for other in report.top_logprobs] == [WORDS.decode([token]) for token in tokens]
    assert report.logprob == pytest.approx(float(values[0]), abs=1e-4)
    assert bytes(report.bytes).decode(errors="replace") == report.token


def test_many_calls_at_once_do_not_mix(client: openai.OpenAI, reference: Any) -> None:
    prompts = [f"{word} {number}" for number in range(4) for word in ("hello", "what", "kit")]
    texts: dict[str, str] = {}

    def call(prompt: str) -> None:
        stream = client.completions.create(
            model="m",
            prompt=prompt,
            max_tokens=20,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        texts[prompt] = "".join(chunk.choices[0].text for chunk in stream)

    threads = [threading.Thread(target=call, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt in prompts:
        expected = greedy(reference, tokens_of(prompt), 20)
        assert texts[prompt] == WORDS.decode(expected, skip_special_tokens=True)


def test_a_seed_repeats_an_answer_and_n_gives_several(client: openai.OpenAI) -> None:
    first = chat(client, seed=3, n=3, extra_body={"ignore_eos": True})
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 3
    again = chat(client, seed=3, n=3, extra_body={"ignore_eos": True})
    assert [choice.message.content for choice in again.choices] == texts
    assert chat(client, seed=40).choices[0].message.content not in texts
    assert first.usage.completion_tokens == 24


def test_several_prompts_have_their_choices_in_order(client: openai.OpenAI, reference: Any) -> None:
    answer = client.completions.create(
        model="m", prompt=[tokens_of("hello"), tokens_of("kit")], max_tokens=4, temperature=0, logprobs=1
    )
    assert isinstance(answer, openai.types.Completion)
    for choice, prompt in zip(answer.choices, ("hello", "kit"), strict=True):
        assert choice.text == WORDS.decode(greedy(reference, tokens_of(prompt), 4), skip_special_tokens=True)
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert len(choice.logprobs.tokens) == 4


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_stop_string_across_tokens_ends_the_answer_before_it(
    client: openai.OpenAI, reference: Any, is_streamed: bool
) -> None:
    text = WORDS.decode(greedy(reference, tokens_of("hello"), 24), skip_special_tokens=True)
    stop = text[6:9]
    answer = client.completions.create(
        model="m", prompt="hello", max_tokens=24, temperature=0, stop=[stop], stream=is_streamed
    )
    if isinstance(answer, openai.types.Completion):
        choices = answer.choices
    else:
        choices = [chunk.choices[0] for chunk in answer]
    assert "".join(choice.text for choice in choices) == text.partition(stop)[0]
    assert choices[-1].finish_reason == "stop"


def test_a_token_that_ends_the_text_ends_it(client: openai.OpenAI) -> None:
    answer = chat(client, temperature=0, logit_bias={"0": 100})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("", "stop")
    assert answer.usage.completion_tokens == 1


def test_the_context_ends_an_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="m", prompt=[5] * 500, max_tokens=100, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 9}, "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"grammar": "x"}}, "grammar"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_it_cannot_do_is_refused(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    for is_streamed in (False, True):
        with pytest.raises(openai.BadRequestError) as error:
            chat(client, stream=is_streamed, **fields)
        assert error.value.param == param


def test_prompts_that_do_not_fit(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, "x" * 600)
    assert error.value.code == "context_length_exceeded"
    for prompt in ("", [300], []):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="m", prompt=prompt)


def test_other_paths_answer_in_the_form_of_the_api(model: OpenAIModel) -> None:
    for path, status in (
        ("/v1/embeddings", 400),
        ("/v1/responses", 400),
        ("/v1/other", 404),
        ("/health", 405),
    ):
        answer_status, body = post(model, path, {})
        assert answer_status == status
        assert set(body["error"]) == {"message", "type", "param", "code"}


def test_a_score_is_the_likelihood_of_the_answer(model: OpenAIModel, reference: Any) -> None:
    prompt, answer = "hello", " what is a model kit? " * 60  # of several chunks
    tokens = tokens_of(prompt) + tokens_of(answer)
    first = len(tokens_of(prompt))
    assert len(tokens) > 300
    with torch.inference_mode():
        table = reference(torch.tensor([tokens])).logits[0].log_softmax(-1)
    expected = sum(float(table[place - 1, tokens[place]]) for place in range(first, len(tokens)))
    status, score = post(model, "/score", {"prompt": prompt, "answer": answer})
    assert status == 200
    assert score["tokens"] == len(tokens) - first
    assert score["logprob"] == pytest.approx(expected, rel=1e-4)


def test_a_score_in_a_conversation_is_that_of_what_was_said(
    model: OpenAIModel, client: openai.OpenAI, reference: Any
) -> None:
    said = chat(client, temperature=0, max_tokens=6, logprobs=True, extra_body={"ignore_eos": True})
    answer = greedy(reference, tokens_of("<|user|>hello<|end|><|assistant|>"), 6)
    messages = [{"role": "user", "content": "hello"}]
    status, score = post(model, "/score", {"messages": messages, "answer": answer})
    assert (status, score["tokens"]) == (200, 6)
    logprobs = [report.logprob for report in said.choices[0].logprobs.content]
    assert score["logprob"] == pytest.approx(sum(logprobs), abs=1e-3)


@pytest.mark.parametrize(
    "body",
    [
        {"answer": "a"},
        {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "answer": "a"},
        {"prompt": "a", "answer": ""},
        {"prompt": "a", "answer": "a" * 600},
        {"prompt": "a", "answer": "a", "other": 1},
    ],
)
def test_scores_that_cannot_be_are_refused(model: OpenAIModel, body: dict[str, Any]) -> None:
    assert post(model, "/score", body)[0] == 400


@pytest.fixture(scope="module")
def long_seconds(client: openai.OpenAI) -> float:
    """How long a call of `LONG` tokens takes on this machine in all slots."""
    began = time.monotonic()
    client.completions.create(
        model="m", prompt="hello", max_tokens=LONG, n=SLOTS, extra_body={"ignore_eos": True}
    )
    return time.monotonic() - began


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_caller_that_hangs_up_frees_its_slot(
    model: OpenAIModel, client: openai.OpenAI, is_streamed: bool, long_seconds: float
) -> None:
    body = {"prompt": "hello", "max_tokens": LONG, "ignore_eos": True, "stream": is_streamed, "n": SLOTS}
    connection = sockets.UnixConnection(model.socket, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(body))
    if is_streamed:
        connection.getresponse().read(10)
    else:
        time.sleep(0.3)
    connection.close()
    began = time.monotonic()
    client.completions.create(model="m", prompt="a", max_tokens=1)
    assert time.monotonic() - began < long_seconds / 2


def test_a_caller_that_waits_for_a_slot_may_hang_up(model: OpenAIModel, client: openai.OpenAI) -> None:
    running = client.completions.create(
        model="m", prompt="a", max_tokens=LONG, n=SLOTS, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(running))
    waiting = sockets.UnixConnection(model.socket, timeout=60)
    waiting.request("POST", "/v1/completions", json.dumps({"prompt": "b", "max_tokens": LONG}))
    time.sleep(0.1)
    waiting.close()
    running.close()
    assert client.completions.create(model="m", prompt="a", max_tokens=1).choices
