"""What commands show to people."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from gateway.cli.tables import (
    cache_table,
    containment_lines,
    device_lines,
    events_table,
    kit_text,
    message_line,
    model_line,
    models_table,
    rollout_text,
)
from gateway.kits.cache import CachedKit
from gateway.oci.reference import Digest

V1, V2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64
KIT = "registry.test/team/iris"
VERDICT = {"outcome": "Inconclusive", "check": "requests", "message": "12 of 50 so far"}


def shown(part: RenderableType) -> list[str]:
    console = Console(width=200, soft_wrap=True)
    with console.capture() as captured:
        console.print(part)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def version(tag: str, digest: str, role: str, weight: int, note: str = "") -> dict[str, Any]:
    numbers = {"weight": weight, "replicas": 1, "runtime": "" if note else "onnx"}
    return {"tag": tag, "digest": digest, "role": role, "note": note, **numbers}


IRIS = {
    "name": "iris",
    "state": "ready",
    "message": "",
    "versions": [version("v1", V1, "stable", 80), version("v2", V2, "", 0, "[its registry] is away")],
}
LILAC: dict[str, Any] = {"name": "lilac", "state": "pulling", "message": "12 of 90 MB", "versions": []}


def test_a_language_model_has_its_tokens_in_its_row() -> None:
    counted = {"generating": 2, "waiting": 1, "input_tokens": 1234, "output_tokens": 56789}
    for speed, ending in ((None, ""), (31.456, ", 31.5/s")):
        chat = version("v1", V1, "stable", 100)
        chat["generation"] = {**counted, "tokens_per_second": speed}
        rows = shown(models_table([{**IRIS, "name": "chat", "versions": [chat]}, IRIS, LILAC]))
        assert rows[0].endswith("RUNTIME TOKENS")
        assert (
            rows[1]
            == f"chat ready v1 {'1' * 12} 100 % 1 onnx 2 generating, 1 waiting, 1,234 in, 56,789 out{ending}"
        )
        assert rows[2].endswith("onnx -")


def test_a_model_has_a_row_for_each_version() -> None:
    assert shown(models_table([IRIS, LILAC])) == [
        "MODEL STATE VERSION DIGEST WEIGHT REPLICAS RUNTIME",
        "iris ready v1 111111111111 80 % 1 onnx",
        "v2 222222222222 - 1 -",
        "[its registry] is away",
        "lilac pulling - - - - -",
    ]


def test_a_model_fits_a_line() -> None:
    assert model_line(IRIS) == "iris: ready  v1@111111111111 80 %"
    assert model_line(LILAC) == "lilac: pulling  12 of 90 MB"
    loading = {"step": 0, "message": "the config asks for another kit"}
    assert model_line(IRIS | {"rollout": loading}) == "iris: ready  v1@111111111111 80 %"
    stepping = {"step": 1, "message": "step 1 of 2: weight 20 %, for 30 s"}
    assert model_line(IRIS | {"rollout": stepping}) == (
        "iris: ready  v1@111111111111 80 %  rollout: step 1 of 2: weight 20 %, for 30 s"
    )


def test_a_model_that_is_tried_again_says_how_often_it_was_and_when_the_next_try_is() -> None:
    retry = {"reason": "no answer", "tries": 3, "seconds": 39.2, "is_trying": False, "has_failed": True}
    model = {**LILAC, "state": "failed", "message": "no answer", "retry": retry}
    assert message_line(model) == "lilac: no answer (tried 3 times; next try in 40 s)"
    retry["is_trying"] = True
    assert message_line(model) == "lilac: no answer (tried 3 times; tried now)"
    assert message_line(LILAC) == "lilac: 12 of 90 MB"
    assert model_line(model) == "lilac: failed  no answer  (is tried again)"


def test_a_rollout_shows_its_versions_steps_and_checks() -> None:
    rollout = {
        "model": "iris",
        "phase": "Progressing",
        "reason": "StepStarted",
        "message": "",
        "stable": {"tag": "v1", "digest": V1},
        "canary": {"tag": "v2", "digest": V2},
        "weight": 20,
        "mirror": 0.1,
        "step": 2,
        "steps": ["5 % for 1m", "20 % for 5m"],
        "held": 12.5,
        "verdicts": [VERDICT],
    }
    assert shown(rollout_text(rollout)) == [
        "iris: Progressing StepStarted",
        "stable v1@111111111111 80 %",
        "canary v2@222222222222 20 %, 10 % mirrored",
        "step 1: 5 % for 1m",
        "> step 2: 20 % for 5m (12.5 s so far)",
        "Inconclusive requests: 12 of 50 so far",
    ]
    ended = rollout | {"phase": "Healthy", "canary": None, "weight": 0, "step": 0, "message": "[all] well"}
    assert shown(rollout_text(ended))[:3] == [
        "iris: Healthy StepStarted",
        "[all] well",
        "stable v1@111111111111 100 %",
    ]


def test_an_event_is_a_row() -> None:
    event = {"time": 0.0, "number": 3, "phase": "Degraded", "reason": "RolloutAborted", "weight": 0}
    revisions = {"stable": f"{KIT}:v1@{V1}", "canary": "", "message": "a hunch"}
    row = shown(events_table([event | revisions]))[1]
    assert row.endswith("3 Degraded RolloutAborted v1@111111111111 - 0 % a hunch")


def kit(**facts: Any) -> list[str]:
    document: dict[str, Any] = {
        **dict.fromkeys(("digest", "format", "package", "framework", "model"), ""),
        "reference": KIT,
        "parents": [],
        "variant": None,
        "hints": {},
        "layers": [],
        "trust": {"allowed": True, "reasons": []},
        "servable": True,
        "runtime": "onnx",
        "runtime_message": "",
        "file": "model.onnx",
        "inputs": [],
        "outputs": [],
        "hazard": None,
        "missing_extras": [],
        "pickle": None,
        "language": None,
        "mlflow": None,
    }
    return [line for part in kit_text(document | facts) for line in shown(part)]


def test_each_name_of_a_kit_in_the_cache_has_a_line() -> None:
    kit = CachedKit("key", (f"{KIT}:v1", f"{KIT}:\x1blatest"), Digest.parse(V1), 2000, 3000, 0.0, in_use=True)
    _, first, second = shown(cache_table([kit]))
    assert first.startswith(f"{KIT}:v1 111111111111 2.0 kB 3.0 kB ")
    assert first.endswith(" yes")
    assert second == f"{KIT}:\N{REPLACEMENT CHARACTER}latest"


def test_shapes_of_a_kit_are_written_as_callers_write_them() -> None:
    tensors = [
        {"name": "ids", "datatype": "INT64", "shape": (-1,)},
        {"name": "y", "datatype": "ANY", "shape": None},
    ]
    assert kit(inputs=tensors)[-2:] == ["input ids INT64 [-1]", "input y ANY any"]


def test_an_extra_that_is_missing_is_told_with_how_to_install_it() -> None:
    lines = kit(missing_extras=["sklearn", "xgboost"])
    assert "it needs what is not installed here: pip install 'kitserve[sklearn,xgboost]'" in lines
    assert not [line for line in kit() if "pip install" in line]


def test_a_model_that_says_nothing_before_it_is_loaded_is_told_as_such() -> None:
    assert kit()[-1] == "its inputs and outputs are known once it is loaded; /docs shows them then"


def test_a_kit_that_cannot_be_served_is_told_as_such() -> None:
    unknown = {"runtime": None, "file": ""}
    assert (
        kit(**unknown, servable=False, runtime_message="it is empty")[-1] == "cannot be served: it is empty"
    )
    assert kit(**unknown, servable=None, runtime_message="not known")[-1] == "runtime: not known"


def test_a_kit_says_which_one_of_an_index_it_is_and_what_of_it_is_not_used() -> None:
    more = {"runtime": None, "file": "", "servable": None, "runtime_message": "?"}
    hints = {"parameters": {"top_k": 4}, "notes": ("its template is not used",)}
    lines = kit(variant={"labels": "quantization=q4_0", "reason": ""}, hints=hints, **more)
    assert lines[1:3] == ["variant quantization=q4_0", "note its template is not used"]
    reason = "variant q4: it is the largest of 2"
    assert kit(variant={"labels": "", "reason": reason}, **more)[1] == reason


def test_what_workers_gave_up_is_said_once_for_all_that_are_alike() -> None:
    iris, lilac = version("v1", V1, "stable", 100), version("v1", V2, "stable", 100)
    iris["workers"] = [{"worker": "a", "contained": ["system calls", "files"], "not_contained": []}] * 2
    models = [{**IRIS, "versions": [iris]}, {**LILAC, "versions": [lilac]}]
    assert [*containment_lines(models)] == ["workers are contained: system calls, files"]
    lilac["workers"] = [{"worker": "b", "contained": ["system calls"], "not_contained": ["files"]}]
    assert [*containment_lines(models)] == [
        "workers are contained (iris): system calls, files",
        "workers are contained (lilac): system calls; not contained: files",
    ]
    assert [*containment_lines([IRIS, LILAC])] == []


def test_what_computes_is_told_of_models_on_gpus() -> None:
    iris = version("v1", V1, "stable", 100)
    on_gpu = {"device": "GPU 0 (L4)", "provider": "CUDAExecutionProvider", "gpu_bytes": 3_000_000_000}
    iris["workers"] = [on_gpu, {**on_gpu, "gpu_bytes": None}, {"device": "cpu", "provider": "CPU"}]
    first, second = device_lines([{**IRIS, "versions": [iris]}])
    assert first.startswith("iris (v1")
    assert first.endswith(" is on GPU 0 (L4), CUDAExecutionProvider, 3.0 GB of its memory")
    assert second.endswith(" is on GPU 0 (L4), CUDAExecutionProvider, memory not known")
