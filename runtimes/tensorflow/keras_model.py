"""The runtime of Keras files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from runtimes.base import Datatype, Resources, Signature, TensorSpec
from runtimes.errors import LoadError, ModelError
from runtimes.formats import Format, identify
from runtimes.tensorflow import keras_file
from runtimes.tensorflow.engine import prepare
from runtimes.tensorflow.saved_model import TensorFlowModel

_DATATYPES: Mapping[str, Datatype] = {
    "bool": Datatype.BOOL,
    "uint8": Datatype.UINT8,
    "uint16": Datatype.UINT16,
    "uint32": Datatype.UINT32,
    "uint64": Datatype.UINT64,
    "int8": Datatype.INT8,
    "int16": Datatype.INT16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
    "float16": Datatype.FP16,
    "bfloat16": Datatype.BF16,
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
    "string": Datatype.BYTES,
}


class KerasRuntime:
    """Loads `.keras` files of Keras 3 on TensorFlow: onto a GPU where one is asked for, else the CPU."""

    name: ClassVar[str] = "keras"
    formats: ClassVar[tuple[Format, ...]] = (Format.KERAS,)

    def load(self, path: Path, resources: Resources) -> TensorFlowModel:
        """Load the model, and trace it once. Raises LoadError and UnsafeFormat."""
        self.check(path)
        tf, device = prepare(path, resources)
        import keras

        if keras.backend.backend() != "tensorflow":
            raise LoadError(
                f"{path} needs Keras on TensorFlow, and it runs on {keras.backend.backend()}; set "
                "KERAS_BACKEND=tensorflow in the environment of the workers"
            )
        try:
            keras_file.check_weights(path)
            model = _load(keras, path)
            function, signature = _traced(tf, keras, model)
        except ModelError:
            raise
        except Exception as error:
            text = str(error) or repr(error)
            raise LoadError(f"Keras {keras.__version__} refuses {path}: {text[:1_000]}") from error
        return TensorFlowModel(tf, function, signature, device, "tensorflow_keras", model)

    def check(self, path: Path) -> None:
        """Check all but the weights. Raises LoadError and UnsafeFormat, without Keras."""
        format_ = identify(path)
        if format_ is not Format.KERAS:
            raise LoadError(f"{path} is no whole Keras file but {format_.title}; save the model again")
        keras_file.check(path)

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: what the outputs are is known only once Keras has made the model."""
        return


def _load(keras: Any, path: Path) -> Any:
    """Load the model. Keras reads names that end in .keras alone, so another one gets such a link."""
    if path.suffix == ".keras":
        return keras.models.load_model(path, compile=False, safe_mode=True)
    with TemporaryDirectory() as directory:
        link = Path(directory, "model.keras")
        link.symlink_to(path.resolve())
        return keras.models.load_model(link, compile=False, safe_mode=True)


def _traced(tf: Any, keras: Any, model: Any) -> tuple[Callable[..., Mapping[str, Any]], Signature]:
    """Return a function of tensors by name, and what it takes and gives.

    Inputs have their names in the model. Outputs have the keys of the dict that it gives, or are called
    `output_0` and so on, as in a SavedModel of it.
    """
    inputs = list(model.inputs)
    names = [str(tensor.name) for tensor in inputs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"its inputs have the names {names}; give each input a name of its own")
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]

    # A Sequential has one input, and says nothing of how that is packed.
    packed = inputs[0] if isinstance(model, keras.Sequential) else model.input

    def call(*tensors: Any) -> dict[str, Any]:
        result = model(tf.nest.pack_sequence_as(packed, tensors), training=False)
        if isinstance(result, dict) and all(isinstance(key, str) for key in result):
            return {key: result[key] for key in sorted(result)}
        return {f"output_{index}": tensor for index, tensor in enumerate(tf.nest.flatten(result))}

    concrete = tf.function(call, input_signature=specs, autograph=False).get_concrete_function()
    signature = Signature(
        tuple(_spec(name, spec) for name, spec in zip(names, specs, strict=True)),
        tuple(_spec(name, spec) for name, spec in concrete.structured_outputs.items()),
    )
    return lambda **tensors: concrete(*(tensors[name] for name in names)), signature


def _spec(name: str, spec: Any) -> TensorSpec:
    datatype = _DATATYPES.get(spec.dtype.name)
    if datatype is None:
        raise ValueError(f"{name!r} is of {spec.dtype.name}, which the Open Inference Protocol lacks")
    shape = None if spec.shape.rank is None else tuple(-1 if size is None else size for size in spec.shape)
    return TensorSpec(name, datatype.value, shape)
