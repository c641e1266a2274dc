"""What to say of files that are no model which can be served: one sentence each, with what to do.

The texts begin after the file's path. Where there are several such files, the first format here is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from runtimes.formats import Format

_NOT_SERVED = "which this release does not serve: export it to ONNX"

DAMAGED: Mapping[Format, str] = MappingProxyType(
    {
        Format.LFS_POINTER: "is a Git LFS pointer and not the file itself: run git lfs pull before kit pack",
        Format.CUT_ONNX: "is an ONNX file that is cut short: copy or export it again, then pack the kit",
        Format.CUT_SAFETENSORS: "is a safetensors file that is cut short: copy it and pack the kit again",
        Format.CUT_ZIP: "is a zip archive (as PyTorch and Keras write) that is cut short: copy or save the "
        "model again, then pack the kit",
    }
)
"""Files that are models, or stand for one, and are not whole."""

OTHERS: Mapping[Format, str] = MappingProxyType(
    {
        Format.XGBOOST_BINARY: "is a model of XGBoost in its old binary format, which newer releases cannot "
        "read: load it with XGBoost 2.1, and save_model('model.ubj')",
        Format.XGBOOST_DUMP: "is a dump of XGBoost's (dump_model), which no library can load: pack what "
        "save_model('model.ubj') writes",
        Format.LIGHTGBM_DUMP: "is a dump of LightGBM's (dump_model), which LightGBM cannot load: pack what "
        "save_model('model.txt') writes",
        Format.HDF5: "is an HDF5 file, as Keras writes to .h5, which this release does not serve: save "
        "the model as .keras, or export it as a SavedModel",
        Format.GRAPH_DEF: f"is a TensorFlow GraphDef, {_NOT_SERVED} with tf2onnx",
        Format.TFLITE: f"is a TensorFlow Lite model, {_NOT_SERVED} with tf2onnx",
        Format.SAFETENSORS: "is a safetensors file, which has weights but no program: pack the config.json "
        "and the tokenizer of a model of Hugging Face's with it, or export the model to ONNX, or save it "
        "with torch.export.save or torch.jit.save",
        Format.HTML: "is an HTML page and no model, as a failed download leaves it: download the model "
        "again, then pack the kit",
        Format.ARCHIVE: "is an archive or a compressed file and no model: unpack it before kit pack",
        Format.NUMPY: "is an array of NumPy and no model: pack the model that it belongs to",
        Format.EMPTY: "is empty, or nothing but zeros: copy or export the model again, then pack the kit",
    }
)
"""Files that are something else."""


def sentence(formats: Mapping[Path, Format], texts: Mapping[Format, str]) -> str | None:
    """Return the sentence about the first file of the first of the formats; None where there is none."""
    for format_, text in texts.items():
        for path in formats:
            if formats[path] is format_:
                return f"{path} {text}"
    return None
