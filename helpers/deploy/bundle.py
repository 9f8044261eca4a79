"""A detector as a folder that needs no mmdet, for other programs, servers and machines.

::

    bundle.json            input and output, preprocessing, classes, thresholds, versions
    client.py, paste.py    detections from a picture: numpy, OpenCV, ONNX Runtime
    README.md              how to run it, how to build an engine, how to serve it
    triton/onnxruntime/    a model repository of Triton Inference Server; the ONNX file lies in it, once
    triton/tensorrt/       the same for an engine, which is built on the machine that is to run it
    model_tensorrt.onnx    where another graph was given for TensorRT
    SHA256SUMS             of all of them, as sha256sum writes and reads it
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from helpers import artifacts
from helpers.deploy import client, serving
from helpers.detector import paste
from helpers.detector.models import preprocessing_of
from helpers.errors import CourseError
from helpers.export import exporter
from helpers.graph.file import OUTPUT_NAMES, exported_with, load_onnx

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = ["MODEL_FILE", "BundleError", "make_bundle", "versions"]

NAME = "maskrcnn"
#: Where the ONNX file lies in the folder.
MODEL_FILE = f"triton/onnxruntime/{NAME}/1/model.onnx"
_PLAN_FILE = f"triton/tensorrt/{NAME}/1/model.plan"
_TENSORRT_FILE = "model_tensorrt.onnx"
_IMPORT = "from helpers.detector.paste import paste\n"
_PACKAGES = ("torch", "mmdet", "mmcv-full", "onnx", "onnxruntime", "numpy", "opencv-python-headless")


class BundleError(CourseError):
    """The folder holds something else, or the graph is none that the client can use."""


def versions() -> dict[str, str]:
    """Of the packages that decide what a graph computes, here."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def make_bundle(
    folder: Path,
    detector: BaseDetector,
    *,
    model: Path | None = None,
    tensorrt_model: Path | None = None,
    largest_batch: int = 1,
) -> Path:
    """Write the folder, whole or not at all; an earlier bundle of that name is replaced.

    detector: whose classes and thresholds are written down, and which is exported unless ``model`` is given: an export
    of it in the ``standard`` flavour with ``masks="lean"``. largest_batch: from 2 on it is exported with a dynamic
    batch, and servers may fill batches of that size. tensorrt_model: another lean graph of it for TensorRT, such as one
    of the ``mmcv`` flavour; without it TensorRT gets the same one.

    Raises:
        BundleError: the folder is there and no bundle, or a graph does not fit.
        helpers.graph.file.OnnxFileError: a graph cannot be read.
        helpers.export.exporter.ExportError: as for :func:`helpers.export.exporter.export_onnx`.
        helpers.paths.FolderError: nothing can be written where the folder is to be.
        helpers.artifacts.DiskSpaceError: the disk is full.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "bundle.json").is_file():
        raise BundleError(f"{folder} is there and is no bundle", "name a folder that does not exist")
    with artifacts.whole_folder(folder) as temporary:
        target = temporary / MODEL_FILE
        target.parent.mkdir(parents=True)
        if model is None:
            options = exporter.dynamic_options() if largest_batch > 1 else {}
            shape = (1, 3, *preprocessing_of(detector).input_shape)
            exporter.export_onnx(detector, target, masks="lean", input_shape=shape, **options)
        else:
            artifacts.write_bytes(target, _read(model))
        graph = load_onnx(target)
        _check(graph, largest_batch)
        engine_graph, engine_file = graph, MODEL_FILE
        if tensorrt_model is not None:
            engine_graph, engine_file = load_onnx(tensorrt_model), _TENSORRT_FILE
            artifacts.write_bytes(temporary / engine_file, _read(tensorrt_model))
        about = _about(graph, detector)
        texts = {
            "bundle.json": json.dumps(about, indent=1) + "\n",
            "client.py": _client(),
            "paste.py": Path(paste.__file__).read_text(),
            "README.md": _readme(about, engine_graph, engine_file, largest_batch),
        }
        for backend, one in (("onnxruntime", graph), ("tensorrt", engine_graph)):
            config = serving.triton_config(one, NAME, backend, largest_batch=largest_batch)
            texts[f"triton/{backend}/{NAME}/config.pbtxt"] = config
        for name, text in texts.items():
            artifacts.write_text(temporary / name, text)
        (temporary / _PLAN_FILE).parent.mkdir(parents=True)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        sums = [f"{artifacts.sha256_file(path)}  {path.relative_to(temporary).as_posix()}\n" for path in files]
        artifacts.write_text(temporary / "SHA256SUMS", "".join(sums))
    return folder


def _read(path: Path) -> bytes:
    load_onnx(path)
    return Path(path).read_bytes()


def _check(graph: onnx.ModelProto, largest_batch: int) -> None:
    own = sorted({node.op_type for node in graph.graph.node if node.domain not in ("", "ai.onnx")})
    if own:
        raise BundleError(f"ONNX Runtime alone has no operator {own[0]}", "bundle a graph of the standard flavour")
    if exporter.LEAN not in exported_with(graph) or tuple(o.name for o in graph.graph.output) != OUTPUT_NAMES:
        raise BundleError("the graph has no lean masks for the client to paste", "export it with masks='lean'")
    if serving.has_free_batch(graph) != (largest_batch > 1):
        kind = "free" if serving.has_free_batch(graph) else "fixed"
        raise BundleError(
            f"the graph's batch is {kind}, and the largest batch is to be {largest_batch}",
            "export with exporter.dynamic_options for batches of 2 and more, without it for 1",
        )


def _client() -> str:
    """The client's source as it works in the folder, where the pasting lies beside it."""
    source = Path(client.__file__).read_text()
    assert source.count(_IMPORT) == 1
    return source.replace(_IMPORT, "from paste import paste\n")


