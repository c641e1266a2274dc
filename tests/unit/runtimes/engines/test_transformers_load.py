"""The load of a model from a directory, and of adapters into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtimes.engines.transformers_load import Loaded, Refused, load
from runtimes.engines.transformers_sampling import Sampling
from tests.support.language_models import llama, save_adapter, save_llama

# peft 0.21 asks transformers 5.24 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOKENS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "model")


def loaded(directory: Path, *adapters: tuple[Path, float]) -> Loaded:
    return load(directory, dtype="float32", device="cpu", adapters=adapters)


def logits(model: Any) -> Any:
    with torch.inference_mode():
        return model(TOKENS).logits


def base(directory: Path) -> Any:
    return loaded(directory).model


def test_a_model_is_as_it_was_saved(directory: Path) -> None:
    model = loaded(directory)
    torch.testing.assert_close(logits(model.model), logits(llama(vocabulary=len(model.tokenizer))))
    assert model.stops == {0}
    assert model.defaults == Sampling()


def test_a_model_computes_in_the_datatype_that_is_asked_for(directory: Path) -> None:
    assert load(directory, dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


def test_the_models_own_settings_are_the_defaults(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}
    model = loaded(save_llama(tmp_path, **settings, eos_token_id=[0, 5]))
    assert model.defaults == Sampling(temperature=0.6, top_k=20, repetition_penalty=1.1)
    assert model.stops == {0, 5}


def test_settings_of_sampling_are_none_where_it_does_not_sample(tmp_path: Path) -> None:
    assert loaded(save_llama(tmp_path, do_sample=False, temperature=0.6)).defaults == Sampling()


def test_a_model_of_which_a_weight_is_missing_is_refused(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refused, match=r"lack 1 tensors of the model, such as .*up_proj"):
        loaded(directory)


def test_weights_of_another_size_are_refused(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "intermediate_size": 256}))
    with pytest.raises(Refused, match=r"another model's .*down_proj.weight is \[64, 128\], not \[64, 256\]"):
        loaded(directory)


def test_a_model_without_a_tokenizer_is_refused(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(Refused, match="the tokenizer cannot be read"):
        loaded(directory)


def test_pickles_are_not_read(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        loaded(directory)


def test_an_adapter_is_merged_as_peft_applies_it(directory: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = save_adapter(tmp_path / "adapter", base(directory))
    expected = logits(PeftModel.from_pretrained(base(directory), adapter).eval())
    merged = loaded(directory, (adapter, 1.0))
    torch.testing.assert_close(logits(merged.model), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, logits(base(directory)), atol=1e-3)


def test_a_scale_of_none_is_the_base_and_half_lies_between(directory: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base(directory))
    weight = "model.layers.0.self_attn.q_proj.weight"
    weights = {
        scale: loaded(directory, (adapter, scale)).model.state_dict()[weight] for scale in (0.0, 0.5, 1.0)
    }
    torch.testing.assert_close(weights[0.0], base(directory).state_dict()[weight])
    torch.testing.assert_close(weights[0.5], (weights[0.0] + weights[1.0]) / 2)


def test_two_adapters_are_added(directory: Path, tmp_path: Path) -> None:
    first = save_adapter(tmp_path / "first", base(directory))
    second = save_adapter(tmp_path / "second", base(directory), seed=2)
    weight = "model.layers.0.self_attn.q_proj.weight"

    def change(*adapters: Path) -> Any:
        model = loaded(directory, *((path, 1.0) for path in adapters)).model
        return model.state_dict()[weight] - base(directory).state_dict()[weight]

    torch.testing.assert_close(change(first, second), change(first) + change(second), atol=1e-5, rtol=1e-4)


def test_an_adapter_of_a_deeper_base_is_refused(directory: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", llama(layers=3))
    with pytest.raises(Refused, match=r"4 of its tensors are of layers .*layers\.2\..*another base"):
        loaded(directory, (adapter, 1.0))


def test_an_adapter_of_a_shallower_base_is_refused(directory: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", llama(layers=1))
    with pytest.raises(Refused, match=r"4 of its tensors are of layers .*layers\.1\..*another base"):
        loaded(directory, (adapter, 1.0))


def test_an_adapter_of_another_width_is_refused(directory: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base(directory))
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: tensor.repeat(1, 2) for name, tensor in weights.items()}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(Refused, match=r"adapter adapter does not fit the model: .*size mismatch"):
        loaded(directory, (adapter, 1.0))


def test_an_adapter_of_other_layers_is_refused(directory: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base(directory))
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"] = ["c_attn"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match="c_attn"):
        loaded(directory, (adapter, 1.0))


def test_only_safetensors_and_only_lora(directory: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base(directory))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(Refused, match="is a IA3; only LoRA"):
        loaded(directory, (adapter, 1.0))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(Refused, match="served from safetensors only"):
        loaded(directory, (adapter, 1.0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(directory: Path) -> None:
    with pytest.raises(Refused, match="a GPU is asked for"):
        load(directory, dtype="bfloat16", device="cuda")
