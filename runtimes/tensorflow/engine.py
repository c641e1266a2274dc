"""TensorFlow in this process: imported quietly, with its threads and GPUs, and what it takes and gives."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.base import Array, Resources
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.extras import missing_library
from runtimes.signature import CPU_ADVICE

log = logging.getLogger(__name__)


def prepare(path: Path, resources: Resources) -> tuple[Any, str]:
    """Return TensorFlow, which computes with these resources, and the name of its device.

    Threads and GPUs can be set once in a process: a later model has those of the first one.

    Raises:
        LoadError: where it is not installed, or has no GPU and is to use one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        with _quiet():
            import tensorflow as tf
    except ImportError as error:
        raise missing_library(path, "TensorFlow", "tensorflow", error) from error
    gpus = tf.config.list_physical_devices("GPU")
    if resources.gpus > 0 and not gpus:
        raise LoadError(
            f"{path} is to run on a GPU, and TensorFlow {tf.__version__} finds none; install "
            f"tensorflow[and-cuda] in place of tensorflow-cpu, or {CPU_ADVICE}"
        )
    try:
        tf.config.threading.set_intra_op_parallelism_threads(resources.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        if resources.gpus > 0:
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
        else:
            tf.config.set_visible_devices([], "GPU")
    except (RuntimeError, ValueError) as error:
        log.info("TensorFlow runs already", extra={"error": str(error)})
    return tf, "cuda:0" if resources.gpus > 0 else "cpu"


def to_tensors(tf: Any, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return tensors of the inputs. Raises InputError for one that TensorFlow cannot take."""
    tensors = {}
    for name, array in inputs.items():
        try:
            tensors[name] = tf.convert_to_tensor(
                array if array.dtype.kind not in "SU" else array.astype(object)
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"input {name!r}: {error}") from error
    return tensors


def to_array(tensor: Any) -> Array:
    """Return the values of an output; strings are `bytes`."""
    values = tensor.numpy()
    return values if isinstance(values, np.ndarray) else np.array(values, dtype=object)


def run_error(error: Exception) -> ExecutionError:
    """Return the error for a run that failed, with TensorFlow's own sentence alone."""
    text = str(getattr(error, "message", "") or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    sentences = [
        line for line in lines if not line.startswith(("Detected at node", "File ", "[[", "Graph execution"))
    ]
    return ExecutionError(f"the model failed: {' '.join(sentences or lines)[:1_000]}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from standard error what libraries write there while they are loaded, unless that fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield
            except BaseException:
                file.seek(0)
                os.write(saved, file.read())
                raise
    finally:
        os.dup2(saved, 2)
        os.close(saved)
