"""What servers and TensorRT's command line tool want to be told about a detector's ONNX file, read from the file.

The options of ``trtexec`` were read in NVIDIA/TensorRT's ``samples/common/sampleOptions.cpp`` (release/8.6,
release/10.16 and release/11.1), those of Triton in its server's documentation of the model configuration. Whether a
graph needs a plugin, or breaks a version's limits, :mod:`helpers.tensorrt` says.
"""

from __future__ import annotations

import onnx

from helpers.graph.detect import batch_profile
from helpers.graph.file import INPUT_NAMES
from helpers.tensorrt import limits, operator_support

__all__ = ["TRTEXEC_VERSIONS", "remarks", "triton_config", "trtexec"]

#: The generations of TensorRT that :func:`trtexec` knows.
TRTEXEC_VERSIONS = ("8.6", "10", "11")
_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.INT64: "TYPE_INT64"}
_SUFFIX = {"onnxruntime": "onnx", "tensorrt": "plan"}


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def has_free_batch(model: onnx.ModelProto) -> bool:
    """Whether the first size of the graph's first input is a name and not a number."""
    return isinstance(_shape(model.graph.input[0])[0], str)


def triton_config(model: onnx.ModelProto, name: str, backend: str, *, largest_batch: int = 1) -> str:
    """The text of a ``config.pbtxt`` for the model ``name`` of Triton Inference Server.

    backend: "onnxruntime" or "tensorrt". A graph whose batch is free lets the server make batches of up to
    ``largest_batch``; one of a fixed batch is served as it is, its batch being part of the shapes.
    """
    free = has_free_batch(model)

    def entry(value: onnx.ValueInfoProto) -> str:
        sizes = _shape(value)[1:] if free else _shape(value)
        kind = _TYPES[value.type.tensor_type.elem_type]
        return f'  {{ name: "{value.name}" data_type: {kind} dims: [ {", ".join(map(str, sizes))} ] }}'

    lines = [f'name: "{name}"', f'backend: "{backend}"', f'default_model_filename: "model.{_SUFFIX[backend]}"']
    lines.append(f"max_batch_size: {largest_batch if free else 0}")
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        lines += [f"{kind} [", ",\n".join(map(entry, values)), "]"]
    if free:
        lines.append("dynamic_batching { max_queue_delay_microseconds: 5000 }")
    if backend == "tensorrt":
        lines.append("# A plan of TensorRT 8.6 has no 64-bit integers: its labels are TYPE_INT32.")
    return "\n".join(lines) + "\n"


def trtexec(model: onnx.ModelProto, version: str, file: str, plan: str, *, largest_batch: int = 1) -> str:
    """The command that builds an FP32 engine of the ONNX file ``file`` as ``plan`` (both relative paths).

    A plugin library is named where the version has no importer for an operator; shapes where the batch is free.

    Raises:
        helpers.tensorrt.operator_support.UnknownVersionError: no such version was read.
    """
    words = ["trtexec", f"--onnx={file}", f"--saveEngine={plan}", "--noTF32", "--skipInference"]
    if operator_support.gaps(model, version):
        words.append("--dynamicPlugins=libcourse_plugins.so")
    if has_free_batch(model):
        profile = dict(batch_profile(tuple(int(size) for size in _shape(model.graph.input[0])[1:]), largest_batch))
        shapes = [profile[name] for name in INPUT_NAMES[: len(model.graph.input)]]
        for option, which in (("minShapes", 0), ("optShapes", 1), ("maxShapes", 2)):
            sizes = ("x".join(map(str, shape[which])) for shape in shapes)
            words.append(f"--{option}=" + ",".join(map(":".join, zip(INPUT_NAMES, sizes, strict=False))))
    return " \\\n    ".join(words)


def remarks(model: onnx.ModelProto, version: str) -> list[str]:
    """What is known of this graph and that version: operators that need a plugin, limits that the graph breaks."""
    gaps = [f"{count} {name} need the plugin library" for name, count in operator_support.gaps(model, version).items()]
    return [*gaps, *(str(one) for one in limits.limits(model, version) if one.effect != "note")]
