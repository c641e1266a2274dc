"""What the processes of a Kitserve import at their start: each import takes time and memory, in every worker.

`python -X importtime -c 'import gateway.worker.replica'` shows where a module comes from. Ray itself imports
FastAPI, requests and jsonschema.
"""

from __future__ import annotations

import json
import subprocess
import sys

ENGINES = ("lightgbm", "llama_cpp", "onnxruntime", "scipy", "sklearn", "torch", "transformers", "xgboost")
PROGRAM = """
import json, sys
import {first}
early = sorted(sys.modules)
import {second}
print(json.dumps([early, sorted(sys.modules)]))
"""


def modules_after(first: str, second: str) -> tuple[set[str], set[str]]:
    """Return the names of all modules that are there after each of two imports."""
    program = PROGRAM.format(first=first, second=second)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    early, late = json.loads(ended.stdout.splitlines()[-1])
    return set(early), set(late)


def test_neither_gateway_nor_worker_imports_what_few_models_need() -> None:
    # In this order: what the gateway is to be without, the worker has.
    gateway, both = modules_after("gateway.control.gateway", "gateway.worker.replica")
    never = {"oras", "cryptography", *ENGINES}
    assert never & gateway == set()
    assert never & both == set()
    assert "gateway.worker.replica" not in gateway
    assert "gateway.worker.assembly" not in gateway
    of_language_models = {"gateway.worker.openai", "gateway.worker.first_prompt", "gateway.worker.embeddings"}
    assert of_language_models & both == set()
