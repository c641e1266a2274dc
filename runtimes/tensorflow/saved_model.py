"""The runtime of SavedModels, and a model of TensorFlow that has inputs and outputs by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runtimes.base import Array, Resources, Signature
from runtimes.errors import ExecutionError, LoadError
from runtimes.formats import Format, identify
from runtimes.input_check import InputCheck, unknown_output
from runtimes.tensorflow import saved_model_file
from runtimes.tensorflow.engine import prepare, run_error, to_array, to_tensors
from runtimes.tensorflow.saved_model_file import SavedModelFile
from runtimes.tensorflow.saved_model_safety import check_program


class TensorFlowRuntime:
    """Loads SavedModels of TensorFlow 2: onto a GPU where one is asked for, else the CPU."""

    name: ClassVar[str] = "tensorflow"
    formats: ClassVar[tuple[Format, ...]] = (Format.SAVED_MODEL,)

    def load(self, path: Path, resources: Resources) -> TensorFlowModel:
        """Load the directory of the `saved_model.pb` at `path`. Raises LoadError and UnsafeFormat."""
        file = self.check(path)
        tf, device = prepare(path, resources)
        try:
            root = tf.saved_model.load(str(path.parent), tags=list(file.tags))
            function = root.signatures[file.signature_name]
        except Exception as error:
            text = repr(error) if isinstance(error, KeyError) else str(error)
            raise LoadError(f"TensorFlow {tf.__version__} refuses {path}: {text[:1_000]}") from error
        # The functions of a model need its variables, which only its root holds.
        return TensorFlowModel(tf, function, file.signature, device, "tensorflow_savedmodel", root)

    def check(self, path: Path) -> SavedModelFile:
        """Return what the model declares. Raises LoadError and UnsafeFormat, without TensorFlow."""
        format_ = identify(path)
        if format_ is not Format.SAVED_MODEL:
            raise LoadError(f"{path} is no whole SavedModel but {format_.title}; export the model again")
        file = saved_model_file.read(path)
        check_program(path, file)
        saved_model_file.check_files(path, file)
        return file

    def signature(self, path: Path) -> Signature:
        """Return what the file declares. Raises LoadError."""
        return saved_model_file.read(path).signature


class TensorFlowModel:
    """A function of TensorFlow's, from tensors by name to tensors by name. Threads may share it."""

    def __init__(
        self,
        tf: Any,
        function: Callable[..., Mapping[str, Any]],
        signature: Signature,
        device: str,
        platform: str,
        root: object,
    ) -> None:
        self.signature = signature
        self.device = device
        self.platform = platform
        self._tf = tf
        self._function: Callable[..., Mapping[str, Any]] | None = function
        self._root: object = root
        self._check = InputCheck(signature)
        self._names = tuple(spec.name for spec in signature.outputs)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        self._check(inputs)
        names = outputs or self._names
        for name in names:
            if name not in self._names:
                raise unknown_output(name, self._names)
        if self._function is None:
            raise ExecutionError("the model is closed")
        tensors = to_tensors(self._tf, inputs)
        try:
            results = self._function(**tensors)
            return {name: to_array(results[name]) for name in names}
        except Exception as error:
            raise run_error(error) from error

    def close(self) -> None:
        """Free the model."""
        self._function = self._root = None
