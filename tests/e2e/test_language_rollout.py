"""A rollout of a language model: its canary is judged by its answers to mirrored prompts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.support.chat_kits import tiny_chat_layout
from tests.support.kitserve import Running
from tests.support.load import Load

ROLLOUT: dict[str, Any] = {
    "steps": [{"weight": 0, "mirror": 1.0}, {"weight": 30, "for": "2s"}],
    "checks": {
        "max_error_rate": 0.3,
        "max_first_token_ratio": 1000,
        "max_token_time_ratio": 1000,
        "min_requests": 10,
        "answers": {"mirror": 1.0, "max_faults": 0.25, "max_shift": 0.3, "min_pairs": 20},
    },
    "scale_down_delay": "1s",
}
CALL = {"model": "talk", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 8}


def test_a_good_prompt_goes_through_and_a_bad_model_is_stopped_by_its_answers(
    kitserve: Running, tmp_path: Path
) -> None:
    kits = f"oci-layout:{tiny_chat_layout(tmp_path)}:chat/tiny"
    talk: dict[str, Any] = {"kit": f"{kits}:v1", "engine": {"slots": 4}, "rollout": ROLLOUT}
    kitserve.models = {"talk": talk}
    kitserve.apply()
    kitserve.wait_for_rollout("talk")
    bodies = [json.dumps({**CALL, "stream": stream}).encode() for stream in (True, False)]
    with Load(f"{kitserve.url}/v1/chat/completions", bodies, clients=3, pause=0.01) as load:
        talk["kit"] = f"{kits}:v2"
        kitserve.apply()
        shown = kitserve.wait_for_rollout("talk", phase="Healthy")
        assert (shown["reason"], shown["stable"]["tag"]) == ("RolloutCompleted", "v2")
        outcomes = {verdict["check"]: verdict["outcome"] for verdict in shown["verdicts"]}
        assert {"mirrored_error", "empty", "repetition", "cut_off", "length"} < set(outcomes)
        assert {"first_token", "token_time"} < set(outcomes)
        assert set(outcomes.values()) == {"Successful"}
        load.wait_for("v2")
        time.sleep(0.5)  # calls that v1 had begun are answered
        load.forget()
        talk["kit"] = f"{kits}:stuck"
        kitserve.apply(check=False)
        shown = kitserve.wait_for_rollout("talk", phase="Degraded")
        assert (shown["reason"], shown["weight"], shown["stable"]["tag"]) == ("AnalysisFailed", 0, "v2")
        told = kitserve.run("rollout", "status", "talk", "--admin", kitserve.admin).stdout
        assert "Failed repetition: canary repeats itself in 100 % of" in told
        assert set(load.versions) == {"v2"}, "mirrored calls are seen by no caller"
        load.forget()
        talk["rollout"] = {**ROLLOUT, "golden": {"dataset": "golden.jsonl"}}
        talk["kit"] = f"{kits}:silent"
        kitserve.apply(check=False)
        shown = kitserve.wait_for_rollout("talk", reason="GoldenDatasetFailed")
        assert "0 of 1 row of golden.jsonl answered as expected" in shown["message"]
        assert set(load.versions) == {"v2"}
    assert load.failures == {}
    lines = [line for line in kitserve.metrics().splitlines() if line.startswith("kitserve_tokens_total{")]
    assert any('role="mirror"' in line for line in lines)
