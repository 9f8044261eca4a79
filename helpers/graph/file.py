"""An exported model's file: reading it whole, and what the exporter wrote into it."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import onnx

from helpers.errors import CourseError

__all__ = ["INPUT_NAMES", "OUTPUT_NAMES", "OnnxFileError", "exported_with", "load_onnx"]

#: The inputs of a detector's graph; one that clips to the tensor instead of to the picture has the first only.
INPUT_NAMES = ("input", "image_size")
#: The outputs of a detector's graph; one without a mask head has the first two.
OUTPUT_NAMES = ("dets", "labels", "masks")


class OnnxFileError(CourseError):
    """An ONNX file is missing, truncated, or not a model of this course."""


def exported_with(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the patches that a graph of :func:`export_onnx` was exported with, in order."""
    properties = {prop.key: prop.value for prop in model.metadata_props}
    return tuple(properties.get("course.patches", "").split())


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and check that it is whole.

    Raises:
        OnnxFileError: there is no such file, or it is truncated or not ONNX.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise OSError(errno.EINVAL, "not a regular file")
        model = onnx.load(path)
    except OSError as error:
        raise OnnxFileError(
            f"cannot read {path} ({error.strerror})", "make it with helpers.export.exporter.make_onnx"
        ) from None
    except Exception as error:
        raise OnnxFileError(f"{path} is truncated or not an ONNX file", "delete it and export again") from error
    if not model.graph.node or not model.graph.output:
        raise OnnxFileError(f"{path} is truncated or not an ONNX file", "delete it and export again")
    return model