def _about(graph: onnx.ModelProto, detector: BaseDetector) -> dict[str, Any]:
    """What bundle.json holds."""
    rpn, rcnn, rule = detector.test_cfg.rpn, detector.test_cfg.rcnn, preprocessing_of(detector)

    def tensors(values: Any) -> dict[str, list[int | str]]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    shape = tensors(graph.graph.input)["input"]
    return {
        "format": client.FORMAT,
        "model": {
            "file": MODEL_FILE,
            "opset": next(one.version for one in graph.opset_import if one.domain in ("", "ai.onnx")),
            "inputs": tensors(graph.graph.input),
            "outputs": tensors(graph.graph.output),
            "patches": list(exported_with(graph)),
        },
        "preprocessing": {
            "input_shape": shape[2:],
            "to_rgb": rule.to_rgb,
            "mean": list(rule.mean),
            "std": list(rule.std),
            "padding": 0,
            "longest": sorted(rule.scale, reverse=True) if rule.scale and rule.keep_ratio else None,
            "stretched": None if rule.keep_ratio else rule.resized((1, 1)),
            "resize": "to stretched (height, width) if there is one; else the largest factor at which both sides fit"
            " the input, and the longer and the shorter those of longest; the aspect ratio kept, sides rounded half up,"
            " 1 pixel at least; bilinear; placed in the top left corner; normalised before it is padded",
        },
        "classes": list(detector.CLASSES),
        "thresholds": {
            "mask": rcnn.mask_thr_binary,
            "in the graph": {
                "score": rcnn.score_thr,
                "IoU of boxes": rcnn.nms.iou_threshold,
                "detections": rcnn.max_per_img,
                "IoU of proposals": rpn.nms.iou_threshold,
                "proposals": rpn.max_per_img,
            },
        },
        "versions": versions(),
    }


_README = """# {name}: a detector in a folder

Boxes, classes and masks of {count} classes. It was exported from mmdet and needs no mmdet.

    sha256sum -c SHA256SUMS                             # whether everything arrived
    pip install numpy opencv-python-headless onnxruntime
    python client.py picture.jpg --output found.npz

`bundle.json` says what is fed and what comes out. Inputs: {inputs}. Outputs: {outputs}.
`dets` are x1 y1 x2 y2 in pixels of the input and a score; rows without a detection have the score 0. `masks` are the
probabilities inside each box, which `paste.py` pastes into the picture's own pixels.

## TensorRT

Build the engine on the machine that is to run it. The options were read in the source of trtexec; **no engine of this
folder has been built yet**. Half precision: `--fp16` up to TensorRT 10, types in the graph from 11 on{half}.
{engines}
## Triton Inference Server

    tritonserver --model-repository=$PWD/triton/onnxruntime
    tritonserver --model-repository=$PWD/triton/tensorrt    # when the engine is built
{plugins}
Clients send the two inputs as `client.py` makes them (`Detector.prepare`), and paste the masks themselves. Triton's
container must hold the TensorRT that built the engine.
"""
_WITH_PLUGINS = """
The engine has plugins of `libcourse_plugins.so`, which registers nothing by being loaded. How Triton is to be given it
was not tried: the graph in `triton/onnxruntime` needs none, and neither does an engine of it from 8.6 on.
"""
_NOT_FINITE = (
    "; **this graph was not exported with the patches for half precision, and can lose detections there, with or "
    "without a NaN**"
)


def _readme(about: dict[str, Any], graph: onnx.ModelProto, file: str, largest_batch: int) -> str:
    def shapes(tensors: dict[str, list[int | str]]) -> str:
        return ", ".join(f"`{name}` {' x '.join(map(str, sizes))}" for name, sizes in tensors.items())

    engines = []
    for version in serving.TRTEXEC_VERSIONS:
        command = serving.trtexec(graph, version, file, _PLAN_FILE, largest_batch=largest_batch)
        known = "".join(f"- {remark}\n" for remark in serving.remarks(graph, version))
        engines.append(f"\nTensorRT {version}:\n\n    {command.replace(chr(10), chr(10) + '    ')}\n\n{known}")
    plugins = "--dynamicPlugins" in engines[-1]
    finite = set(exporter.HALF) <= set(exported_with(graph))
    return _README.format(
        name=NAME,
        count=len(about["classes"]),
        inputs=shapes(about["model"]["inputs"]),
        outputs=shapes(about["model"]["outputs"]),
        engines="".join(engines),
        half="" if finite else _NOT_FINITE,
        plugins=_WITH_PLUGINS if plugins else "",
    )
