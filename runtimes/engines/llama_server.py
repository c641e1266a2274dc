"""llama.cpp's server in a process of its own: `python -m runtimes.engines.llama_server`, see `process`.

It is xllamacpp's, whose loading holds the interpreter's lock throughout, and which a damaged file can abort.
Its attributes change between releases: nothing else imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtimes.containment.seccomp import Sockets
from runtimes.engines import child

GENERATION, EMBEDDING, RERANK = "generation", "embedding", "rerank"
"""What a server is started for."""

DEVICE = "computes on "
"""What the line of the log with the GPU's name begins with."""

REFUSED = "llama.cpp refuses the model"
NO_GPU = (
    "the xllamacpp that is installed has no GPU support: install its build for CUDA, ROCm or Vulkan, or set "
    "resources.gpus to 0"
)

_ALL_LAYERS = 9_999
_WARNINGS = 2
# Copies of a slot's state that models with a sliding window or without attention need to reuse a prompt.
_CHECKPOINTS = 2
_HTTP_THREADS = 16


def main() -> None:
    """Load the model, serve it on the socket, and return when the parent ends."""
    options = child.begin()
    try:
        import xllamacpp
    except ImportError as error:
        if "libgomp" in str(error):
            raise SystemExit(f"xllamacpp needs libgomp: apt-get install libgomp1 ({error})") from error
        raise SystemExit(f"xllamacpp is missing: pip install xllamacpp ({error})") from error
    adapters = [path for path, _ in options["adapters"]]
    kit = [options["path"], options["projector"], options["draft"], *adapters]
    # A model in parts has them side by side.
    places = [Path(path).parent for path in kit if path is not None]
    child.enclose(Path(options["socket"]).parent, places, Sockets.LISTENING)
    if options["has_gpu"]:
        gpus = [device["name"] for device in xllamacpp.get_device_info() if _is_gpu(device)]
        if not gpus:
            raise SystemExit(NO_GPU)
        print(f"{DEVICE}{gpus[0]}", flush=True)  # noqa: T201 - the parent reads it
    parameters = _parameters(xllamacpp, options)
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError:
        # The reason is in the log, which llama.cpp has written by itself.
        raise SystemExit(REFUSED) from None
    child.wait_for_parent()
    # Its destructor waits for calls that run.
    del server


def _parameters(xllamacpp: Any, options: dict[str, Any]) -> Any:
    """Return the parameters of the server for the options of `runtimes.gguf`."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = options["path"]
    parameters.model_alias = {options["name"]}
    parameters.check_tensors = True
    parameters.offline = True
    parameters.verbosity = _WARNINGS
    _set_endpoints(parameters, options["socket"], options["slots"])
    _set_computing(parameters, options)
    _set_task(xllamacpp, parameters, options)
    parameters.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, scale) for path, scale in options["adapters"]
    ]
    return parameters


def _set_endpoints(parameters: Any, socket: str, slots: int) -> None:
    """Leave what the relay needs, on the socket alone."""
    parameters.hostnames = [socket]
    parameters.cors_origins = "localhost"
    parameters.ui = False
    # How full each slot is, with nothing of what is in it.
    parameters.endpoint_slots = True
    parameters.endpoint_props = False
    parameters.endpoint_metrics = False
    # Each call inside takes a thread, and one whose caller hung up keeps it until its prompt is read.
    parameters.n_threads_http = slots + _HTTP_THREADS


def _set_computing(parameters: Any, options: dict[str, Any]) -> None:
    """Set the slots, their memory, and what computes."""
    parameters.n_parallel = options["slots"]
    # Each slot has a cache of its own, so that no call can take the room of another.
    parameters.kv_unified = False
    parameters.n_ctx = options["context"] * options["slots"]
    parameters.fit_params = False
    # Nor does memory grow with the calls: prompts are kept in their slots alone.
    parameters.cache_ram_mib = 0
    parameters.cache_idle_slots = False
    parameters.n_ctx_checkpoints = _CHECKPOINTS
    parameters.n_batch = parameters.n_ubatch = options["batch"]
    for threads in (parameters.cpuparams, parameters.cpuparams_batch):
        threads.n_threads = options["threads"]
        # Threads that spin while they wait would take the cores of other workers.
        threads.poll = 0
    parameters.n_gpu_layers = _ALL_LAYERS if options["has_gpu"] else 0
    parameters.mmproj_use_gpu = options["has_gpu"]


def _set_task(xllamacpp: Any, parameters: Any, options: dict[str, Any]) -> None:
    """Set what the model does, and what helps it."""
    if options["mode"] != GENERATION:
        parameters.embedding = True
    if options["mode"] == RERANK:
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    elif options["mode"] == EMBEDDING and not options["has_pooling"]:
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if options["chat_template"] is not None:
        parameters.chat_template = options["chat_template"]
    if options["projector"] is not None:
        parameters.mmproj.path = options["projector"]
    if options["draft"] is not None:
        kind = xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE
        parameters.speculative.types = [kind]
        draft = parameters.speculative.draft
        draft.mparams.path = options["draft"]
        draft.n_gpu_layers = parameters.n_gpu_layers
        for threads in (draft.cpuparams, draft.cpuparams_batch):
            threads.n_threads = options["threads"]
            threads.poll = 0


def _is_gpu(device: dict[str, Any]) -> bool:
    return "GPU" in getattr(device["type"], "name", "")


if __name__ == "__main__":
    main()
